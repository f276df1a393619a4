"""`tokenloom encode`: turn a file into a file of tokens."""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import errors, lazy
from tokenloom.cli import known, options, paths

if TYPE_CHECKING:
    from torch import Tensor

    from tokenloom.codecs import Codec, Codes, Modality
    from tokenloom.codecs.media import Picture

codecs = lazy.load("tokenloom.codecs")
progress = lazy.load("tokenloom.progress")

TARGETS = {"psnr": "psnr", "bpp": "bits_per_pixel", "kbps": "kbps"}
"""Option → attribute of `Target`."""
EPILOG = f"""\
{known.MAPPING}
An audio codec without weights, such as audio/opus, is built for the sample rate and channels of the file.
For a trained audio codec, the sound is converted to the sample rate and channels of the codec.

examples:
  tokenloom encode photo.png --codec natural-fsq
  tokenloom encode photo.png -o small.tlm --codec image/avif --bpp 0.2
  tokenloom encode photo.png --codec image/jpeg --setting 30
  tokenloom encode song.wav --codec audio/opus --kbps 24
  tokenloom encode notes.txt --codec text/bytes
  tokenloom encode photo.png --codec my_codec.py:MyCodec
  tokenloom encode lecture.wav --codec digits-rvq
  cat photo.png | tokenloom encode - -o - --codec natural-fsq | tokenloom decode - -o - > back.png
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("input", type=paths.path, help="an image, sound or text file; - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        type=paths.path,
        help="the file to write, - for standard output; default: the input's name with .tlm, or -",
    )
    parser.add_argument("-c", "--codec", type=known.codec, metavar="CODEC", help=known.HELP)
    options.add_device(parser)
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--setting", help="a value of the codec's setting (listed by tokenloom codecs)")
    quality.add_argument("--psnr", type=float, metavar="DB", help="use the lowest setting that reaches this PSNR")
    quality.add_argument("--bpp", type=float, metavar="BITS", help="use the highest setting within this rate")
    quality.add_argument("--kbps", type=float, metavar="KBIT", help="use the highest setting within this rate")
    parser.add_argument("--measure", action="store_true", help="decode an image again, and report the PSNR")
    options.add_force(parser)
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    source = args.input
    paths.check_input(source, "a file with an image, a sound or a text")
    if args.codec is None:
        raise ValueError(f"encode needs --codec; {_suggestions(source)}")
    output = args.output or (source if source == paths.STREAM else paths.derived(source, ".tlm"))
    paths.check_output(output, source, force=args.force)
    known.require_codec(args.codec)
    codec, label = codecs.load(args.codec, device=args.device), codecs.restoring.label(args.codec)
    if (named := _modality(source)) not in (None, codec.spec.modality):
        noun = codecs.media.sources.NOUNS[named]
        raise ValueError(f"{label} is for {codec.spec.modality}, {source} is {noun}; {_suggestions(source)}")
    setting = _setting(args, codec, label)
    if _in_pieces(source, codec, setting):
        written = _encode_pieces(source, codec, setting, output, args)
        paths.report(output, f"{written} by {label}")
        return 0
    content = source if source != paths.STREAM and source.is_file() else paths.content(source)  # a pipe is read once
    if codec.spec.modality == "image" and (picture := _large_picture(content, codec)) is not None:
        data, told = _encode_tiles(source, picture, codec, setting, measure=args.measure or args.psnr is not None)
        paths.write(output, data, force=args.force)
        paths.report(output, f"{told} by {label}")
        return 0
    codec, signal = _read(content, codec, args)
    batch = [signal] if isinstance(signal, str) else signal[None]
    with progress.bar(f"encoding {source}", None, ""):
        codes = codec.encode(batch, setting)
        (data,) = codecs.bitstream.write(codec, codes)
        paths.write(output, data, force=args.force)
        description = _description(codec, codes, data)
        if (args.measure or args.psnr is not None) and codec.spec.modality == "image":
            description += f", {_fidelity(codec, batch, codes)}"
    paths.report(output, f"{description}, {extent(codec, codes.sizes[0].tolist())} by {label}")
    return 0


def _in_pieces(source: Path, codec: Codec, setting: Any) -> bool:
    """Return whether a sound is long, or comes from a pipe, and the codec can take it piece by piece."""
    if codec.spec.modality != "audio" or codec.stream_obstacle or isinstance(setting, codecs.Target):
        return False
    pieces = codecs.media.pieces
    if source == paths.STREAM:
        return sys.stdin is not None and pieces.is_wave(sys.stdin.buffer)
    return source.is_file() and pieces.is_long(source)


def _encode_pieces(source: Path, codec: Codec, setting: Any, output: Path, args: argparse.Namespace) -> str:
    """Encode a sound piece by piece, and return what was written."""
    media, channels, sample_rate = codecs.media, codec.spec.channels, codec.spec.sample_rate or 1
    piped = source == paths.STREAM
    header = None if piped else media.audio.read_header(source)
    pieces = media.pieces.read_pieces(sys.stdin.buffer if piped else source, sample_rate, channels)
    total = None if header is None else header.samples / header.sample_rate
    with (
        progress.bar(f"encoding {source}", total, "seconds") as bar,
        paths.writing(output, force=args.force) as file,
    ):

        def told(sounds: Iterable[Tensor]) -> Iterator[Tensor]:
            for sound in sounds:
                yield sound
                bar(sound.shape[1] / sample_rate)

        written = codecs.compress_stream(codec, told(pieces), file, setting)
    seconds = written.samples / sample_rate
    rate = 8 * written.bytes / seconds / 1000
    return f"{written.bytes} bytes, {written.tokens} tokens, {rate:.3f} kbit/s, {extent(codec, [written.samples])}"


def _large_picture(source: Path | bytes, codec: Codec) -> Picture | None:
    """Return a picture that is encoded tile by tile; None for a small one, or if the codec needs the whole."""
    if not codecs.media.images.is_large(source) or codecs.tile_obstacle(codec):
        return None
    return codecs.media.Picture(source)


def _encode_tiles(source: Path, picture: Picture, codec: Codec, setting: Any, *, measure: bool) -> tuple[bytes, str]:
    """Encode a picture tile by tile. Return the file, and what it holds as text."""
    pixels, file = math.prod(picture.size), io.BytesIO()
    passes = None if isinstance(setting, codecs.Target) else pixels  # a target takes several
    with progress.bar(f"encoding {source}", passes, "pixels") as bar:
        written = codecs.compress_tiles(codec, picture, file, setting, bar)
    data = file.getvalue()
    told = f"{len(data)} bytes, {written.tokens} tokens, {8 * len(data) / pixels:.4f} bits per pixel"
    if measure:
        with progress.bar(f"measuring {source}", None, ""):
            told += f", PSNR {codecs.streams.tiles.psnr(codec, picture, data):.2f} dB"
    return data, f"{told}, {extent(codec, picture.size)}"


def parse_setting(text: str, codec: Codec, name: str) -> Any:
    """Return the value of a codec's setting that `text` stands for. Error messages call the codec `name`."""
    settings = codec.settings
    if settings.values == (None,):
        raise ValueError(f"{name} has no setting; omit --setting {text}")
    for value in settings.values:
        if str(value) == text or (isinstance(value, int | float) and _number(text) == value):
            return value
    unit = f" {settings.unit}" if settings.unit else ""
    raise ValueError(f"{settings.name} of {name} must be one of {settings.describe()}{unit}, got {text}")


