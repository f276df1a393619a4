"""The files of evaluations. Those of several kinds may share a folder, in which the last one writes the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenloom.files import FileSet

REPORT, RECORDS = "report.html", ".hydra/*"
COMPARISON = FileSet("comparison", (
    REPORT, "results.json", "results.csv", RECORDS, "plots/image-*", "plots/audio-*", "plots/targets-*",
    "exhibits/[0-9]*", "compressai/*.json",
))  # fmt: skip
OMNI = FileSet("omni", (REPORT, "omni.json", "omni.csv", RECORDS, "exhibits/omni-*"))
DECODER = FileSet("decoder", (
    REPORT, "decoder.json", "decoder.csv", RECORDS, "plots/tokens.*", "exhibits/decoder*",
))  # fmt: skip


def settle(folder: Path) -> None:
    """Complete what a kill has cut short in the folder of an evaluation."""
    for kind in (COMPARISON, OMNI, DECODER):
        kind.settle(folder)


@contextmanager
def replacing(kind: FileSet, folder: Path) -> Iterator[Path]:
    """Yield an empty folder for the files of an evaluation. At the end they replace those of an earlier one."""
    settle(folder)
    with kind.replacing(folder) as new:
        yield new
