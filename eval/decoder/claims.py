"""Claims about a diffusion decoder at its usual number of steps: goals, results, and whether they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..classifiers.labels import SPACE
from ..classifiers.realfake import ClassifierAccuracy
from . import controls, speed
from .records import Claim, DecoderResults, QuarterComparison, RealismRecord
from .setup import nearest_quarter
from .variants import BASELINES, FLOW_STEPS, PLAIN, diffusion

LOSS = controls.LOSS
MAX_INCREASE = 0.10
"""Largest relative increase of a measure from many steps to few."""
SECONDS = 0.15
"""Longest time of decoding a small image."""


def claims(results: DecoderResults) -> list[Claim]:
    """Return all claims that apply to the results."""
    if not results.records:
        return []
    found = [_smaller_distance(results, space) for space in (SPACE, results.space)]
    found += [_nearer_to_chance(results), _loss(results)]
    found += [_quarter(results), *_few_steps(results), _speed(results)]
    return [claim for claim in found if claim]


def _coverage(settings: Sequence[Any], reached: Sequence[Any]) -> str:
    """Return a text with the number of settings at which a goal is reached, and the other settings."""
    missing = [str(s) for s in settings if s not in reached]
    if settings == [None]:
        return "yes" if reached else "no"
    exceptions = f", not at {', '.join(missing)}" if missing and reached else ""
    return f"at {len(reached)} of {len(settings)} settings{exceptions}"


# -- against plain and the controls ----------------------------------------------------------------


def _below_baselines(results: DecoderResults, value: Callable[[RealismRecord], float | None]) -> list[Any] | None:
    """Return the settings at which the value is below that of every baseline; None if a value is missing."""
    settings = []
    for setting in results.measured_settings:
        values = {record.variant: value(record) for record in results.records if record.setting == setting}
        names = (diffusion(results.usual), *BASELINES)
        known = [v for name in names if (v := values.get(name)) is not None]
        if len(known) < len(names):
            return None
        if known[0] < min(known[1:]):
            settings.append(setting)
    return settings


def _smaller_distance(results: DecoderResults, space: str) -> Claim | None:
    settings, usual = results.measured_settings, diffusion(results.usual)
    value = partial(RealismRecord.kid_value, space=space)
    if any(value(results.record(s, usual)) is None for s in settings):
        return None
    claim = Claim(f"KID in {space}, {usual}", "smaller than plain and both controls",
                  "not measured for the controls", None)  # fmt: skip
    smaller = _below_baselines(results, value)
    if smaller is not None:
        below = {s: results.record(s, usual).kid[space].below or {} for s in smaller}
        certain = [s for s in smaller if all(below[s].get(name, False) for name in BASELINES)]
        claim.found = f"{_coverage(settings, smaller)}; beyond chance (95 %): {_coverage(settings, certain)}"
        claim.reached = len(smaller) == len(settings)
    return claim


def _nearer_to_chance(results: DecoderResults) -> Claim:
    settings, usual = results.measured_settings, diffusion(results.usual)
    claim = Claim(f"Real or decoded, {usual}", "nearer to chance than plain and both controls", "not measured", None)
    nearer = _below_baselines(results, lambda record: record.accuracy and record.accuracy.from_chance)
    if nearer is not None:
        claim.found, claim.reached = _coverage(settings, nearer), len(nearer) == len(settings)
    return claim


def _loss(results: DecoderResults) -> Claim:
    settings, usual = results.measured_settings, diffusion(results.usual)
    measure = "mel PSNR" if results.modality == "audio" else "PSNR"
    means = {s: results.record(s, usual).against_plain.mean for s in settings}
    losses = {s: -mean for s, mean in means.items() if mean is not None}
    small = [s for s in losses if losses[s] <= LOSS]
    largest = f"; {max(losses.values()):+.2f} dB at most" if losses else ""
    return Claim(f"Loss of {measure}, {usual}", f"≤ {LOSS:g} dB against plain", _coverage(settings, small) + largest,
                 len(small) == len(settings))  # fmt: skip


# -- a quarter of the tokens -----------------------------------------------------------------------


def quarter(results: DecoderResults) -> QuarterComparison | None:
    """Compare diffusion from a quarter of the tokens with plain from all; None for codecs of fixed length."""
    highest = results.highest
    if highest is None:
        return None
    settings = sorted(results.measured_settings)
    low = nearest_quarter(settings, highest)
    if highest not in settings or low is None:
        needed = f"{results.setting_name} {highest} and about {highest / 4:g}"
        return QuarterComparison(highest, low, [], f"needs {needed}; the measured settings are {settings}")
    records = [results.record(highest, PLAIN), *(results.record(low, diffusion(n)) for n in results.steps)]
    rows = [RealismRecord(r.setting, r.variant, r.steps, r.tokens, r.kid, r.accuracy) for r in records]
    return QuarterComparison(highest, low, rows)


def _quarter(results: DecoderResults) -> Claim | None:
    comparison = quarter(results)
    if comparison is None:
        return None
    name, usual = results.setting_name, diffusion(results.usual)
    claim = Claim(f"Diffusion from a quarter of the {name}", "as realistic as plain from all of them, by both measures",
                  comparison.reason, None)  # fmt: skip
    if comparison.reason:
        return claim
    plain, own = comparison.rows[0], next(row for row in comparison.rows if row.variant == usual)
    parts, reached = [], []
    for space, kid in own.kid.items():
        reached.append(kid.value <= plain.kid[space].value)
        parts.append(f"KID in {space} {kid.value:.4g} against {plain.kid[space].value:.4g}")
    if own.accuracy and plain.accuracy:
        reached.append(own.accuracy.from_chance <= plain.accuracy.from_chance)
        parts.append(f"real or decoded {_percent(own.accuracy)} against {_percent(plain.accuracy)}")
    else:
        parts.append("real or decoded was not measured")
    claim.found = f"{usual} at {name} {comparison.quarter} against plain at {comparison.highest}: {'; '.join(parts)}"
    claim.reached = None if all(reached) and own.accuracy is None else all(reached)
    return claim


def _percent(accuracy: ClassifierAccuracy) -> str:
    return f"{100 * accuracy.accuracy:.1f} %"


# -- steps and speed -------------------------------------------------------------------------------


def _few_steps(results: DecoderResults) -> list[Claim]:
    """Compare the usual number of steps with the largest one, by each measure of realism."""
    many = [n for n in results.steps if n >= FLOW_STEPS]
    if not many or results.usual >= FLOW_STEPS:
        return []
    settings = results.measured_settings
    measures: Mapping[str, Callable[[RealismRecord], float | None]] = {
        **{f"KID in {space}": partial(RealismRecord.kid_value, space=space) for space in (SPACE, results.space)},
        "real or decoded": lambda record: record.accuracy and record.accuracy.accuracy,
    }
    found = []
    for name, value in measures.items():
        pairs = {s: [value(results.record(s, diffusion(n))) for n in (results.usual, many[-1])] for s in settings}
        if any(None in pair for pair in pairs.values()):
            continue
        changes = {s: increase(*pair) for s, pair in pairs.items()}
        small = [s for s, change in changes.items() if change <= MAX_INCREASE]
        text = f"{_coverage(settings, small)}; {', '.join(f'{100 * change:+.0f} %' for change in changes.values())}"
        title = f"{results.usual} steps against {many[-1]}: {name}"
        found.append(Claim(title, f"at most {100 * MAX_INCREASE:.0f} % worse", text, len(small) == len(settings)))
    return found


def increase(few: float, many: float) -> float:
    """Return the relative increase from `many` to `few`, at most 10. Values ≤ 0 count as 0."""
    if many <= 0:
        return 0.0 if few <= 0 else 10.0
    return min(10.0, (few - many) / many)


def _speed(results: DecoderResults) -> Claim | None:
    row = next((row for row in results.seconds if row.of == speed.SQUARE), None)
    if row is None or str(results.usual) not in row.steps:
        return None
    taken = row.steps[str(results.usual)]
    title, goal = f"{speed.SQUARE} image in {results.usual} steps", f"≤ {SECONDS:g} s"
    return Claim(title, goal, f"{taken:.3f} s; plain {row.plain:.3f} s", taken <= SECONDS)
