"""What the figures of a diffusion decoder come to: claims, each with its goal, what was found, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenloom.metrics import distribution as kernel
from tokenloom.metrics.errors import Unmeasurable

from . import controls
from .labels import SPACE
from .realism import FLOW, PLAIN, diffusion

RIVALS = (PLAIN, *controls.CONTROLS)
LOSS = controls.LOSS
WORSE = 0.10
"""How much worse than the many steps the few may be, of the figure."""
QUARTERS = (1 / 8, 3 / 8)
"""Shares of the highest setting that may stand for a quarter of it."""
SECONDS = 0.15


def compare_draws(record: dict[str, Any], draws: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Add to each distance of a diffusion record how sure it is that it is smaller than a rival's.

    draws  variant → space → draws of the bootstrap, the same items drawn for all
    """
    if record["steps"] is None:
        return
    for space, kid in record["kid"].items():
        kid["below"] = {}
        for rival in RIVALS:
            if space in draws.get(rival, {}):
                difference = draws[record["variant"]][space] - draws[rival][space]
                try:
                    kid["below"][rival] = kernel.interval(difference)[1] < 0
                except Unmeasurable:  # too few items to draw from
                    continue


def nearest_quarter(settings: Sequence[Any], highest: Any) -> Any:
    """The setting nearest to a quarter of the highest, the lower of two; None where none is near it."""
    if not isinstance(highest, int):
        return None
    near = [s for s in settings if QUARTERS[0] * highest <= s <= QUARTERS[1] * highest]
    return min(near, key=lambda s: (abs(s - highest / 4), s), default=None)


# -- a quarter of the tokens -----------------------------------------------------------------------


def quarter(found: dict[str, Any]) -> dict[str, Any] | None:
    """Both measures of diffusion from a quarter of the tokens beside those of plain from all of them.

    None for codecs whose length is fixed; else `rows` of both, or the `reason` why they cannot be had.
    """
    highest = found["highest"]
    if highest is None:
        return None
    done = {record["setting"] for record in found["records"]}
    low = nearest_quarter(sorted(done), highest)
    if highest not in done or low is None:
        wanted = f"{found['setting_name']} {highest} and about {highest / 4:g}"
        return {"highest": highest, "quarter": low, "rows": [], "reason": f"needs {wanted}, and has {sorted(done)}"}
    rows = [_row(found, highest, PLAIN), *(_row(found, low, diffusion(n)) for n in found["steps"])]
    return {"highest": highest, "quarter": low, "rows": rows, "reason": ""}


def _row(found: dict[str, Any], setting: Any, variant: str) -> dict[str, Any]:
    record = at(found, setting, variant)
    return {key: record[key] for key in ("setting", "variant", "steps", "tokens", "kid", "accuracy")}


def at(found: dict[str, Any], setting: Any, variant: str) -> dict[str, Any]:
    """The record of a variant at a setting."""
    return next(r for r in found["records"] if r["setting"] == setting and r["variant"] == variant)


# -- verdicts --------------------------------------------------------------------------------------


def verdicts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Claims as {title, goal, found, reached}; `reached` is None where nothing was measured.

    They are about the decoder's usual number of steps, over all settings measured.
    """
    settings = list(dict.fromkeys(record["setting"] for record in found["records"]))
    if not settings:
        return []
    made = [_smaller(found, settings, space) for space in (SPACE, found["space"])]
    made += [_nearer(found, settings), _loss(found, settings)]
    made += [_quarter(found), *_few(found, settings), _speed(found)]
    return [verdict for verdict in made if verdict]


def _verdict(title: str, goal: str, text: str, reached: bool | None) -> dict[str, Any]:
    return {"title": title, "goal": goal, "found": text, "reached": reached}


def _usual(found: dict[str, Any]) -> str:
    return diffusion(found["usual"])


def _over(settings: Sequence[Any], held: Sequence[Any]) -> str:
    """At how many of the settings something holds, and where it does not."""
    missing = [str(s) for s in settings if s not in held]
    if settings == [None]:
        return "yes" if held else "no"
    return f"at {len(held)} of {len(settings)} settings" + (
        f", not at {', '.join(missing)}" if missing and held else ""
    )


def _smaller(found: dict[str, Any], settings: Sequence[Any], space: str) -> dict[str, Any] | None:
    title = f"KID in {space}, {_usual(found)}"
    goal = "smaller than plain and both controls"
    mine = {s: at(found, s, _usual(found))["kid"].get(space) for s in settings}
    if not all(mine.values()):
        return None
    rivals = {s: _rivals(found, s, lambda record: record["kid"].get(space)) for s in settings}
    if not all(len(r) == len(RIVALS) for r in rivals.values()):
        return _verdict(title, goal, "the controls were not measured", None)
    held = [s for s in settings if all(mine[s]["value"] < r["value"] for r in rivals[s].values())]
    sure = [s for s in held if all(mine[s]["below"].get(name, False) for name in RIVALS)]
    text = f"{_over(settings, held)}; beyond chance (95 %): {_over(settings, sure)}"
    return _verdict(title, goal, text, len(held) == len(settings))


def _rivals(found: dict[str, Any], setting: Any, figure: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The figures of plain and the controls at a setting, of those that have one."""
    return {
        record["variant"]: value
        for record in found["records"]
        if record["setting"] == setting and record["variant"] in RIVALS and (value := figure(record)) is not None
    }


