"""The comparison that the command line and `tokenloom.compare` run, and its result as an object."""

from __future__ import annotations

import html
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenloom import files, lazy
from tokenloom.codecs import display
from tokenloom.data import Source

from ..datasets import Dataset, open_dataset, open_training
from .comparison import compare
from .entries import CodecSource
from .modelled import ModelledRate
from .records import BDRow, Record
from .results import Results, columns

pandas = lazy.load("pandas", "frame")

ROWS = 60
"""Most records that a notebook shows."""


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        results: Everything that was measured; its `folder` holds the files.
    """

    results: Results

    @property
    def folder(self) -> Path:
        """Folder of results.json, results.csv, plots and report.html."""
        return self.results.folder

    @property
    def records(self) -> list[Record]:
        """One record per codec and setting, with every rate, metric, spread and time."""
        return self.results.records

    @property
    def summary(self) -> list[str]:
        """The main findings as sentences."""
        return self.results.takeaways

    @property
    def bd_rates(self) -> list[BDRow]:
        """BD-rates of the codecs against the anchor of their modality, in every metric."""
        return self.results.bd_rates

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the comparison early."""
        return self.results.interrupted

    def frame(self) -> Any:
        """Return the records as a pandas DataFrame with the columns of results.csv. Needs `pandas`."""
        return pandas.DataFrame([columns(record) for record in self.records])

    def save(self, folder: str | Path) -> Path:
        """Copy all files of the comparison to a folder, and return it.

        Raises:
            ValueError: If the folder holds other files.
            OSError: If it cannot be written.
        """
        target = Path(folder).expanduser()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"{target} must be a new or an empty folder")
        with files.naming(target):
            shutil.copytree(self.folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        return target

    def report(self, path: str | Path | None = None) -> Path:
        """Return the path of the report, a single HTML file; with `path`, that of a copy there."""
        if path is None:
            return self.results.report
        target = Path(path).expanduser()
        files.write(target, self.results.report.read_bytes())
        return target

    def __repr__(self) -> str:
        codecs = list(dict.fromkeys(record.codec for record in self.records))
        shown = ", ".join(codecs[:4]) + (f" and {len(codecs) - 4} more" if len(codecs) > 4 else "")
        ended = ", interrupted" if self.interrupted else ""
        return f"Comparison({shown}: {len(self.records)} settings on {self.results.title}{ended})"

    def _repr_html_(self) -> str:
        found = "".join(f"<li>{html.escape(line)}</li>" for line in self.summary)
        tables = (self._table(modality) for modality in self.results.modalities())
        return f"<div><code>{html.escape(repr(self))}</code><ul>{found}</ul>{''.join(tables)}</div>"

    def _table(self, modality: str) -> str:
        names, records = self.results.measured(modality), self.results.of(modality)
        unit = records[0].rate_unit
        heads = [self.results.metric(modality, name).title for name in names]
        rows = [
            (r.codec, r.setting_text, _number(r.rate("coded")), *(_number(r.value(name)) for name in names))
            for r in records[:ROWS]
        ]
        more = f", the first {ROWS} of {len(records)} settings" if len(records) > ROWS else ""
        return display.table_html(("codec", "setting", f"coded {unit}", *heads), rows, f"{modality}{more}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


@contextmanager
def folder_of(out: Any) -> Iterator[Path]:
    """Yield `out` as a path; for None a temporary folder, which is removed if the block fails."""
    if out is not None:
        yield Path(out).expanduser()
        return
    folder = Path(tempfile.mkdtemp(prefix="tokenloom-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def run(
    names: Sequence[CodecSource], data: Mapping[str, Any] | Source, out: str | Path, *,
    modelled: bool, training: Mapping[str, Any] | None, budget: int, temporary: bool = False, **options: Any,
) -> Comparison:  # fmt: skip
    """Compare codecs on the data of a `data` group, or on a source.

    Args:
        names: As for `compare`.
        data: The data.
        out: Folder for the results.
        modelled: Whether to measure the bits under a small transformer.
        training: Data that it learns from; None: the items of `data` that are not evaluated.
        budget: Number of tokens of each of these trainings.
        temporary: Whether `out` is removed together with the result.
        **options: Options of `compare`.

    Raises:
        ValueError, FileNotFoundError: As `compare` does.
    """
    chosen = Dataset(data, data.name or "data", strict=False) if isinstance(data, Source) else open_dataset(data)
    learner = modelled_rate(modelled, training, budget)
    results = compare(
        names, chosen.source, out, title=chosen.title, strict=chosen.strict, modelled=learner, **options
    )  # fmt: skip
    if temporary:
        weakref.finalize(results, shutil.rmtree, out, ignore_errors=True)
    return Comparison(results)


def modelled_rate(modelled: bool, training: Mapping[str, Any] | None, budget: int) -> ModelledRate | None:
    """Return the options of the modelled rate; None if it is not measured."""
    if not modelled:
        if training is not None:
            raise ValueError("training is the data of the modelled rate: add modelled=true")
        return None
    found = open_training(training)
    if found is None:
        return ModelledRate(tokens=budget)
    found.source.name = found.title
    return ModelledRate(found.source, budget, found.strict)
