"""Where figures are kept: records, one a codec, setting and set, as JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("nominal", "entropy", "coded", "modelled")


@dataclass
class Results:
    """All that a comparison found; everything in it is plain values.

    records      one a codec, setting and modality; see `columns` for what is in it
    protocols    name → the settings of every metric
    bd_rates     one a codec and metric, against the anchor of its modality
    exhibits     pictures and sounds at equal rates; files are relative to `folder`
    seen         items that went through all codecs; skipped: broken ones that were left out
    """

    folder: Path
    title: str
    records: list[dict[str, Any]] = field(default_factory=list)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    bd_rates: list[dict[str, Any]] = field(default_factory=list)
    exhibits: list[dict[str, Any]] = field(default_factory=list)
    takeaways: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    skipped: int = 0
    interrupted: bool = False

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def of(self, modality: str) -> list[dict[str, Any]]:
        """The records of one modality that hold figures."""
        return [r for r in self.records if r["modality"] == modality and r["n"]]

    def write(self) -> None:
        """results.json and results.csv in `folder`, each replaced at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plain = {k: v for k, v in vars(self).items() if k != "folder"}
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        _replace(self.folder / "results.json", text + "\n")
        rows = [columns(record) for record in self.records]
        names = list(dict.fromkeys(name for row in rows for name in row))
        temporary = self.folder / "results.csv.part"
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.folder / "results.csv")

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """What `write` wrote."""
        path = Path(folder) / "results.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no results.json")
        return cls(Path(folder), **json.loads(path.read_text(encoding="utf-8")))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def shown(summary: dict[str, Any] | None) -> float | None:
    """The figure of a summary: its mean; inf where every item was perfect; None where there is none."""
    if not summary:
        return None
    return math.inf if summary["mean"] is None and summary["perfect"] else summary["mean"]


def columns(record: dict[str, Any]) -> dict[str, Any]:
    """A record as one flat row of results.csv."""
    keys = ("codec", "modality", "set", "setting_name", "setting", "learned", "n", "failed", "rate_unit")
    row = {key: record[key] for key in keys}
    for kind in KINDS:
        row |= _spread(kind, record["rates"][kind])
    row |= _spread("tokens", record["tokens"]) | {"tokens_unit": record["tokens_unit"]}
    for kind in KINDS:
        row[f"bits_per_token_{kind}"] = shown(record["bits_per_token"][kind])
    row["protocol"] = record["protocol"]
    for name, summary in record["metrics"].items():
        row |= _spread(name, summary) | {f"{name}_n": summary["n"], f"{name}_failed": summary["failed"]}
    used = [q for q in record["codebooks"] if q["usage"] is not None]
    row["usage"] = math.fsum(q["usage"] for q in used) / len(used) if used else None
    row["perplexity"] = math.fsum(q["perplexity"] for q in used) / len(used) if used else None
    row["idempotence"] = shown(record["idempotence"])
    for name, found in record["targets"].items():
        key = f"target_{name}"
        row |= {f"{key}_value": found["value"], f"{key}_tokens": found["tokens"]}
        row |= _spread(f"{key}_psnr", found["psnr"]) | {f"{key}_psnr_p10": found["psnr"]["p10"]}
    return row | {f"time_{key}": value for key, value in record["time"].items()}


def _spread(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    return {name: shown(summary), f"{name}_std": summary["std"], f"{name}_ci95": summary["ci95"]}
