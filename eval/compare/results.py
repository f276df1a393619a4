"""Results of a comparison: results.json and results.csv."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenloom import files
from tokenloom.errors import first_line
from tokenloom.metrics.bd_rate import Point

from ..gallery.records import Exhibit
from ..metric import MetricDescription, ProtocolDescription, Summary
from ..serialize import from_json, from_plain, to_csv, to_json, to_plain
from .records import KINDS, BDRow, ComparisonEnvironment, Record, ReferenceCurve, Standing

JSON, CSV = "results.json", "results.csv"
LARGEST = 1 << 28
"""Largest results.json that is read, in bytes."""


@dataclass
class Results:
    """All results of a comparison. `folder` is where they are written."""

    folder: Path
    title: str
    records: list[Record] = field(default_factory=list)
    """One record per codec and setting."""
    protocols: dict[str, ProtocolDescription] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Metric → reason why it is missing."""
    bd_rates: list[BDRow] = field(default_factory=list)
    references: list[ReferenceCurve] = field(default_factory=list)
    """Published curves beside those of the records. They enter neither tables nor standings."""
    reference_bd_rates: list[BDRow] = field(default_factory=list)
    """BD-rates of the codecs against these curves; `anchor` is the name of the curve."""
    standings: list[Standing] = field(default_factory=list)
    """The best codecs of each metric in each band of rates."""
    exhibits: list[Exhibit] = field(default_factory=list)
    takeaways: list[str] = field(default_factory=list)
    environment: ComparisonEnvironment = field(default_factory=lambda: ComparisonEnvironment(seed=0, seconds=0.0))
    seen: int = 0
    """Number of items that went through all codecs."""
    skipped: int = 0
    """Number of broken items that were left out."""
    interrupted: bool = False
    pending: list[str] = field(default_factory=list)
    """Codecs that are not measured yet. Results with pending codecs are partial."""

    @property
    def status(self) -> str:
        """What is missing; "" for a complete comparison."""
        if not (self.interrupted or self.pending):
            return ""
        rest = f", {', '.join(self.pending)} not measured yet" if self.pending else ""
        return f"partial results{' (interrupted)' if self.interrupted else ''}{rest}"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def modalities(self) -> list[str]:
        """Return the modalities that have records with items."""
        return list(dict.fromkeys(r.modality for r in self.records if r.n))

    def of(self, modality: str) -> list[Record]:
        """Return the records of a modality with at least one item."""
        return [r for r in self.records if r.modality == modality and r.n]

    def codecs(self, modality: str) -> list[str]:
        """Return the codecs of a modality with at least one item."""
        return list(dict.fromkeys(r.codec for r in self.of(modality)))

    def metric(self, modality: str, name: str) -> MetricDescription:
        """Return the description of a metric in the protocol of a modality."""
        protocol = next(r.protocol for r in self.records if r.modality == modality)
        return self.protocols[protocol].metrics[name]

    def measured(self, modality: str) -> list[str]:
        """Return the metrics that have a value in some record, in the order of the protocol."""
        records = self.of(modality)
        names = dict.fromkeys(name for r in records for name in r.metrics)
        return [name for name in names if any(r.value(name) is not None for r in records)]

    def curve(self, modality: str, codec: str, metric: str) -> list[Point]:
        """Return a codec's points (coded rate, quality). Quality is negated if a lower value is better."""
        sign = 1 if self.metric(modality, metric).better == "higher" else -1
        points = []
        for record in self.of(modality):
            rate, value = record.rate(), record.value(metric)
            if record.codec == codec and rate and value is not None:
                points.append((rate, sign * value))
        return points

    def with_targets(self) -> dict[str, list[Record]]:
        """Return codec → records, for codecs that were measured with targets."""
        records = [r for r in self.records if r.targets]
        return {codec: [r for r in records if r.codec == codec] for codec in dict.fromkeys(r.codec for r in records)}

    def write(self) -> None:
        """Write results.json and results.csv atomically."""
        plain = to_plain(self)
        plain.pop("folder")
        table = to_csv([columns(record) for record in self.records])
        files.write_together({self.folder / JSON: to_json(plain), self.folder / CSV: table})

    @classmethod
    def read(cls, source: str | Path) -> Results:
        """Read the results in a folder, or in a file such as results.json, which can be a stranger's.

        Raises:
            FileNotFoundError: If the folder has no results.json, or there is no such file.
            ValueError: If the file is damaged, or larger than LARGEST.
        """
        given = Path(source)
        path = given / JSON if given.is_dir() else given
        if not path.is_file():
            raise FileNotFoundError(f"{source} has no {JSON}" if given.is_dir() else f"there is no file {source}")
        try:
            plain = from_json(path, LARGEST)
            if not isinstance(plain, dict):
                raise ValueError("it must hold an object")
            return from_plain(cls, {**plain, "folder": path.parent})
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def columns(record: Record) -> dict[str, Any]:
    """Return a record as one flat row of results.csv."""
    keys = ("codec", "modality", "set", "setting_name", "setting", "learned", "license", "n", "failed", "rate_unit")
    row = {key: getattr(record, key) for key in keys}
    for kind in KINDS:
        row |= _spread(kind, record.rates[kind])
    row |= _spread("tokens", record.tokens) | {"tokens_unit": record.tokens_unit}
    for kind in KINDS:
        row[f"bits_per_token_{kind}"] = record.bits_per_token[kind].value
    row["protocol"] = record.protocol
    for name, summary in record.metrics.items():
        row |= _spread(name, summary) | {f"{name}_n": summary.n, f"{name}_failed": summary.failed}
    row |= {f"{name}_of_originals": summary.value for name, summary in record.originals.items()}
    row |= {"usage": mean_use(record, "usage"), "perplexity": mean_use(record, "perplexity")}
    row["idempotence"] = record.idempotence.value
    for name, target in record.targets.items():
        key = f"target_{name}"
        row |= {f"{key}_value": target.value, f"{key}_tokens": target.tokens}
        row |= _spread(f"{key}_psnr", target.psnr) | {f"{key}_psnr_p10": target.psnr.p10}
    return row | {f"time_{key}": value for key, value in asdict(record.time).items()}


def mean_use(record: Record, name: str) -> float | None:
    """Return the mean of "usage" or "perplexity" over the quantizers that have tokens."""
    values = [value for use in record.codebooks if (value := getattr(use, name)) is not None]
    return math.fsum(values) / len(values) if values else None


def _spread(name: str, summary: Summary) -> dict[str, Any]:
    return {name: summary.value, f"{name}_std": summary.std, f"{name}_ci95": summary.ci95}
