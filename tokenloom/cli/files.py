"""`tokenloom encode` and `tokenloom decode`: one file of signal ↔ one file of tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenloom import codecs, files
from tokenloom.codecs import BitstreamError, Codec, Codes, Modality, Target, bitstream, media, rate, registry
from tokenloom.codecs.targets import psnr

SUFFIX = ".tlm"
DECODED_SUFFIX = {Modality.IMAGE: ".png", Modality.AUDIO: ".wav", Modality.TEXT: ".txt"}


def encode(
    source: Path, codec: str | None, output: Path | None = None, *, setting: str | None = None,
    target: Mapping[str, float] = {},
) -> str:  # fmt: skip
    """File → container, written whole or not at all; the line to show.

    setting  a value of the codec's dial as a person types it
    target   at most one of psnr, bits_per_pixel, kbps, in place of a setting
    """
    _check_input(source, "a picture, a sound or a text")
    if codec is None:
        raise ValueError(f"encode needs --codec; {_suggestions(source)}")
    output = source.with_suffix(SUFFIX) if output is None else output
    _check_output(source, output)
    found, signal = _open(source, codec)
    dial: Any = Target(**target) if target else None
    if setting is not None:
        dial = parse_setting(setting, found, codec)
    batch = [signal] if isinstance(signal, str) else signal[None]
    codes = found.encode(batch, dial)
    (data,) = bitstream.write(found, codes)
    with _writing(output):
        files.write(output, data)
    return f"{output}: {_describe(found, batch, codes, data)} by {codec}"


def decode(
    source: Path, output: Path | None = None, *, codec: str | None = None, decoder: str | None = None,
    steps: int | None = None, seed: int | None = None,
) -> str:  # fmt: skip
    """Container → file of the signal; the line to show.

    decoder  a diffusion decoder's name or folder, or "diffusion" for the one that belongs to the file's codec
    steps    of the decoder, None: its default; seed of its noise, None: 0
    """
    for option, value in (("--steps", steps), ("--seed", seed)):
        if decoder is None and value is not None:
            raise ValueError(f"{option} {value} is for a decoder; name one with --decoder, such as --decoder diffusion")
    _check_input(source, "what tokenloom encode wrote")
    data = source.read_bytes()
    try:
        found = _reader_of(data, codec, decoder, steps, seed or 0)
        chosen = output or source.with_suffix(DECODED_SUFFIX[found.spec.modality])
        _check_output(source, chosen)
        if media.modality(chosen) is not found.spec.modality:
            raise ValueError(
                f"{chosen} is a name for {media.modality(chosen)}, and {source} holds {found.spec.modality}"
            )
        if output is None and chosen.exists():
            raise ValueError(f"{chosen} exists and may be the original; name the output with -o")
        signal = found.decompress([data])[0]
    except BitstreamError as error:
        raise ValueError(f"{source}: {error}") from error
    with _writing(chosen):
        media.write(signal, chosen, sample_rate=found.spec.sample_rate)
    by = codec or found.name.partition("+")[0]
    by += "" if decoder is None else f", decoded by {decoder} in {found.steps} step{'s' * (found.steps != 1)}"
    return f"{chosen}: {_extent(found, bitstream.read(found, [data]))} from {len(data)} bytes by {by}"


def _reader_of(data: bytes, codec: str | None, decoder: str | None, steps: int | None, seed: int) -> Codec:
    """What decodes a container: the codec that wrote it, with the decoder behind it where one is named."""
    if decoder is None:
        return _writer_of(data, codec)
    from tokenloom.models.diffusion import codec as decoded

    if decoder == decoded.DIFFUSION:
        return decoded.Decoded(decoded.behind(_writer_of(data, codec), decoder), steps, seed)
    named = decoded.opened(decoder)  # first, for it brings its codec along
    decoded.require(named, decoder, _writer_of(data, codec))
    return decoded.Decoded(named, steps, seed)


def _open(source: Path, name: str) -> tuple[Codec, Tensor | str]:
    """The codec, and the file as it takes it: audio codecs without weights are built to fit the file."""
    codec = codecs.load(name)
    spec = codec.spec
    if spec.modality is not Modality.AUDIO:
        return codec, media.read(source, spec.modality)
    variants = [v for v in codec.variants if "sample_rate" in v] if name in codecs.names() else []
    if variants:
        native, channels = media.sample_rate(source), media.read(source, spec.modality).shape[0]
        rates = sorted({v["sample_rate"] for v in variants})  # only these are found again when decoding
        nearest = next((r for r in rates if r >= native), rates[-1])
        codec = codecs.build(name, sample_rate=nearest, channels=channels if channels <= 2 else 1)
        spec = codec.spec
    return codec, media.read(source, spec.modality, sample_rate=spec.sample_rate, channels=spec.channels)


def _writer_of(data: bytes, name: str | None) -> Codec:
    """The codec that wrote a container; with a name, only that one."""
    fingerprint = bitstream.fingerprint(data)
    if name is not None and name not in codecs.names():
        return codecs.load(name)  # decompress compares the fingerprints
    try:
        codec = codecs.codec.find(fingerprint)
    except BitstreamError as error:
        raise BitstreamError(
            f"written by a codec that is not at hand ({fingerprint.hex()}); name its folder with --codec"
        ) from error
    if name not in (None, codec.name):
        raise BitstreamError(f"written by {codec.name}, not by {name}")
    return codec


def parse_setting(text: str, codec: Codec, name: str) -> Any:
    """The value of the dial that a person means by `text`."""
    settings = codec.settings
    if settings.values == (None,):
        raise ValueError(f"{name} has no setting; leave --setting {text} out")
    for value in settings.values:
        if str(value) == text or (isinstance(value, int | float) and _number(text) == value):
            return value
    unit = f" {settings.unit}" if settings.unit else ""
    raise ValueError(f"{settings.name} {text} of {name} is none of {settings.describe()}{unit}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _suggestions(source: Path) -> str:
    kind = media.modality(source)
    fitting = [n for n in codecs.shipped() if codecs.load(n).spec.modality is kind]
    fitting += [n for n in codecs.names(kind) if registry.codec_class(n).variants]
    return f"for {kind} there are {', '.join(fitting)}, and what you train"


# -- what is said -------------------------------------------------------------------------------


def _describe(codec: Codec, batch: Tensor | list[str], codes: Codes, data: bytes) -> str:
    """Bytes, tokens, rate and, for images, PSNR."""
    bits = rate.coded([data])
    parts = [f"{len(data)} bytes", f"{int(rate.tokens(codec.spec, codes)[0])} tokens"]
    if codec.spec.modality is Modality.IMAGE:
        parts += [f"{rate.bits_per_pixel(bits, codes).item():.4f} bits per pixel"]
        parts += [f"PSNR {psnr(batch, codec.decode(codes)):.2f} dB"]
    elif codec.spec.modality is Modality.AUDIO:
        parts += [f"{rate.kbps(bits, codes, codec.spec).item():.3f} kbit/s"]
    return f"{', '.join(parts)}, {_extent(codec, codes)}"


def _extent(codec: Codec, codes: Codes) -> str:
    """How large the signal is, in the words of its kind."""
    spec, size = codec.spec, codes.sizes[0].tolist()
    if spec.modality is Modality.IMAGE:
        return f"{size[1]} x {size[0]} pixels"
    if spec.modality is Modality.AUDIO:
        channels = {1: "mono", 2: "stereo"}.get(spec.channels, f"{spec.channels} channels")
        return f"{size[0] / spec.sample_rate:.2f} s at {spec.sample_rate} Hz {channels}"
    return f"{size[0]} bytes of UTF-8"


# -- where it comes from and goes to ------------------------------------------------------------


def _check_input(source: Path, wanted: str) -> None:
    if source.is_dir():
        raise ValueError(f"{source} is a folder; wanted a file with {wanted}")
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}; wanted one with {wanted}")


def _check_output(source: Path, output: Path) -> None:
    """Refuse, before any work, what could not be written or would destroy the input."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder; the output is a file")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} to")
    if output.exists():
        if output.samefile(source):
            raise ValueError(f"{output} is the input; name another output with -o")
        if not output.is_file():
            raise ValueError(f"{output} is no regular file")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"{output.parent} is a folder that cannot be written to")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """What the system refuses is said of the output, not of the temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
