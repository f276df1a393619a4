"""The page about a multimodal model: its tables, and what it generated, to look at and listen to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tokenloom.codecs import media

from ..compare.report import page as compare_report
from ..compare.results import Results
from ..render import Section, audio_uri, image_uri, render, write_page
from . import tables as omni_tables

SIDE = 128
"""Pixels of a side that a small picture is enlarged to, each pixel a square."""


def section(folder: Path) -> dict[str, Any]:
    """What omni.html shows, from the omni.json of `folder`."""
    found = json.loads((folder / "omni.json").read_text(encoding="utf-8"))
    shipped = found["shipped"] if not found["records"] and not found["bits"] else None
    measured = shipped or found
    groups: dict[str, list[dict[str, Any]]] = {}
    for exhibit in found["exhibits"]:
        parts = [_inline(folder, part) for part in exhibit["prompt"]]
        truth = exhibit["truth"] and _inline(folder, exhibit["truth"])
        shown = {**exhibit, "prompt": parts, "result": _inline(folder, exhibit["result"]), "truth": truth}
        groups.setdefault(exhibit["title"], []).append(shown)
    bits = measured["bits"] and {"lines": omni_tables.lines(measured["bits"]), "about": measured["bits"]["about"]}
    return {**found, "tables": _tables(measured["records"]), "groups": groups, "bits": bits, "of": measured,
            "came_with_it": shipped is not None}  # fmt: skip


def _tables(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    parts = ((False, "On data never trained on"), (True, "On trained items, and cost"))
    found = [(title, [{**r, **_texts(r)} for r in records if r["trained"] is trained]) for trained, title in parts]
    return [{"title": title, "rows": rows} for title, rows in found if rows]


def _texts(record: dict[str, Any]) -> dict[str, str]:
    """A record's figures in the words of the page."""
    return {
        "shown": omni_tables.shown(record),
        "range": omni_tables.interval(record),
        "best": omni_tables.shown(record, "ceiling"),
        "told": omni_tables.told(record["detail"]),
    }


def write(folder: Path) -> Path:
    """report.html in `folder`: this section within the report of a comparison that is there, else by itself."""
    shown = section(folder)
    if (folder / "results.json").is_file():
        generated = Section("generated", "Generated", render("omni.html", omni=shown))
        return compare_report.write(Results.read(folder), [generated])
    return write_page(folder / "report.html", "omni_page.html", omni=shown)


def _inline(folder: Path, part: dict[str, str]) -> dict[str, str]:
    """A text as it is; a picture or sound as a data URI."""
    if "picture" in part:
        with Image.open(folder / part["picture"]) as image:
            times = max(1, SIDE // max(image.size))
            large = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
        return {"picture": image_uri(large)}
    if "sound" in part:
        path = folder / part["sound"]
        return {"sound": audio_uri(media.read(path), media.sample_rate(path))}
    return part
