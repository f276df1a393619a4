"""Model cards of codecs."""

from __future__ import annotations

from .. import rate
from ..types import CodecInterface, Modality
from . import Card, number

NOUN = {Modality.TEXT: "text", Modality.IMAGE: "images", Modality.AUDIO: "audio"}
UNIT = {Modality.TEXT: "characters", Modality.IMAGE: "pixels", Modality.AUDIO: "samples"}
FILE = {Modality.TEXT: "notes.txt", Modality.IMAGE: "photo.png", Modality.AUDIO: "speech.wav"}


def codec(codec: CodecInterface, weights: int) -> Card:
    """Return the model card of a codec with this number of weights."""
    spec, settings = codec.spec, codec.settings
    sizes = sorted(set(spec.codebook_sizes))
    entries = f"{sizes[0]:,} entries" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} entries"
    facts = {"registered name": f"`{codec.name}`", "codebooks": f"{len(spec.codebook_sizes)} of {entries}"}
    if spec.stride:
        facts["stride"] = " × ".join(map(str, spec.stride)) + f" {UNIT[spec.modality]}"
        facts["nominal bits per position"] = f"{rate.bits_per_position(spec.codebook_sizes):.2f}"
    if spec.modality is Modality.AUDIO:
        facts["audio"] = f"{spec.sample_rate} Hz, {'mono' if spec.channels == 1 else 'stereo'}"
    if settings.name:
        unit = f" {settings.unit}" if settings.unit and settings.unit != settings.name else ""
        facts[settings.name] = f"{settings.describe()}{unit}, default {settings.default}"
    facts["weights"] = number(weights)
    facts["fingerprint"] = f"`{codec.fingerprint.hex()}`"
    return Card(
        f"A discrete codec of tokenloom for {NOUN[spec.modality]}: signal → integers → signal.",
        ("codec", "tokenizer", str(spec.modality)),
        None,
        facts,
        f"from tokenloom import codecs\n\ncodec = codecs.load(SOURCE)\n{_usage(codec)}",
    )


def _usage(codec: CodecInterface) -> str:
    modality, spec = codec.spec.modality, codec.spec
    options = f", sample_rate={spec.sample_rate}, channels={spec.channels}" if modality is Modality.AUDIO else ""
    batch = "[x]" if modality is Modality.TEXT else "x[None]"
    return f"x = codecs.read({FILE[modality]!r}{options})\ncodes = codec.encode({batch})\ny = codec.decode(codes)"
