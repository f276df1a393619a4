"""Targets against a fixed setting at equal mean tokens: what it brings to give each picture its own number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokenloom.codecs.targets import Curve
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.models.diffusion.codec import DiffusionCodec

from ..metric import Series
from ..trial import to_codec
from .entries import Contestant
from .figures import one_line
from .results import Results

TARGETS = ("psnr", "slope")
LABELS = {"fixed": "fixed tokens", "psnr": "equal PSNR", "slope": "equal slope"}
DEFINITION = {
    "fixed": "every picture gets the setting; tokens are the set's mean",
    "equal PSNR": (
        "Target(psnr) at the largest value whose mean tokens are not above the fixed setting's; "
        "a picture that cannot reach it is coded at its best, and counted"
    ),
    "equal slope": "Target(slope) at the smallest value, in dB per token, whose mean tokens are not above",
    "10th percentile": "PSNR that nine of ten pictures exceed, linear between order statistics",
}
STEPS = 40
"""Halvings of a target's range."""


def check(targets: Sequence[str] | None) -> tuple[str, ...] | None:
    """The `targets` argument of `compare`; None where codecs decide."""
    if targets is None:
        return None
    names = list(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    for name in names:
        if name not in TARGETS:
            raise ValueError(f"targets {name!r} is none of {', '.join(TARGETS)}")
    return tuple(dict.fromkeys(names))


def wanted(contestant: Contestant, targets: tuple[str, ...] | None) -> tuple[str, ...]:
    """Targets to show for a codec: those asked for, else all where the number of tokens is its point.

    None with a decoder behind it: targets are met by the codec alone, which has its own row.
    """
    codec = contestant.codec
    if isinstance(codec, DiffusionCodec) or codec.spec.modality is not Modality.IMAGE or len(codec.settings) < 2:
        return ()
    if targets is None:
        return TARGETS if codec.spec.ordered and not codec.spec.stride else ()
    return targets


def stem(codec: str) -> str:
    """Name of a codec's plot under plots/, without its suffix."""
    return "targets-" + re.sub(r"[^A-Za-z0-9]+", "-", codec).strip("-")


def tried(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Codec → its records, where it was tried with targets and has figures."""
    records = [r for r in results.records if r["targets"]]
    return {codec: [r for r in records if r["codec"] == codec] for codec in dict.fromkeys(r["codec"] for r in records)}


def row(record: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of a record: a cell for mean and 10th percentile of every way, with its gain on the first."""
    found, cells = record["targets"], []
    for name, way in found.items():
        for figure in ("mean", "p10"):
            value, base = way["psnr"][figure], found["fixed"]["psnr"][figure]
            known = name != "fixed" and value is not None and base is not None
            cells.append({"value": value, "gain": value - base if known else None})
    return {
        "setting": f"{record['setting_name']} {record['setting']}",
        "cells": cells,
        "tokens": [way["tokens"] for way in found.values()],
        "goals": [(name, way["value"]) for name, way in found.items() if name != "fixed"],
        "missed": found.get("psnr", {}).get("out_of_reach", 0),
    }


class Adaptive:
    """Gathers one codec's curves over a set, then finds the targets that spend what fixed settings spend."""

    def __init__(self, contestant: Contestant, targets: tuple[str, ...]) -> None:
        self.contestant, self.targets = contestant, targets
        self.curves: list[Curve] = []
        self.failures = Series()

    def attempt(self, item: Item) -> Curve | str:
        """The item's curve, or why there is none."""
        try:
            codec = self.contestant.fitted(item)
            return replace(codec.curve(to_codec(item, codec)), codes=None)
        except Exception as error:  # whatever a third party's codec raises is its failure on this item
            return one_line(error)

    def add(self, outcome: Curve | str) -> None:
        if isinstance(outcome, str):
            self.failures.fail(outcome)
        else:
            self.curves.append(outcome)

    def at(self, setting: Any) -> dict[str, dict[str, Any]]:
        """What every picture gets at a fixed setting, and under each target at no more mean tokens.

        Name → value of the target, mean tokens, summary of the PSNR with its 10th percentile, and the
        number of pictures out of reach.
        """
        if not self.curves:
            return {}
        place = self.contestant.codec.settings.values.index(setting)
        places = [place] * len(self.curves)
        found = {"fixed": self._summary(setting, places)}
        most = found["fixed"]["tokens"]
        for name in self.targets:
            found[name] = (self._equal_psnr if name == "psnr" else self._equal_slope)(most)
        return found

    def _equal_psnr(self, most: float) -> dict[str, Any]:
        figures = [figure for curve in self.curves for figure in curve.psnr if math.isfinite(figure)]

        def places(value: float) -> list[int]:
            found = [curve.cheapest(value) for curve in self.curves]
            return [c.cheapest(max(c.psnr)) if p is None else p for p, c in zip(found, self.curves, strict=True)]

        value = self._within(most, places, min(figures, default=0.0), max(figures, default=1.0))
        missed = sum(curve.cheapest(value) is None for curve in self.curves)
        return self._summary(value, places(value)) | {"out_of_reach": missed}

    def _equal_slope(self, most: float) -> dict[str, Any]:
        """Bisects the logarithm of the slope, from 1000 dB a token down to 1e-9."""

        def places(value: float) -> list[int]:
            return [curve.steepest(10**-value) for curve in self.curves]

        value = self._within(most, places, -3.0, 9.0)
        return self._summary(10**-value, places(value))

    def _within(self, most: float, places: Callable[[float], list[int]], low: float, high: float) -> float:
        """The largest value between two whose mean tokens are not above `most`; `low` where none is."""
        if self._tokens(places(high)) <= most:
            return high
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._tokens(places(middle)) <= most else (low, middle)
        return low

    def _tokens(self, places: list[int]) -> float:
        return math.fsum(c.tokens[p] for c, p in zip(self.curves, places, strict=True)) / len(places)

    def _summary(self, value: Any, places: list[int]) -> dict[str, Any]:
        series = Series()
        for curve, place in zip(self.curves, places, strict=True):
            series.add(curve.psnr[place])
        tenth = float(np.quantile(np.array(series.values, dtype=float), 0.1))
        summary = series.summary() | {"p10": tenth if math.isfinite(tenth) else None}
        return {"value": value, "tokens": self._tokens(places), "psnr": summary}
