"""A file of a signal ↔ a file of tokens, as `tokenloom encode` and `tokenloom decode` convert them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenloom import codecs, files
from tokenloom.cli import outputs
from tokenloom.codecs import BitstreamError, Codec, Codes, Modality, Target, bitstream, media, rate, registry
from tokenloom.codecs.targets import psnr
from tokenloom.models.diffusion import codec as diffusion
from tokenloom.models.diffusion import decoder as decoders

SUFFIX = ".tlm"


def encode(
    source: Path, codec: str | None, output: Path | None = None, *, setting: str | None = None,
    target: Mapping[str, float] = {},
) -> str:  # fmt: skip
    """Encode a file to a container, and return a line that describes it. The container is written atomically.

    Args:
        source: An image, sound or text file.
        codec: A registered name, a shipped name, a folder or a hub id.
        output: The container; None for the source's name with .tlm.
        setting: A value of the codec's setting as typed.
        target: At most one of psnr, bits_per_pixel, kbps, instead of a setting.
    """
    _check_input(source, "a file with an image, a sound or a text")
    if codec is None:
        raise ValueError(f"encode needs --codec; {_suggestions(source)}")
    output = source.with_suffix(SUFFIX) if output is None else output
    outputs.check(output, source)
    loaded, signal = _open(source, codec)
    value: Any = Target(**target) if target else None
    if setting is not None:
        value = parse_setting(setting, loaded, codec)
    batch = [signal] if isinstance(signal, str) else signal[None]
    codes = loaded.encode(batch, value)
    (data,) = bitstream.write(loaded, codes)
    with _writing(output):
        files.write(output, data)
    return f"{output}: {_describe(loaded, batch, codes, data)} by {codec}"


def decode(
    source: Path, output: Path | None = None, *, codec: str | None = None, decoder: str | None = None,
    steps: int | None = None, seed: int | None = None,
) -> str:  # fmt: skip
    """Decode a container to a file, and return a line that describes it.

    Args:
        source: A file that `encode` wrote.
        output: The file to write; None for the source's name with .png, .wav or .txt, which must not exist.
        codec: The codec that wrote the container, if it is not shipped.
        decoder: Name or folder of a diffusion decoder; "diffusion" for the one made for the codec.
        steps: Steps of the decoder; None for its default.
        seed: Seed of the decoder's noise; None for 0.
    """
    for option, number in (("--steps", steps), ("--seed", seed)):
        if decoder is None and number is not None:
            raise ValueError(f"{option} {number} needs a decoder; name one with --decoder, such as --decoder diffusion")
    _check_input(source, "a file that tokenloom encode wrote")
    data = source.read_bytes()
    try:
        reader = _reader(data, codec, decoder, steps, seed or 0)
        modality = reader.spec.modality
        chosen = output or source.with_suffix(outputs.SUFFIX[modality])
        outputs.check(chosen, source)
        if (named := media.modality(chosen)) is not modality:
            raise ValueError(f"the name {chosen} is for {named}, but {source} holds {modality}")
        if output is None and chosen.exists():
            raise ValueError(f"{chosen} exists and may be the original; name the output with -o")
        signal = reader.decompress([data])[0]
    except BitstreamError as error:
        raise ValueError(f"{source}: {error}") from error
    with _writing(chosen):
        media.write(signal, chosen, sample_rate=reader.spec.sample_rate)
    by = codec or reader.name.partition("+")[0]
    if isinstance(reader, diffusion.DiffusionCodec):
        by += f", decoded by {decoder} in {reader.steps} step{'s' * (reader.steps != 1)}"
    return f"{chosen}: {_extent(reader, bitstream.read(reader, [data]))} from {len(data)} bytes by {by}"


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


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# -- codecs ----------------------------------------------------------------------------------------


def _reader(data: bytes, codec: str | None, decoder: str | None, steps: int | None, seed: int) -> Codec:
    """Return the codec that wrote a container, with the diffusion decoder `decoder`, if any."""
    if decoder is None:
        return _writer(data, codec)
    if decoder == diffusion.DIFFUSION:
        return diffusion.DiffusionCodec(diffusion.find_decoder(_writer(data, codec), decoder), steps, seed)
    opened = decoders.load(decoder)  # before the codec is looked for: opening a decoder loads its codec
    diffusion.require_codec(opened, decoder, _writer(data, codec))
    return diffusion.DiffusionCodec(opened, steps, seed)


def _writer(data: bytes, name: str | None) -> Codec:
    """Return the codec that wrote a container; it must have the name, if one is given."""
    fingerprint = bitstream.fingerprint(data)
    if name is not None and name not in codecs.names():
        return codecs.load(name)  # decompress compares the fingerprints
    try:
        codec = codecs.codec.find(fingerprint)
    except BitstreamError as error:
        raise BitstreamError(
            f"no available codec has the fingerprint {fingerprint.hex()}; name the codec's folder with --codec"
        ) from error
    if name not in (None, codec.name):
        raise BitstreamError(f"written by {codec.name}, not by {name}")
    return codec


def _open(source: Path, name: str) -> tuple[Codec, Tensor | str]:
    """Load a codec, and read a file as the codec needs it. Audio codecs without weights are built to fit the file."""
    codec = codecs.load(name)
    spec = codec.spec
    if spec.modality is not Modality.AUDIO:
        return codec, media.read(source, spec.modality)
    variants = [v for v in codec.variants if "sample_rate" in v] if name in codecs.names() else []
    if variants:
        native, channels = media.sample_rate(source), len(media.read(source, spec.modality))
        rates = sorted({v["sample_rate"] for v in variants})  # decoding finds only these
        nearest = next((r for r in rates if r >= native), rates[-1])
        codec = codecs.build(name, sample_rate=nearest, channels=channels if channels <= 2 else 1)
        spec = codec.spec
    return codec, media.read(source, spec.modality, sample_rate=spec.sample_rate, channels=spec.channels)


def _suggestions(source: Path) -> str:
    modality = media.modality(source)
    fitting = [name for name in codecs.shipped() if codecs.load(name).spec.modality is modality]
    fitting += [name for name in codecs.names(modality) if registry.codec_class(name).variants]
    return f"for {modality} choose {', '.join(fitting)}, or a codec of your own"


# -- output ----------------------------------------------------------------------------------------


def _describe(codec: Codec, batch: Tensor | list[str], codes: Codes, data: bytes) -> str:
    """Return bytes, tokens and rate as text, and the PSNR of an image."""
    bits = rate.coded([data])
    parts = [f"{len(data)} bytes", f"{int(rate.tokens(codec.spec, codes)[0])} tokens"]
    if codec.spec.modality is Modality.IMAGE:
        parts += [f"{rate.bits_per_pixel(bits, codes).item():.4f} bits per pixel"]
        decoded = codec.decode(codes)
        if isinstance(batch, Tensor) and isinstance(decoded, Tensor):
            parts += [f"PSNR {psnr(batch, decoded):.2f} dB"]
    elif codec.spec.modality is Modality.AUDIO:
        parts += [f"{rate.kbps(bits, codes, codec.spec).item():.3f} kbit/s"]
    return f"{', '.join(parts)}, {_extent(codec, codes)}"


def _extent(codec: Codec, codes: Codes) -> str:
    """Return the size of the signal as text."""
    spec, size = codec.spec, codes.sizes[0].tolist()
    if spec.modality is Modality.IMAGE:
        return f"{size[1]} x {size[0]} pixels"
    if spec.modality is Modality.AUDIO:
        channels = {1: "mono", 2: "stereo"}.get(spec.channels, f"{spec.channels} channels")
        return f"{size[0] / spec.sample_rate:.2f} s at {spec.sample_rate} Hz {channels}"
    return f"{size[0]} bytes of UTF-8"


def _check_input(source: Path, required: str) -> None:
    if source.is_dir():
        raise ValueError(f"the input must be {required}, {source} is a folder")
    if not source.exists():
        raise FileNotFoundError(f"there is no file {source}; the input must be {required}")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Let an error of the operating system name the output, not the temporary file next to it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