def extent(codec: Codec, size: Sequence[int]) -> str:
    """Return the size of a signal as text."""
    spec = codec.spec
    if spec.modality == "image":
        return f"{size[1]} x {size[0]} pixels"
    if spec.modality == "audio":
        channels = {1: "mono", 2: "stereo"}.get(spec.channels, f"{spec.channels} channels")
        return f"{size[0] / (spec.sample_rate or 1):.2f} s at {spec.sample_rate} Hz {channels}"
    return f"{size[0]} bytes of UTF-8"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _setting(args: argparse.Namespace, codec: Codec, label: str) -> Any:
    """Return the setting or the target of the command; None for the codec's default."""
    if args.setting is not None:
        return parse_setting(args.setting, codec, label)
    given = [name for name in TARGETS if getattr(args, name) is not None]
    if not given:
        return None
    option, value = given[0], getattr(args, given[0])
    if codec.settings.values == (None,):
        raise ValueError(f"{label} has no setting{_fixed_rate(codec)}; omit --{option} {value:g}")
    if (modality := codecs.targets.MODALITIES[TARGETS[option]]) is not codec.spec.modality:
        raise ValueError(f"--{option} is for {modality} codecs, {label} is for {codec.spec.modality}")
    return codecs.Target(**{TARGETS[option]: value})


