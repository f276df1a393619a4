"""`tokenloom codecs`: what there is, with the figures that tell codecs apart."""

from __future__ import annotations

import itertools
import json
from typing import Any

import torch

from tokenloom import codecs
from tokenloom.codecs import Codec, LatentCodec, checkpoint, rate, registry


def entries() -> list[dict[str, Any]]:
    """One plain mapping a codec: the shipped ones, then the registered ones, by modality and name."""
    found = []
    with torch.device("meta"):  # what a codec is follows from its arguments: no weights are drawn or read
        for name in codecs.shipped():
            arguments = checkpoint.read_config(checkpoint.shipped_root() / name)["codec"]
            found.append(_entry(name, codecs.build(**arguments), shipped=True))
        for name in codecs.names():
            try:
                found.append(_entry(name, codecs.build(name), shipped=False))
            except ValueError as error:  # text/bpe: nothing without a tokenizer
                cls = registry.codec_class(name)
                needs = f"models of transformers: {', '.join(cls.model_types)}" if cls.model_types else str(error)
                found.append({"name": name, "modality": name.split("/")[0], "trains": issubclass(cls, LatentCodec),
                              "imports": codecs.codec.imports(cls), "shipped": False, "needs": needs})  # fmt: skip
    order = {"image": 0, "audio": 1, "text": 2}
    return sorted(found, key=lambda e: (order[e["modality"]], not e["shipped"], e["trains"], e["name"]))


def show(*, as_json: bool = False) -> None:
    """Print the list: tables for a person, or JSON."""
    found = entries()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for modality in dict.fromkeys(e["modality"] for e in found):
        table = Table(title=f"{modality} codecs", title_justify="left", title_style="bold")
        for column in ("name", "codebooks", "bits a token", "stride", "signal", "setting", "weights"):
            table.add_column(column, no_wrap=column == "name")
        for entry in (e for e in found if e["modality"] == modality):
            table.add_row(*map(escape, _row(entry)))
        console.print(table)
    console.print("published: of another project, codecs.build(name, checkpoint=…).", highlight=False)
    console.print("Trained codecs of your own are named by their folder. Every figure: tokenloom codecs --json")


def _entry(name: str, codec: Codec, *, shipped: bool) -> dict[str, Any]:
    spec, settings, imports = codec.spec, codec.settings, codecs.codec.imports(type(codec))
    takes_rate = not (shipped or imports) and "sample_rate" in codecs.codec.arguments(type(codec))
    return {
        "name": name,
        "modality": str(spec.modality),
        "trains": isinstance(codec, LatentCodec),
        "imports": imports,
        "shipped": shipped,
        "codebook_sizes": list(spec.codebook_sizes),
        "bits_per_token": [round(bits, 4) for bits in rate.bits_per_token(spec)],
        "stride": list(spec.stride),
        "sample_rate": spec.sample_rate,
        "channels": spec.channels,
        "any_sample_rate": takes_rate,
        "total": spec.total,
        "ordered": spec.ordered,
        "causal": spec.causal,
        "setting": None if settings.values == (None,) else {
            "name": settings.name, "unit": settings.unit, "default": settings.default,
            "sweep": list(settings.sweep), "values": list(settings.values),
        },
    }  # fmt: skip


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    if "needs" in entry:
        weights = "published" if entry["imports"] else ""
        return (entry["name"], "", "", "", "", entry["needs"].removeprefix(entry["name"] + " "), weights)
    runs = [(size, len(list(equal))) for size, equal in itertools.groupby(entry["codebook_sizes"])]
    books = ", ".join(f"{count} of {size}" if count > 1 else str(size) for size, count in runs)
    bits = ", ".join(f"{b:.4g}" for b, _ in itertools.groupby(entry["bits_per_token"]))
    stride = " x ".join(map(str, entry["stride"])) or "varies"
    weights = "shipped" if entry["shipped"] else "published" if entry["imports"] else "to train"
    weights = weights if entry["trains"] or entry["imports"] or entry["shipped"] else "none needed"
    return (entry["name"], books, bits, stride, _signal(entry), _setting(entry["setting"]), weights)


def _signal(entry: dict[str, Any]) -> str:
    if entry["modality"] != "audio":
        return {"image": "RGB", "text": "UTF-8"}[entry["modality"]]
    if entry["any_sample_rate"]:
        return "any rate"
    return f"{entry['sample_rate']} Hz, {'mono' if entry['channels'] == 1 else 'stereo'}"


def _setting(setting: dict[str, Any] | None) -> str:
    if setting is None:
        return "–"
    values = setting["values"]
    span = ", ".join(map(str, values)) if len(values) <= 4 else f"{values[0]} … {values[-1]}"
    unit = f" {setting['unit']}" if setting["unit"] else ""
    return f"{setting['name']} {span}{unit}, default {setting['default']}"