def _nearer(found: dict[str, Any], settings: Sequence[Any]) -> dict[str, Any]:
    title, goal = f"Real or decoded, {_usual(found)}", "nearer to chance than plain and both controls"
    mine = {s: at(found, s, _usual(found))["accuracy"] for s in settings}
    rivals = {s: _rivals(found, s, lambda record: record["accuracy"]) for s in settings}
    if not all(mine.values()) or not all(len(r) == len(RIVALS) for r in rivals.values()):
        return _verdict(title, goal, "not measured", None)
    held = [s for s in settings if all(_beyond(mine[s]) < _beyond(r) for r in rivals[s].values())]
    return _verdict(title, goal, _over(settings, held), len(held) == len(settings))


def _beyond(accuracy: dict[str, Any]) -> float:
    return abs(accuracy["accuracy"] - 0.5)


def _loss(found: dict[str, Any], settings: Sequence[Any]) -> dict[str, Any]:
    name = "mel PSNR" if found["modality"] == "audio" else "PSNR"
    losses = {s: at(found, s, _usual(found))["against_plain"]["mean"] for s in settings}
    known = {s: -value for s, value in losses.items() if value is not None}
    held = [s for s in known if known[s] <= LOSS]
    most = f"; {max(known.values()):+.2f} dB at most" if known else ""
    title, goal = f"Loss of {name}, {_usual(found)}", f"≤ {LOSS:g} dB against plain"
    return _verdict(title, goal, _over(settings, held) + most, len(held) == len(settings))


def _quarter(found: dict[str, Any]) -> dict[str, Any] | None:
    claim = quarter(found)
    if claim is None:
        return None
    name, highest = found["setting_name"], claim["highest"]
    title = f"Diffusion from a quarter of the {name}"
    goal = "no easier to tell from real than plain from all of them, by both measures"
    if claim["reason"]:
        return _verdict(title, goal, claim["reason"], None)
    plain = claim["rows"][0]
    mine = next(row for row in claim["rows"] if row["variant"] == _usual(found))
    parts, held = [], []
    for space, kid in mine["kid"].items():
        held.append(kid["value"] <= plain["kid"][space]["value"])
        parts.append(f"KID in {space} {kid['value']:.4g} against {plain['kid'][space]['value']:.4g}")
    if mine["accuracy"] and plain["accuracy"]:
        held.append(_beyond(mine["accuracy"]) <= _beyond(plain["accuracy"]))
        parts.append(f"told right {mine['accuracy']['accuracy']:.1%} against {plain['accuracy']['accuracy']:.1%}")
    else:
        parts.append("real or decoded was not measured")
    yes = all(held)
    whole = yes and mine["accuracy"] is not None
    text = f"{_usual(found)} at {name} {claim['quarter']} against plain at {highest}: {'; '.join(parts)}"
    return _verdict(title, goal, text.replace("%", " %"), None if yes and not whole else yes)


def _few(found: dict[str, Any], settings: Sequence[Any]) -> list[dict[str, Any]]:
    """The usual few steps against the most steps of the flow, each figure at each setting."""
    many = [n for n in found["steps"] if n >= FLOW]
    if not many or found["usual"] >= FLOW:
        return []
    few, most = _usual(found), diffusion(many[-1])
    figures: dict[str, Callable[[dict[str, Any]], float | None]] = {
        f"KID in {space}": lambda record, space=space: (record["kid"].get(space) or {}).get("value")
        for space in (SPACE, found["space"])
    }
    figures["real or decoded"] = lambda record: (record["accuracy"] or {}).get("accuracy")
    made = []
    for name, figure in figures.items():
        pairs = {s: (figure(at(found, s, few)), figure(at(found, s, most))) for s in settings}
        pairs = {s: pair for s, pair in pairs.items() if None not in pair}
        if len(pairs) < len(settings):
            continue
        changes = {s: relative(*pair) for s, pair in pairs.items()}
        held = [s for s, change in changes.items() if change <= WORSE]
        text = _over(settings, held) + "; " + ", ".join(f"{change:+.0%}" for change in changes.values())
        title = f"{found['usual']} steps against {many[-1]}: {name}"
        goal = f"at most {WORSE:.0%} worse"
        made.append(_verdict(title, goal.replace("%", " %"), text.replace("%", " %"), len(held) == len(settings)))
    return made


def relative(few: float, many: float) -> float:
    """How much larger the first is, as a share of the second; both ≤ 0 count as equal."""
    if many <= 0:
        return 0.0 if few <= 0 else 10.0
    return min(10.0, (few - many) / many)


def _speed(found: dict[str, Any]) -> dict[str, Any] | None:
    row = next((row for row in found["seconds"] if row["of"] == "64x64"), None)
    if row is None or str(found["usual"]) not in row["steps"]:
        return None
    taken = row["steps"][str(found["usual"])]
    title, goal = f"A 64x64 picture in {found['usual']} steps", f"≤ {SECONDS:g} s"
    return _verdict(title, goal, f"{taken:.3f} s; plain {row['plain']:.3f} s", taken <= SECONDS)
