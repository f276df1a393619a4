"""Results on disk: written after each codec, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from tokenloom.metrics.bd_rate import bd_rate

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
        environment: Function from the seconds so far to the record of the environment.
    """

    def __init__(self, results: Results, environment: Callable[[float], ComparisonEnvironment]) -> None:
        self.results, self.environment = results, environment
        self.start, self.next = time.perf_counter(), 0.0

    def partial(self) -> None:
        """Write results.json and results.csv, and the report unless it was written a short time ago."""
        start = time.perf_counter()
        self._write()
        if start >= self.next:
            page.write(self.results)
            end = time.perf_counter()
            self.next = end + (end - start) / SHARE

    def final(self) -> None:
        """Write all files."""
        self._write()
        plots.write(self.results)
        page.write(self.results)

    def _write(self) -> None:
        """Fill in what follows from the records, and write results.json and results.csv."""
        results = self.results
        results.environment = self.environment(round(time.perf_counter() - self.start, 1))
        modality = {r.codec: r.modality for r in results.records}
        anchors = [anchor for anchor in results.environment.anchors if anchor in modality]
        results.bd_rates = [row for anchor in anchors for row in _bd_rates(results, modality[anchor], anchor)]
        results.standings = standings(results)
        results.takeaways = takeaways(results)
        results.write()


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
