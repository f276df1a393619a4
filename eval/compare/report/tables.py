"""Tables for the page of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ...metric import MetricDescription
from ..records import KINDS, BDRow, Record, Standing
from ..results import Results, mean_use
from ..targets import FIXED, LABELS
from .fronts import on_front
from .text import MISSING, PLURALS, MetricWords, decimals, number

ORIGINALS = "the originals"
"""Name of the row with the values of the originals."""


@dataclass
class Cell:
    """Text of a cell, and the number to sort by."""

    text: str
    value: float | None
    front: bool = False
    """Whether the value is on the Pareto front of its metric over the coded rate."""

    @property
    def sort(self) -> str:
        """The number as text for the script; "" without a number."""
        return "" if self.value is None else "1e99" if self.value == math.inf else repr(float(self.value))


def record_table(results: Results, modality: str) -> dict[str, Any]:
    """Return the sortable table of a modality."""
    records = [r for r in results.records if r.modality == modality]
    metrics = results.measured(modality)
    fronts = {name: on_front(results, records, name) for name in metrics}
    kinds = [kind for kind in reversed(KINDS) if any(r.rate(kind) is not None for r in records)]
    header = [("codec", ""), ("setting", ""), *((kind, records[0].rate_unit) for kind in kinds)]
    header += [(about.label, about.unit) for about in (results.metric(modality, name) for name in metrics)]
    header += [("tokens", records[0].tokens_unit), ("coded bits", "per token")]
    header += [("modelled bits", "per token")] if "modelled" in kinds else []
    header += [("usage", "of codebook"), ("perplexity", ""), ("idempotence", "")]
    header += [("encode", "s in all"), ("decode", "s in all")]
    rows = [
        {
            "codec": r.codec,
            "cells": _cells(r, kinds, {name: i in fronts[name] for name in metrics}),
            "why": "; ".join([*(f"{count} failed: {reason}" for reason, count in r.reasons.items()), *r.narrowed]),
            "default": r.default,
        }
        for i, r in enumerate(records)
    ]
    if known := of_originals(records, metrics):
        cells = [*[MISSING] * (1 + len(kinds)), *known, *[MISSING] * (len(header) - 2 - len(kinds) - len(metrics))]
        rows.append({"codec": ORIGINALS, "cells": [Cell(text, None) for text in cells], "why": "", "default": False})
    return {"title": PLURALS[modality], "header": header, "rows": rows, "protocol": records[0].protocol}


def of_originals(records: list[Record], metrics: list[str]) -> list[str]:
    """Return the values of the originals in the metrics that judge an output alone; [] without such a metric."""
    found = next((r.originals for r in records if r.originals), None)
    return [number(found.get(name), decimals(name)) for name in metrics] if found else []


def _cells(r: Record, kinds: list[str], fronts: dict[str, bool]) -> list[Cell]:
    """Return the cells of a record after the codec's; `fronts` has an entry for each metric."""
    per_token = [kind for kind in ("coded", "modelled") if kind == "coded" or kind in kinds]
    return [
        Cell(r.setting_text or MISSING, float(r.setting) if isinstance(r.setting, int | float) else None),
        *(plain(r.rate(kind), 4) for kind in kinds),
        *(metric_cell(r, name, front) for name, front in fronts.items()),
        plain(r.tokens.value, 0),
        *(plain(r.bits_per_token[kind].value, 2) for kind in per_token),
        _percent(mean_use(r, "usage")),
        plain(mean_use(r, "perplexity"), 0),
        _percent(r.idempotence.value),
        plain(r.time.encode, 2),
        plain(r.time.decode, 2),
    ]


def metric_cell(record: Record, name: str, front: bool) -> Cell:
    """Return the cell of a metric: mean and 95 % interval."""
    return Cell(number(record.metrics.get(name), decimals(name)), record.value(name), front)


def plain(value: float | None, decimals: int) -> Cell:
    """Return the cell of a number."""
    return Cell(MISSING if value is None else f"{value:,.{decimals}f}", value)


def _percent(value: float | None) -> Cell:
    return Cell(MISSING if value is None else f"{value * 100:.1f} %", value)


def target_rows(codec: str, records: list[Record]) -> dict[str, Any]:
    """Return the table of fixed settings and targets of a codec, with mean and 10th percentile of PSNR."""
    rows = []
    for record in records:
        fixed, cells = record.targets[FIXED], []
        for name, target in record.targets.items():
            for key in ("mean", "p10"):
                value, base = getattr(target.psnr, key), getattr(fixed.psnr, key)
                known = name != FIXED and value is not None and base is not None
                cells.append({"value": value, "gain": value - base if known else None})
        rows.append(
            {
                "setting": record.setting_text,
                "cells": cells,
                "tokens": [target.tokens for target in record.targets.values()],
                "goals": [(name, target.value) for name, target in record.targets.items() if name != FIXED],
                "missed": record.targets["psnr"].out_of_reach if "psnr" in record.targets else 0,
            }
        )
    return {"codec": codec, "labels": [LABELS[name] for name in records[0].targets], "rows": rows}


