"""Tables for the page of a board."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..compare.records import Record
from ..compare.report.tables import Cell, metric_cell, plain
from ..compare.report.text import MISSING, MetricWords
from ..metric import MetricDescription
from .merging import MergedSet
from .records import BoardRow, BoardRun, BoardSet, Recommendation

UNSTATED = "none stated"
"""Text of a license that a codec does not state. Classical codecs have no weights to license."""


def set_table(board_set: BoardSet, merged: MergedSet, runs: Sequence[BoardRun]) -> dict[str, Any]:
    """Return the sortable table of a set, with what its filters need."""
    results, rows = merged.results, board_set.rows
    learnable = any(row.learnability for row in rows)
    header = [("codec", ""), ("setting", ""), ("coded rate", board_set.rate_unit)]
    header += [(about.label, about.unit) for about in (results.metric(merged.modality, m) for m in board_set.metrics)]
    header += [("coded bits", "per token")] + ([("learnability", "modelled / nominal")] if learnable else [])
    unit = next((row.speed_unit for row in rows if row.speed_unit), "")
    header += [("encode", unit), ("decode", unit), ("measured on", ""), ("license", "of weights")]
    return {
        "header": header,
        "rows": [
            {
                "codec": row.codec,
                "kind": "learned" if row.learned else "classical",
                "license": row.license or UNSTATED,
                "rate": record.rate(),
                "cells": [
                    Cell(record.setting_text or MISSING, float(row.setting) if _is_number(row.setting) else None),
                    plain(record.rate(), 3),
                    *(metric_cell(record, name, name in row.front) for name in board_set.metrics),
                    plain(record.bits_per_token["coded"].value, 2),
                    *([_learnability(row)] if learnable else []),
                    _speed(row.encode_speed),
                    _speed(row.decode_speed),
                ],
                "place": row.device or runs[row.run].machine,
                "run": row.run,
            }
            for row, record in zip(rows, merged.records, strict=True)
        ],
        "licenses": sorted({row.license or UNSTATED for row in rows}, key=lambda name: (name == UNSTATED, name)),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _speed(speed: float | None) -> Cell:
    return Cell(MISSING if speed is None else f"{speed:.3g}" if speed < 1000 else f"{speed:,.0f}", speed)


def _learnability(row: BoardRow) -> Cell:
    """Return the modelled rate as a share of the nominal one, and of the entropy where that was measured."""
    nominal, entropy = (row.learnability.get(kind) for kind in ("nominal", "entropy"))
    text = MISSING if nominal is None else f"{nominal:.0%}"
    return Cell(text + (f" ({entropy:.0%} of the entropy)" if entropy is not None else ""), nominal)


def learnability(record: Record) -> dict[str, float]:
    """Return the modelled rate as a share of the nominal rate and of the entropy, where they were measured."""
    modelled = record.rate("modelled")
    shares = {kind: record.rate(kind) for kind in ("nominal", "entropy")}
    return {} if modelled is None else {kind: modelled / rate for kind, rate in shares.items() if rate}


def take_table(found: Iterable[Recommendation], metrics: Mapping[str, MetricDescription], unit: str) -> dict[str, Any]:
    """Return the table of recommendations, a row for each metric and a column for each limit; {} without any."""
    cells = {(r.metric, r.limit): _take(r, metrics[r.metric], unit) for r in found}
    limits = sorted({limit for _, limit in cells})
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [
        {
            "label": metrics[name].label,
            "better": f"{metrics[name].better} is better",
            "cells": [cells[name, limit] for limit in limits],
        }
        for name in names
    ]
    return {"limits": [f"≤ {limit:g} {unit}" for limit in limits], "rows": rows} if rows else {}


def _take(found: Recommendation, about: MetricDescription, unit: str) -> dict[str, Any]:
    """Return the codecs to take, and how far they lead."""
    words, best = MetricWords(found.metric, about), found.best
    names = [
        {"codec": pick.codec, "at": f"{pick.setting + ', ' if pick.setting else ''}{pick.rate:.3g} {unit}"}
        for pick in best
    ]
    if not best:
        lead = "no codec has a setting at this rate"
    elif best[0].value == math.inf:
        lead = "lossless"
    elif len(found.picks) == 1:
        lead = f"{words.values(best)}, no rival"
    elif len(best) > 1:
        lead = f"{words.values(best)}: a tie, no difference to {best[0].codec} exceeds its 95 % interval"
    else:
        lead = f"{words.values(best)}, {words.gap(found.picks[1])} better than {found.picks[1].codec}"
    return {"codecs": names, "lead": lead}
