"""`tokenloom decode`: turn a file of tokens back into a signal."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import lazy
from tokenloom.cli import known, options, paths
from tokenloom.cli.commands.encode import extent

if TYPE_CHECKING:
    from torch import Tensor

    from tokenloom.codecs import Box, Codec, SegmentReader, TileReader

codecs = lazy.load("tokenloom.codecs")
diffusion = lazy.load("tokenloom.models.diffusion.codec")
devices = lazy.load("tokenloom.devices")
progress = lazy.load("tokenloom.progress")

EPILOG = f"""\
The file identifies its codec by a fingerprint. Codecs without weights and shipped codecs are found by it.
{known.MAPPING}
Without -o an existing file is not overwritten: photo.png may be the original.
A diffusion decoder adds detail that the codes do not hold. The result is sharper, and its pixels are further from the
original.

examples:
  tokenloom decode photo.tlm -o back.png
  tokenloom decode song.tlm
  tokenloom decode song.tlm -o - | ffplay -
  tokenloom decode lecture.tlm -o part.wav --start 3600 --stop 3660
  tokenloom decode map.tlm -o part.png --crop 512x512+9000+4000
  tokenloom decode photo.tlm -o back.png --codec runs/mine
  tokenloom decode photo.tlm -o sharp.png --decoder diffusion
  tokenloom decode photo.tlm -o sharp.png --decoder natural-fsq-diffusion --steps 2 --seed 1