def best_table(results: Results, modality: str) -> dict[str, Any]:
    """Return the table of the best codecs, a row per band of rates and a column per metric; {} for a single codec."""
    found = [s for s in results.standings if s.modality == modality]
    if not found or len(results.codecs(modality)) < 2:
        return {}
    metrics = list(dict.fromkeys(s.metric for s in found))
    cells = {(s.center, s.metric): _best(s, results.metric(modality, s.metric)) for s in found}
    return {
        "title": PLURALS[modality],
        "unit": found[0].rate_unit,
        "labels": [results.metric(modality, name).title for name in metrics],
        "rows": [
            {"rate": f"{center:.3g}", "cells": [cells.get((center, name)) for name in metrics]}
            for center in sorted({s.center for s in found if s.center})
        ],
    }


def _best(standing: Standing, about: MetricDescription) -> dict[str, Any]:
    """Return the winners of a standing and how far they lead."""
    words, best = MetricWords(standing.metric, about), standing.best
    if len(standing.places) == 1:
        lead = "no rival"
    elif len(best) > 1:
        lead = "tie"
    else:
        lead = f"{words.gap(standing.places[1])} better than {standing.places[1].codec}"
    return {"codecs": [place.codec for place in best], "value": words.values(best[:1]), "lead": lead}


def bd_table(results: Results, modality: str) -> dict[str, Any]:
    """Return the table of BD-rates, a row per codec and a column per metric, with the reasons of empty cells."""
    rows = [r for r in results.bd_rates if r.modality == modality]
    grid: dict[str, dict[str, BDRow]] = {}
    gaps: dict[str, list[str]] = {}
    for r in rows:
        grid.setdefault(r.codec, {})[r.label] = r
        if r.percent is None:
            gaps.setdefault(f"{r.codec}: {r.reason}", []).append(r.label)
    return {
        "title": PLURALS[modality],
        "anchor": rows[0].anchor if rows else "",
        "labels": list(dict.fromkeys(r.label for r in rows if r.percent is not None)),
        "grid": grid,
        "reasons": [f"{gap} ({', '.join(names)})" for gap, names in gaps.items()],
    }


def published_tables(results: Results) -> list[dict[str, Any]]:
    """Return the tables of BD-rates against published curves, one per metric: a row per curve, a column per codec."""
    tables: dict[str, dict[str, Any]] = {}
    for r in results.reference_bd_rates:
        table = tables.setdefault(r.label, {"label": r.label, "codecs": [], "grid": {}})
        table["codecs"] += [r.codec] if r.codec not in table["codecs"] else []
        table["grid"].setdefault(r.anchor, {})[r.codec] = r
    return list(tables.values())


@dataclass
class SpeedRow:
    """Speed of one codec in signal per second. Bars are percentages of the longest bar."""

    codec: str
    speeds: dict[str, float]
    bars: dict[str, float] = field(default_factory=dict)

    def text(self, direction: str) -> str:
        """Return the speed of "encode" or "decode" as text."""
        speed = self.speeds[direction]
        return f"{speed:.3g}" if speed < 1000 else f"{speed:,.0f}"


def speed_table(results: Results, modality: str) -> dict[str, Any]:
    """Return the speed of each codec over its whole sweep, with bars on a log scale; {} without speeds."""
    records = results.of(modality)
    rows = []
    for codec in dict.fromkeys(r.codec for r in records):
        times, speeds = [r.time for r in records if r.codec == codec], {}
        for direction in ("encode", "decode"):
            seconds = math.fsum(getattr(t, direction) for t in times)
            amount = math.fsum((getattr(t, f"{direction}_speed") or 0) * getattr(t, direction) for t in times)
            speeds[direction] = amount / seconds if seconds else 0.0
        rows.append(SpeedRow(codec, speeds))
    every = [speed for row in rows for speed in row.speeds.values() if speed > 0]
    if not every:
        return {}
    low, high = math.log(min(every) / 2), math.log(max(every))
    for row in rows:
        for direction, speed in row.speeds.items():
            row.bars[direction] = round(100 * (math.log(speed) - low) / max(high - low, 1e-9), 1) if speed else 0
    return {"title": PLURALS[modality], "unit": records[0].time.speed_unit, "rows": rows}


def cost_table(results: Results, modality: str) -> list[tuple[str, str]]:
    """Return the metrics of a modality with the mean seconds that they take for an item, the slowest first."""
    total: dict[str, float] = {}
    items: dict[str, int] = {}
    for record in results.of(modality):
        for name, seconds in record.metric_seconds.items():
            total[name] = total.get(name, 0.0) + seconds * record.n
            items[name] = items.get(name, 0) + record.n
    means = {results.metric(modality, name).label: total[name] / items[name] for name in total if items[name]}
    order = sorted(means, key=lambda label: -means[label])
    return [(label, f"{means[label]:.2g}" if means[label] < 10 else f"{means[label]:.0f}") for label in order]
