"""The page about a diffusion decoder, from its decoder.json and exhibits, and its figures on a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tokenloom.codecs import media

from ..compare.plots import COLORS, MARKERS
from ..render import audio_uri, data_uri, image_uri, write_page
from .exhibits import heading
from .realism import diffusion

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "–"


def write(folder: Path) -> Path:
    """report.html in `folder`, from its decoder.json; it fetches nothing when opened."""
    found = json.loads((folder / "decoder.json").read_text(encoding="utf-8"))
    exhibits = found["exhibits"] or {"figure": None, "sounds": []}
    return write_page(
        folder / "report.html",
        "decoder.html",
        found=found,
        figure=exhibits["figure"] and _picture(folder / exhibits["figure"]),
        sounds=_sounds(folder, exhibits["sounds"]),
        chart=chart(found),
        header=header(found),
        blocks=blocks(found),
        quarter=_quarter(found),
        controls=[_control(found, c) for c in found["controls"]],
        floors={space: _distance(kid) for space, kid in found["floor"].items()},
        seconds=[_seconds(row) for row in found["seconds"]],
    )  # fmt: skip


def _picture(path: Path) -> str:
    with Image.open(path) as image:
        return image_uri(image)


def _sounds(folder: Path, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clips with their files inlined."""
    for block in shown:
        for clip in block["clips"]:
            for tile in clip["tiles"]:
                path = folder / tile["file"]
                tile["uri"] = audio_uri(media.read(path), media.sample_rate(path))
    return shown


# -- figures as people read them -------------------------------------------------------------------


def header(found: dict[str, Any]) -> list[str]:
    """Headings of the columns of `blocks`."""
    distortions = ["PSNR / dB"] if found["modality"] == "image" else ["mel PSNR / dB", "mel distance"]
    return ["variant", *distortions, "against plain / dB", *(f"KID, {space}" for space in spaces(found)), "told right",
            "codes back"]  # fmt: skip


def spaces(found: dict[str, Any]) -> list[str]:
    """The spaces that some record has a distance in."""
    return list(dict.fromkeys(space for record in found["records"] for space in record["kid"]))


def blocks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """For each setting, from high to low, a title and a line of cells a variant."""
    made: dict[Any, dict[str, Any]] = {}
    for record in found["records"]:
        block = made.setdefault(record["setting"], {"title": _title(found, record), "rows": []})
        cells = [_summary(summary) for summary in record["distortion"].values()]
        cells.append(_summary(record["against_plain"], "+.2f") if record["variant"] != "plain" else NOTHING)
        cells += [_distance(record["kid"].get(space)) for space in spaces(found)]
        cells += [_accuracy(record["accuracy"]), _percent(record["same"] and record["same"]["mean"])]
        usual = record["variant"] == diffusion(found["usual"])
        block["rows"].append({"name": heading(record["variant"]), "cells": cells, "usual": usual})
    return list(made.values())


def _title(found: dict[str, Any], record: dict[str, Any]) -> str:
    setting = "" if record["setting"] is None else f"{found['setting_name']} {record['setting']}: "
    each = "a picture" if found["modality"] == "image" else "a sound"
    return f"{setting}{record['tokens']:.4g} tokens {each}, {record['rate']:.3g} {found['rate_unit']} nominal"


def _summary(summary: dict[str, Any] | None, form: str = ".2f") -> str:
    if not summary or summary["mean"] is None:
        return "∞" if summary and summary["perfect"] else NOTHING
    spread = "" if summary["ci95"] is None else f" ± {summary['ci95']:.2f}"
    return f"{summary['mean']:{form}}{spread}".replace("-", "−")


def _distance(kid: dict[str, Any] | None) -> str:
    return NOTHING if kid is None else f"{kid['value']:.3g} ({kid['low']:.3g} to {kid['high']:.3g})".replace("-", "−")


def _accuracy(told: dict[str, Any] | None) -> str:
    if told is None:
        return NOTHING
    return f"{100 * told['accuracy']:.1f} % ({100 * told['low']:.1f} to {100 * told['high']:.1f})"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f} %"


def _control(found: dict[str, Any], c: dict[str, Any]) -> list[str]:
    setting = NOTHING if c["setting"] is None else f"{found['setting_name']} {c['setting']}"
    capped = "the loss" if c["capped"] else "the energy"
    return [setting, c["control"], f"{c['value']:.4g}", _percent(c["plain"]), _percent(c["energy"]),
            f"{c['loss']:.2f} dB".replace("-", "−"), capped]  # fmt: skip


def _quarter(found: dict[str, Any]) -> list[list[str]]:
    """Both measures of diffusion from a quarter of the tokens beside plain from all."""
    if not found["quarter"]:
        return []
    return [
        [f"{heading(row['variant'])}, {found['setting_name']} {row['setting']}", f"{row['tokens']:.4g}",
         *(_distance(row["kid"].get(space)) for space in spaces(found)), _accuracy(row["accuracy"])]
        for row in found["quarter"]["rows"]
    ]  # fmt: skip


def _seconds(row: dict[str, Any]) -> dict[str, Any]:
    cells = {"plain": row["plain"], **{heading(diffusion(int(n))): s for n, s in row["steps"].items()}}
    return {"of": f"{row['of']} ({row['size']})" if row["of"] != row["size"] else row["of"], "cells": cells}


def chart(found: dict[str, Any]) -> str | None:
    """Distortion, KID and accuracy over the tokens, one curve a variant, as a data URI; None with a single setting."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, Any]] = [("PSNR / dB", lambda r: r["distortion"]["psnr"]["mean"])]
    panels += [(f"KID, {s}", lambda r, s=s: (r["kid"].get(s) or {}).get("value")) for s in spaces(found)]
    panels.append(("told right / %", lambda r: r["accuracy"] and 100 * r["accuracy"]["accuracy"]))
    panels = [(label, get) for label, get in panels if any(get(r) is not None for r in found["records"])]
    if len({r["setting"] for r in found["records"]}) < 2 or not panels:
        return None
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, (label, get) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, name in enumerate(dict.fromkeys(r["variant"] for r in found["records"])):
            points = [(r["tokens"], get(r)) for r in found["records"] if r["variant"] == name and get(r) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)],
                          ms=4, lw=1.4, label=heading(name))  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        if label.startswith("KID"):
            axes.set_yscale("symlog", linthresh=1e-2)
        axes.set_xlabel("tokens")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white")
    return data_uri(buffer.getvalue(), "image/svg+xml")


# -- on a terminal ---------------------------------------------------------------------------------


def show(found: dict[str, Any], console: Console) -> None:
    """Every figure, the verdicts, and what is absent."""
    from rich.markup import escape
    from rich.table import Table

    for block in blocks(found):
        table = Table(title=escape(f"{found['decoder']}, {block['title']}"))
        for name in header(found):
            table.add_column(name, justify="left" if name == "variant" else "right", overflow="fold")
        for row in block["rows"]:
            table.add_row(escape(row["name"]), *row["cells"], style="bold" if row["usual"] else None)
        console.print(table)
    for v in found["verdicts"]:
        word, style = {True: ("reached", "green"), False: ("not reached", "red"), None: ("unknown", "yellow")}[
            v["reached"]
        ]
        line = escape(f"{v['title']}, {v['goal']}: {v['found']}")
        console.print(f"[{style}]{word}[/] {line}", highlight=False, soft_wrap=True)
    for what, reason in found["absent"].items():
        console.print(f"{what} is absent: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if found["interrupted"]:
        console.print("interrupted: the figures are those of the settings done by then")