def _fixed_rate(codec: Codec) -> str:
    """Return the nominal rate of a codec that has a single one."""
    spec = codec.spec
    if not (isinstance(codec, codecs.LatentCodec) and spec.stride):
        return ""
    bits = sum(codecs.rate.bits_per_token(spec)) / math.prod(spec.stride)
    rate = f"{bits * spec.sample_rate / 1000:.4g} kbit/s" if spec.sample_rate else f"{bits:.4g} bits per pixel"
    return f", its rate is always {rate}"


def _read(content: Path | bytes, codec: Codec, args: argparse.Namespace) -> tuple[Codec, Tensor | str]:
    """Read a file as the codec needs it. An audio codec without weights is replaced by one that fits the file."""
    media, spec, name = codecs.media, codec.spec, args.codec
    if spec.modality != "audio":
        return codec, media.read(content, spec.modality)
    untrained = isinstance(name, str) and (name in codecs.names() or codecs.registry.is_reference(name))
    variants = [v for v in codec.variants if "sample_rate" in v] if untrained else []
    if variants:
        native, channels, _ = media.audio.read_header(content)
        rates = sorted({v["sample_rate"] for v in variants})  # decoding finds only these
        nearest = next((r for r in rates if r >= native), rates[-1])
        codec = codecs.build(name, device=args.device, sample_rate=nearest, channels=channels if channels <= 2 else 1)
        spec = codec.spec
    return codec, media.read(content, spec.modality, sample_rate=spec.sample_rate, channels=spec.channels)


def _modality(source: Path) -> Modality | None:
    """Return the modality of a file's suffix; None for another suffix."""
    named = codecs.media.files.SUFFIXES.items()
    return next((modality for modality, suffixes in named if source.suffix.lower() in suffixes), None)


def _suggestions(source: Path) -> str:
    modality = _modality(source)
    if modality is None:
        return "tokenloom codecs lists all"
    checkpoint = codecs.checkpoint
    configs = {name: checkpoint.read_config(checkpoint.find(name))["codec"]["name"] for name in codecs.shipped()}
    shipped = [name for name, codec in configs.items() if codec.startswith(f"{modality}/")]
    ready = [name for name in codecs.names(modality) if codecs.registry.codec_class(name).variants]
    return f"for {modality} choose {errors.listed([*shipped, *ready])} (tokenloom codecs lists all)"


def _description(codec: Codec, codes: Codes, data: bytes) -> str:
    """Return bytes, tokens and rate as text."""
    rate = codecs.rate
    bits = rate.coded([data])
    parts = [f"{len(data)} bytes", f"{int(rate.tokens(codec.spec, codes)[0])} tokens"]
    if codec.spec.modality == "image":
        parts += [f"{rate.bits_per_pixel(bits, codes).item():.4f} bits per pixel"]
    elif codec.spec.modality == "audio":
        parts += [f"{rate.kbps(bits, codes, codec.spec).item():.3f} kbit/s"]
    return ", ".join(parts)


def _fidelity(codec: Codec, batch: Any, codes: Codes) -> str:
    rounded = " after rounding to 8 bits" if codecs.media.images.between_levels(batch) else ""
    return f"PSNR {codecs.targets.psnr(batch, codec.decode(codes)):.2f} dB{rounded}"