"""
KINDS = {"start": ("audio",), "stop": ("audio",), "crop": ("image",), "salvage": ("audio", "image")}
"""Option → what it is for."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("input", type=paths.path, help="a file that tokenloom encode wrote; - for standard input")
    parser.add_argument(
        "-o",
        "--output",
        type=paths.path,
        help="the file to write, - for standard output; default: the input's name with .png, .wav or .txt, or -",
    )
    parser.add_argument(
        "-c",
        "--codec",
        type=known.codec,
        metavar="CODEC",
        help="the codec that wrote the file, if it is not shipped: a folder, a hub id, or my_codec.py:MyCodec",
    )
    parser.add_argument(
        "--decoder",
        type=paths.name,
        metavar="NAME",
        help="a diffusion decoder's name or folder; diffusion: the one made for the codec",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the decoder, 1 is fastest; default: its own")
    parser.add_argument("--start", type=options.seconds, metavar="SECONDS", help="decode a sound from this time on")
    parser.add_argument("--stop", type=options.seconds, metavar="SECONDS", help="decode a sound up to this time")
    parser.add_argument(
        "--crop", type=options.crop, metavar="WxH+X+Y", help="decode a part of a picture, such as 512x512+1000+0"
    )
    parser.add_argument(
        "--salvage", action="store_true", default=None, help="decode what is left of a damaged sound or large picture"
    )
    options.add_device(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the decoder's noise (default: 0)")
    options.add_force(parser)
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    source = args.input
    for option, number in (("--steps", args.steps), ("--seed", args.seed)):
        if args.decoder is None and number is not None:
            raise ValueError(f"{option} {number} needs a decoder; name one with --decoder, such as --decoder diffusion")
    paths.check_input(source, "a file that tokenloom encode wrote")
    if args.codec is not None:
        known.require_codec(args.codec)
    device = devices.resolve(args.device)
    data = paths.content(source)
    try:
        codec = _codec(data, args).to(device)
        modality = codec.spec.modality
        suffix = paths.SUFFIX[modality]
        output = args.output or (source if source == paths.STREAM else paths.derived(source, suffix))
        paths.check_output(output, source, force=args.force)
        written = Path(f"standard output{suffix}") if output == paths.STREAM else output
        if (named := codecs.media.modality(written)) is not modality:
            raise ValueError(f"the name {output} is for {named}, but {source} holds {modality}")
        by = _named(codec, data, args)
        if _in_pieces(source, data, codec, args):
            told = _decode_pieces(source, data, codec, output, args)
            paths.report(output, f"{told} from {len(data)} bytes by {by}")
            return 0
        with progress.bar(f"decoding {source}", None, ""):
            codes = codecs.bitstream.read(codec, [data])
            signal = codecs.bitstream.decode(codec, codes)[0]
            if args.crop is not None:
                rows, columns = _crop(source, codec, tuple(codes.sizes[0].tolist()), args).ranges
                signal = signal[:, rows.start : rows.stop, columns.start : columns.stop]
    except codecs.BitstreamError as error:
        raise ValueError(f"{source}: {error}") from error
    size = codes.sizes[0].tolist() if args.crop is None else signal.shape[1:]
    content = codecs.media.to_bytes(signal, written, sample_rate=codec.spec.sample_rate)
    paths.write(output, content, force=args.force)
    paths.report(output, f"{extent(codec, size)} from {len(data)} bytes by {by}")
    return 0


def _named(codec: Codec, data: bytes, args: argparse.Namespace) -> str:
    """Return the name of the codec of a file, and of the decoder, as text."""
    shipped = codecs.checkpoint.shipped_with(codecs.bitstream.fingerprint(data).hex())
    named = None if args.codec is None else codecs.restoring.label(args.codec)
    by = named or shipped or codec.name.partition("+")[0]
    if isinstance(codec, diffusion.DiffusionCodec):
        by += f", decoded by {args.decoder} in {codec.steps} step{'s' * (codec.steps != 1)}"
    return by


def _in_pieces(source: Path, data: bytes, codec: Codec, args: argparse.Namespace) -> bool:
    """Return whether a file is decoded piece by piece. Raises ValueError for options that do not go together."""
    wanted = [name for name in KINDS if getattr(args, name) is not None]
    for name in wanted:
        if codec.spec.modality not in KINDS[name]:
            raise ValueError(f"--{name} is for {' and '.join(KINDS[name])}, {source} holds {codec.spec.modality}")
        if args.decoder is not None and name != "crop":
            raise ValueError(f"--{name} works without --decoder only")
    if wanted == ["crop"] and codecs.tile_obstacle(codec):
        return False
    return args.decoder is None and (bool(wanted) or codecs.bitstream.is_segmented(data))


def _decode_pieces(source: Path, data: bytes, codec: Codec, output: Path, args: argparse.Namespace) -> str:
    """Decode a sound or a picture piece by piece to a file, and return its extent."""
    salvage = bool(args.salvage)
    try:
        if codec.spec.modality == "image":
            return _write_tiles(source, codecs.TileReader(data, salvage=salvage), codec, output, args)
        return _write_pieces(source, codecs.SegmentReader(data, salvage=salvage), codec, output, args)
    except codecs.BitstreamError as error:
        own = codec.fingerprint == codecs.bitstream.fingerprint(data)
        if own and codecs.bitstream.is_segmented(data) and not salvage:
            raise codecs.BitstreamError(f"{error}; --salvage decodes what is left") from error
        raise


def _write_tiles(source: Path, reader: TileReader, codec: Codec, output: Path, args: argparse.Namespace) -> str:
    """Decode a picture tile by tile to a file, and return its extent."""
    name = Path(f"standard output{paths.SUFFIX['image']}") if output == paths.STREAM else output
    box = _crop(source, codec, reader.size, args)
    canvas = codecs.media.Canvas(box.size, name)
    with progress.bar(f"decoding {source}", math.prod(box.size), "pixels") as bar:
        for part, signal in codecs.decompress_tiles(reader, codec, box):
            canvas.paste(part.top - box.top, part.left - box.left, signal)
            bar(math.prod(part.size))
        with paths.writing(output, force=args.force) as file:
            canvas.save(file)
    for line in reader.lost:
        print(f"{source}: {line}", file=sys.stderr)
    return extent(codec, box.size)


def _crop(source: Path, codec: Codec, size: tuple[int, int], args: argparse.Namespace) -> Box:
    """Return the rows and columns to decode. Raises ValueError if they are not within the picture."""
    whole = codecs.Box(0, 0, *size)
    box = whole if args.crop is None else codecs.Box(*args.crop)
    if box.within(whole) != box:
        raise ValueError(
            f"--crop must be within {source}, {extent(codec, size)}, got {extent(codec, box.size)} from {box}"
        )
    return box


def _write_pieces(source: Path, reader: SegmentReader, codec: Codec, output: Path, args: argparse.Namespace) -> str:
    """Decode a sound piece by piece to a file, and return its extent."""
    rate, channels = codec.spec.sample_rate or 1, codec.spec.channels
    start, stop = round((args.start or 0) * rate), None if args.stop is None else round(args.stop * rate)
    ends = [end for end in (reader.samples, stop) if end is not None]
    if ends and start >= min(ends):
        length = "" if reader.samples is None else f", {reader.samples / rate:.2f} s"
        raise ValueError(f"--start must be before --stop and the end of {source}{length}, got {start / rate:.2f} s")
    samples, count = None if reader.samples is None else min(ends) - start, 0
    sounds = codecs.decompress_stream(reader, codec, start, stop)

    def told(sounds: Iterable[Tensor]) -> Iterator[Tensor]:
        nonlocal count
        for sound in sounds:
            yield sound
            count += sound.shape[1]
            bar(sound.shape[1] / rate)

    suffix = paths.SUFFIX["audio"] if output == paths.STREAM else output.suffix
    total = None if samples is None else samples / rate
    with (
        progress.bar(f"decoding {source}", total, "seconds") as bar,
        paths.writing(output, force=args.force) as file,
    ):
        codecs.media.pieces.write_pieces(told(sounds), file, suffix, rate, channels, samples)
        if not count:
            raise ValueError(f"{source} ends before --start {start / rate:.2f}")
    for line in reader.lost:
        print(f"{source}: {line}", file=sys.stderr)
    return extent(codec, [count])


def _codec(data: bytes, args: argparse.Namespace) -> Codec:
    """Return the codec that wrote a container, with the diffusion decoder of the command, if any."""
    if args.decoder is None:
        return _writer(data, args.codec)
    if args.decoder == diffusion.DIFFUSION:
        decoder = diffusion.find_decoder(_writer(data, args.codec), args.decoder)
    else:
        decoder = diffusion.load_decoder(args.decoder)  # loads the decoder's codec too, which _writer can then find
        diffusion.require_codec(decoder, args.decoder, _writer(data, args.codec))
    return diffusion.DiffusionCodec(decoder, args.steps, args.seed or 0)


def _writer(data: bytes, name: str | dict[str, Any] | None) -> Codec:
    """Return the codec that wrote a container. If `name` is given, raise BitstreamError for another codec."""
    fingerprint = codecs.bitstream.fingerprint(data)
    if name is not None and name not in codecs.names():
        return codecs.load(name)  # reading compares the fingerprints
    try:
        codec = codecs.codec.find(fingerprint)
    except codecs.BitstreamError as error:
        raise codecs.BitstreamError(
            f"no available codec has the fingerprint {fingerprint.hex()}; name the codec's folder with --codec"
        ) from error
    if name not in (None, codec.name):
        raise codecs.BitstreamError(f"written by {codec.name}, not by {name}")
    return codec
