"""Results on disk: written after each codec, and at the end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tokenloom.metrics.bd_rate import bd_rate

from .. import filesets
from .published import beside, layout
from .records import BDRow, ComparisonEnvironment
from .report import page, plots
from .report.standings import standings
from .report.takeaways import takeaways
from .results import Results

SHARE = 0.1
"""Largest share of the time that partial reports take."""


class Publisher:
    """Writes the results of a comparison.

    Args:
        results: The results, to which records are added.
        media: Folder whose exhibits/ are published at the end.
        environment: Function from the seconds so far to the record of the environment.
        export: Whether the final files include the curves in the layout of CompressAI.
    """

    def __init__(
        self, results: Results, media: Path, environment: Callable[[float], ComparisonEnvironment],
        export: bool = False,
    ) -> None:  # fmt: skip
        self.results, self.media, self.environment, self.export = results, media, environment, export
        self.start, self.next = time.perf_counter(), 0.0
        filesets.settle(results.folder)
        self.complete = _is_complete(results.folder)

    def partial(self) -> None:
        """Write tables and report, unless that was done a short time ago or would replace a complete comparison."""
        start = time.perf_counter()
        if start < self.next or self.complete:
            return
        self._fill()
        with filesets.replacing(filesets.COMPARISON, self.results.folder) as folder:
            new = replace(self.results, folder=folder)
            new.write()
            page.write(new)
        end = time.perf_counter()
        self.next = end + (end - start) / SHARE

    def final(self) -> None:
        """Write all files."""
        self._fill()
        with filesets.replacing(filesets.COMPARISON, self.results.folder) as folder:
            new = replace(self.results, folder=folder)
            if (self.media / "exhibits").is_dir():
                finished = shutil.ignore_patterns(".*")  # a kill leaves temporary files
                shutil.copytree(self.media / "exhibits", folder / "exhibits", ignore=finished, copy_function=_link)
            new.write()
            plots.write(new)
            page.write(new)
            if self.export:
                layout.write(new, folder)

    def _fill(self) -> None:
        """Fill in what follows from the records."""
        results = self.results
        results.environment = self.environment(round(time.perf_counter() - self.start, 1))
        modality = {r.codec: r.modality for r in results.records}
        anchors = [anchor for anchor in results.environment.anchors if anchor in modality]
        results.bd_rates = [row for anchor in anchors for row in _bd_rates(results, modality[anchor], anchor)]
        results.reference_bd_rates = beside.rates(results)
        results.standings = standings(results)
        results.takeaways = takeaways(results)


def _is_complete(folder: Path) -> bool:
    """Return whether a folder holds the results of a complete comparison."""
    try:
        return not Results.read(folder).status
    except (OSError, ValueError):  # none, or of another version
        return False


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it on a disk without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _bd_rates(results: Results, modality: str, anchor: str) -> list[BDRow]:
    """Return the BD-rates of all other codecs of a modality, in every metric with a curve of the anchor."""
    rows, records = [], results.of(modality)
    codecs = [codec for codec in results.codecs(modality) if codec != anchor]
    for metric in dict.fromkeys(name for r in records for name in r.metrics):
        base = results.curve(modality, anchor, metric)
        for codec in codecs if base else ():
            percent = overlap = reason = None
            try:
                percent, overlap = bd_rate(base, results.curve(modality, codec, metric))
            except ValueError as error:
                reason = str(error)
            rows.append(BDRow(modality=modality, anchor=anchor, codec=codec, metric=metric,
                              label=results.metric(modality, metric).label, percent=percent, overlap=overlap,
                              reason=reason))  # fmt: skip
    return rows
