"""report.html: one file that holds everything, made from results.json and the exhibits beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.metrics import audio as sounds

from ..render import Section, audio_uri, data_uri, image_data, image_uri, inline_svg, write_page
from . import adaptive
from .plots import colors, perception_stem
from .results import KINDS, Results, columns, shown
from .tables import DECIMALS, measured, number, problems

PICTURE_BYTES, SOUND_BYTES = 5_500_000, 2_500_000
CROP, SECONDS = 400, 5.0
WORDS = {"image": "pictures", "audio": "sounds", "text": "texts"}


def write(results: Results, sections: Sequence[Section] = ()) -> Path:
    """Render the report next to results.json, with the sections that the caller adds, and return its path."""
    modalities = [m for m in dict.fromkeys(r["modality"] for r in results.records) if results.of(m)]
    counts = [f"{max(r['n'] for r in results.of(m))} {WORDS[m]}" for m in modalities]
    return write_page(
        results.report,
        "compare.html",
        results=results,
        data=_chart_data(results, modalities),
        colors=colors(results),
        counts=counts,
        pictures=_pictures(results),
        clips=_clips(results),
        tables=[_table(results, m) for m in modalities],
        bd=[_bd_table(results, m) for m in modalities if m != "text"],
        speeds=[s for m in modalities if (s := _speeds(results, m))],
        problems=problems(results),
        targets=_targets(results),
        static=[_static_plot(results, m) for m in modalities if m != "text"],
        perception=_perception(results),
        sections=sections,
    )


# -- curves ------------------------------------------------------------------------------------


def _chart_data(results: Results, modalities: list[str]) -> dict[str, Any]:
    """What the script draws: for each modality its metrics, rate kinds and points."""
    charts = {}
    for modality in modalities:
        if modality == "text":
            continue
        records = results.of(modality)
        about = results.protocols[records[0]["protocol"]]["metrics"]
        kinds = [k for k in KINDS if any(shown(r["rates"][k]) for r in records)]
        names = measured(results, modality)
        metrics = [{"name": m, **{k: about[m][k] for k in ("label", "unit", "better")}} for m in names]
        points = [
            {
                "codec": r["codec"],
                "setting": "" if r["setting"] is None else f"{r['setting_name']} {r['setting']}",
                "rates": {k: shown(r["rates"][k]) for k in kinds},
                "perfect": [m["name"] for m in metrics if shown(r["metrics"].get(m["name"])) == math.inf],
                "values": {m["name"]: _finite(shown(r["metrics"].get(m["name"]))) for m in metrics},
                "ci": {m["name"]: (r["metrics"].get(m["name"]) or {}).get("ci95") for m in metrics},
                "n": r["n"],
            }
            for r in records
        ]
        charts[modality] = {"unit": records[0]["rate_unit"], "kinds": kinds, "metrics": metrics, "points": points}
    return {"charts": charts, "colors": colors(results)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _static_plot(results: Results, modality: str) -> str:
    """The first plot as inline SVG, for readers without scripts."""
    for metric in measured(results, modality):
        path = results.folder / "plots" / f"{modality}-{metric}.svg"
        if path.is_file():
            return inline_svg(path)
    return ""


def _perception(results: Results) -> list[dict[str, str]]:
    """The plots of distortion and perception as inline SVG, with their titles."""
    found = []
    for modality in ("image", "audio"):
        path = results.folder / "plots" / f"{perception_stem(modality)}.svg"
        if path.is_file():
            found.append({"title": WORDS[modality], "plot": inline_svg(path)})
    return found


# -- exhibits ----------------------------------------------------------------------------------


def _figures(tile: dict[str, Any], protocol: dict[str, Any]) -> list[str]:
    """The figures of a tile as people read them: "24.31 dB PSNR"."""
    lines = []
    for name, value in tile.get("figures", {}).items():
        about = protocol["metrics"][name]
        text = f"{value:.{min(DECIMALS.get(name, 3), 3)}f}" if value != "inf" else "∞"
        unit = about["unit"] if value != "inf" else ""
        lines.append(f"{about['label']} {text} {unit}".strip())
    return lines


def _exhibits(results: Results, modality: str) -> list[dict[str, Any]]:
    """Exhibits of a modality with their printable lines; paths still to be inlined."""
    protocol = next((p for p in results.protocols.values() if p["modality"] == modality), {})
    found = []
    for exhibit in results.exhibits:
        if exhibit["modality"] == modality:
            tiles = [{**tile, "lines": _figures(tile, protocol)} for tile in exhibit["tiles"]]
            found.append({**exhibit, "tiles": [{"codec": "original", "file": exhibit["original"]}, *tiles]})
    return found


def _pictures(results: Results) -> list[dict[str, Any]]:
    """Picture exhibits with crops inlined, losslessly; the crop shrinks until all fit the budget."""
    exhibits = _exhibits(results, Modality.IMAGE)
    side = CROP
    total = _inline_pictures(results, exhibits, side)
    while total > PICTURE_BYTES and side > 64:
        side = max(64, int(side * min(0.95, math.sqrt(PICTURE_BYTES / total))))
        total = _inline_pictures(results, exhibits, side)
    return exhibits


def _inline_pictures(results: Results, exhibits: list[dict[str, Any]], side: int) -> int:
    total = 0
    for exhibit in exhibits:
        for tile in exhibit["tiles"]:
            if "file" not in tile:
                continue
            with Image.open(results.folder / tile["file"]) as image:
                width, height = min(side, image.width), min(side, image.height)
                left, top = (image.width - width) // 2, (image.height - height) // 2
                crop = image.crop((left, top, left + width, top + height))
                exhibit["cropped"] = crop.size != image.size
            data = image_data(crop)
            total += len(data)
            tile["uri"] = data_uri(data, "image/webp")
            exhibit["width"], exhibit["height"] = crop.size
    return total


def _clips(results: Results) -> list[dict[str, Any]]:
    """Sound exhibits: FLAC of 16 bits and a spectrogram each; the last ones go where they exceed the budget."""
    exhibits, total = _exhibits(results, Modality.AUDIO), 0
    for number_, exhibit in enumerate(exhibits):
        low = high = None
        for tile in exhibit["tiles"]:
            if "file" not in tile:
                continue
            path = results.folder / tile["file"]
            rate = exhibit["sample_rate"]
            waveform = media.read(path)[:, : int(SECONDS * rate)]
            tile["uri"] = audio_uri(waveform, rate)
            total += len(tile["uri"]) * 3 // 4  # base64
            mel = sounds.log_mel(waveform, rate, 0.032, 64, 1e-6).mean(0)
            if high is None:  # every tile has the colours of the original
                high = mel.max().item()
                low = high - 9.2  # 80 dB
            tile["spectrogram"] = image_uri(_spectrogram(mel, low, high), quality=82)
        if total > SOUND_BYTES and number_:
            return exhibits[:number_]
    return exhibits


def _spectrogram(mel: torch.Tensor, low: float, high: float) -> Image.Image:
    """(mels, frames) natural log → a small picture, low frequencies at the bottom."""
    from matplotlib import colormaps

    level = ((mel - low) / max(high - low, 1e-9)).clamp(0, 1).flip(0)
    pixels = (colormaps["magma"](level.numpy())[..., :3] * 255).astype("uint8")
    return Image.fromarray(pixels).resize((480, 128), Image.Resampling.BILINEAR)


# -- tables ------------------------------------------------------------------------------------


def _cell(text: str, value: float | None) -> dict[str, Any]:
    """What a cell shows and what it is sorted by."""
    return {"text": text, "sort": "" if value is None else "1e99" if value == math.inf else repr(float(value))}


def _table(results: Results, modality: str) -> dict[str, Any]:
    """Header and rows of the sortable table."""
    records = [r for r in results.records if r["modality"] == modality]
    protocol = results.protocols[records[0]["protocol"]]
    metrics = measured(results, modality)
    kinds = [k for k in reversed(KINDS) if any(shown(r["rates"][k]) is not None for r in records)]
    first = records[0]
    header = [("codec", ""), ("setting", ""), *((k, first["rate_unit"]) for k in kinds)]
    header += [(protocol["metrics"][m]["label"], protocol["metrics"][m]["unit"]) for m in metrics]
    header += [("tokens", first["tokens_unit"]), ("coded bits", "per token")]
    header += [("modelled bits", "per token")] if "modelled" in kinds else []
    header += [("usage", "of codebook"), ("perplexity", ""), ("idempotence", "")]
    header += [("encode", "s in all"), ("decode", "s in all")]
    rows = []
    for r in records:
        setting = r["setting"]
        numeric = float(setting) if isinstance(setting, int | float) else None
        cells = [_cell("–" if setting is None else f"{r['setting_name']} {setting}", numeric)]
        cells += [_plain(shown(r["rates"][k]), 4) for k in kinds]
        for m in metrics:
            summary = r["metrics"].get(m)
            cells.append(_cell(number(summary, DECIMALS.get(m, 3)), shown(summary)))
        flat = columns(r)
        cells += [_plain(flat["tokens"], 0), _plain(flat["bits_per_token_coded"], 2)]
        cells += [_plain(flat["bits_per_token_modelled"], 2)] if "modelled" in kinds else []
        cells += [_percent(flat["usage"]), _plain(flat["perplexity"], 0), _percent(flat["idempotence"])]
        cells += [_plain(r["time"]["encode"], 2), _plain(r["time"]["decode"], 2)]
        why = "; ".join(f"{count} failed: {reason}" for reason, count in r["reasons"].items())
        rows.append({"codec": r["codec"], "cells": cells, "why": why, "default": r["default"]})
    return {"title": WORDS[modality], "header": header, "rows": rows, "protocol": protocol["name"]}


def _plain(value: float | None, decimals: int) -> dict[str, Any]:
    return _cell("–" if value is None else f"{value:,.{decimals}f}", value)


def _percent(value: float | None) -> dict[str, Any]:
    return _cell("–" if value is None else f"{value * 100:.1f} %", value)


def _targets(results: Results) -> list[dict[str, Any]]:
    """One table and plot a codec that was tried with targets."""
    tables = []
    for codec, records in adaptive.tried(results).items():
        plot = results.folder / "plots" / f"{adaptive.stem(codec)}.svg"
        labels = [adaptive.LABELS[name] for name in records[0]["targets"]]
        rows = [adaptive.row(record) for record in records]
        tables.append(
            {"codec": codec, "labels": labels, "rows": rows, "plot": inline_svg(plot) if plot.is_file() else ""}
        )
    return tables


def _bd_table(results: Results, modality: str) -> dict[str, Any]:
    """Codecs down, metrics across; the reasons of the gaps apart."""
    rows = [r for r in results.bd_rates if r["modality"] == modality]
    labels = dict.fromkeys(r["label"] for r in rows if r["percent"] is not None)
    grid: dict[str, dict[str, Any]] = {}
    gaps: dict[str, list[str]] = {}
    for r in rows:
        grid.setdefault(r["codec"], {})[r["label"]] = r
        if r["percent"] is None:
            gaps.setdefault(f"{r['codec']}: {r['reason']}", []).append(r["label"])
    reasons = [f"{what} ({', '.join(names)})" for what, names in gaps.items()]
    anchor = rows[0]["anchor"] if rows else ""
    return {"title": WORDS[modality], "anchor": anchor, "labels": list(labels), "grid": grid, "reasons": reasons}


def _speeds(results: Results, modality: str) -> dict[str, Any]:
    """Signal per second of each codec over its whole sweep, with bars on a log scale."""
    rows: list[dict[str, Any]] = []
    records = results.of(modality)
    for codec in dict.fromkeys(r["codec"] for r in records):
        mine = [r["time"] for r in records if r["codec"] == codec]
        row: dict[str, Any] = {"codec": codec}
        for way in ("encode", "decode"):
            seconds = math.fsum(t[way] for t in mine)
            amounts = math.fsum((t[f"{way}_speed"] or 0) * t[way] for t in mine)
            row[way] = amounts / seconds if seconds else 0.0
        rows.append(row)
    every = [row[way] for row in rows for way in ("encode", "decode") if row[way] > 0]
    if not every:
        return {}
    low, high = math.log(min(every) / 2), math.log(max(every))
    for row in rows:
        for way in ("encode", "decode"):
            speed = row[way]
            row[f"{way}_bar"] = round(100 * (math.log(speed) - low) / max(high - low, 1e-9), 1) if speed else 0
            row[f"{way}_text"] = f"{speed:.3g}" if speed < 1000 else f"{speed:,.0f}"
    return {"title": WORDS[modality], "unit": records[0]["time"]["speed_unit"], "rows": rows}
