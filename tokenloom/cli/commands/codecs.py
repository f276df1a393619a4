"""`tokenloom codecs`: list the available codecs, or describe some."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenloom import lazy
from tokenloom.cli import known, options

if TYPE_CHECKING:
    from tokenloom.codecs import Codec, CodeSpec, Modality

codecs = lazy.load("tokenloom.codecs")
devices = lazy.load("tokenloom.devices")

MODALITIES = ("image", "audio", "text")
LEAST_WIDTH = 8
"""Characters that a column keeps in a narrow terminal."""
EXAMPLES = """\
examples:
  tokenloom codecs
  tokenloom codecs --json
  tokenloom codecs emoji-fsq my_codec.py:MyCodec
"""
COLUMNS = ("name", "codebooks", "bits a token", "stride", "signal", "setting", "weights")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"{known.MAPPING}\n\n{EXAMPLES}"
    parser.add_argument(
        "codecs", nargs="*", type=known.codec, metavar="CODEC", help=f"describe these only: {known.HELP}"
    )
    parser.add_argument("--json", action="store_true", help="print every property as JSON, for programs")
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    for name in args.codecs:
        known.require_codec(name)
    listed = described(args.codecs) if args.codecs else entries()
    if args.json:
        print(json.dumps([entry.record() for entry in listed], indent=1))
        return 0
    for modality, group in itertools.groupby(listed, lambda entry: entry.modality):
        print(f"{modality} codecs\n")
        print("\n".join(_lines([COLUMNS, *(entry.row() for entry in group)], shutil.get_terminal_size().columns)), "\n")
    if args.codecs:
        return 0
    print("published: weights of another project, codecs.build(name, checkpoint=…).")
    print("yours: by its folder, or my_codec.py:MyCodec. Every property: tokenloom codecs --json")
    return 0


def _lines(rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Return the lines of a table. Where it is wider than `columns`, the widest columns wrap, but never the first."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    while sum(widths) + 2 * len(widths) > columns and max(widths[1:]) > LEAST_WIDTH:
        widths[widths.index(max(widths[1:]), 1)] -= 1
    out = []
    for row in rows:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        parts = itertools.zip_longest(*cells, fillvalue="")
        out += ["  ".join(f"{c:<{w}}" for c, w in zip(part, widths, strict=True)).rstrip() for part in parts]
    return out


@dataclass(frozen=True)
class Entry:
    """One codec of the list."""

    name: str
    cls: type[Codec]
    shipped: bool
    codec: Codec | None
    """Built without weights; None if its arguments have no defaults."""
    needs: str = ""
    """Requirement of a codec that the name alone does not build."""

    @property
    def modality(self) -> Modality:
        return self.codec.spec.modality if self.codec else codecs.Modality(self.cls.name.partition("/")[0])

    @property
    def trains(self) -> bool:
        return issubclass(self.cls, codecs.LatentCodec)

    @property
    def imports(self) -> bool:
        return codecs.codec.imports(self.cls)

    @property
    def any_sample_rate(self) -> bool:
        return not (self.shipped or self.imports) and "sample_rate" in codecs.codec.arguments(self.cls)

    @property
    def weights(self) -> str:
        if self.shipped and self.codec is not None:
            return f"shipped, {self.codec.license or 'license unknown'}"
        if self.imports:
            return "published"
        if self.codec is None:
            return ""
        return "to train" if self.trains else "none needed"

    def record(self) -> dict[str, Any]:
        """Return every property, for JSON."""
        kind = {"trains": self.trains, "imports": self.imports, "shipped": self.shipped}
        kind |= {"license": self.codec.license} if self.shipped and self.codec else {}
        record: dict[str, Any] = {"name": self.name, "modality": str(self.modality), **kind}
        if self.codec is None:
            return record | {"needs": self.needs}
        spec, settings = self.codec.spec, self.codec.settings
        return record | {
            "codebook_sizes": list(spec.codebook_sizes),
            "bits_per_token": [round(bits, 4) for bits in codecs.rate.bits_per_token(spec)],
            "stride": list(spec.stride),
            "sample_rate": spec.sample_rate,
            "channels": spec.channels,
            "any_sample_rate": self.any_sample_rate,
            "total": spec.total,
            "ordered": spec.ordered,
            "causal": spec.causal,
            "setting": None if settings.values == (None,) else {
                "name": settings.name, "unit": settings.unit, "default": settings.default,
                "sweep": list(settings.sweep), "values": list(settings.values),
            },
        }  # fmt: skip

    def row(self) -> tuple[str, ...]:
        """Return the cells of COLUMNS."""
        if self.codec is None:
            return (self.name, "", "", "", "", self.needs.removeprefix(f"{self.name} "), self.weights)
        spec = self.codec.spec
        runs = [(size, len(list(equal))) for size, equal in itertools.groupby(spec.codebook_sizes)]
        books = ", ".join(f"{count} of {size}" if count > 1 else str(size) for size, count in runs)
        sizes = (round(bits, 4) for bits in codecs.rate.bits_per_token(spec))
        bits = ", ".join(f"{size:.4g}" for size, _ in itertools.groupby(sizes))
        stride = " x ".join(map(str, spec.stride)) or "varies"
        return (self.name, books, bits, stride, self._signal(spec), _setting(self.codec), self.weights)

    def _signal(self, spec: CodeSpec) -> str:
        if self.modality != "audio" or self.any_sample_rate:
            return {"image": "RGB", "text": "UTF-8", "audio": "any rate"}[self.modality]
        return f"{spec.sample_rate} Hz, {'mono' if spec.channels == 1 else 'stereo'}"


def described(sources: Sequence[str | dict[str, Any]]) -> list[Entry]:
    """Return the codecs that a user names. Those of the user's own files and registered ones are built untrained."""
    found = []
    for source in sources:
        name, given = codecs.restoring.request(source) if isinstance(source, dict) else (source, {})
        fresh = codecs.registry.is_reference(name) or name in codecs.names()
        if fresh and "checkpoint" not in given:
            with devices.without_weights():
                codec = codecs.build(name, **given)
        else:
            codec = codecs.load(source)
        label = codecs.restoring.label(source)
        found.append(Entry(label, type(codec), shipped=source in codecs.shipped(), codec=codec))
    return sorted(found, key=lambda entry: MODALITIES.index(entry.modality))


def entries() -> list[Entry]:
    """Return the shipped and the registered codecs, by modality and name."""
    found = []
    with devices.without_weights():
        for name in codecs.shipped():
            config = codecs.checkpoint.read_config(codecs.checkpoint.shipped_folder(name))
            codec = codecs.codec.build_known(**config["codec"])
            codec.license = codecs.checkpoint.license_of(config)
            found.append(Entry(name, type(codec), shipped=True, codec=codec))
        for name in codecs.names():
            cls = codecs.registry.codec_class(name)
            try:
                found.append(Entry(name, cls, shipped=False, codec=codecs.build(name)))
            except ValueError as error:  # text/bpe needs a tokenizer
                needs = f"models of transformers: {', '.join(cls.model_types)}" if cls.model_types else str(error)
                found.append(Entry(name, cls, shipped=False, codec=None, needs=needs))
    return sorted(found, key=lambda e: (MODALITIES.index(e.modality), not e.shipped, e.trains, e.name))


def _setting(codec: Codec) -> str:
    settings = codec.settings
    if settings.values == (None,):
        return "–"
    values = settings.values
    span = ", ".join(map(str, values)) if len(values) <= 4 else f"{values[0]} … {values[-1]}"
    unit = f" {settings.unit}" if settings.unit else ""
    return f"{settings.name} {span}{unit}, default {settings.default}"
