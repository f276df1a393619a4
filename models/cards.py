"""Model cards of diffusion decoders and omni models."""

from __future__ import annotations

from torch import nn

from tokenloom.codecs import Codec
from tokenloom.codecs.hub import Card, number
from tokenloom.codecs.hub.cards import NOUN

from .vocabulary.vocabulary import Vocabulary


def decoder(codec: Codec, steps: int, temperature: float, weights: int) -> Card:
    """Return the card of a diffusion decoder: its codec, its defaults, and lines that use it."""
    modality = codec.spec.modality
    facts = {
        "codes of": f"`{codec.name}`, fingerprint `{codec.fingerprint.hex()}`",
        "steps": str(steps),
        "temperature": f"{temperature:g}",
        "weights of the flow": number(weights),
    }
    return Card(
        f"A diffusion decoder of tokenloom: {NOUN[modality]} from codes, with detail that the codes do not determine.",
        ("codec", "diffusion", "rectified-flow", str(modality)),
        None,
        facts,
        "from tokenloom import models\n\ndecoder = models.load(SOURCE)\n"
        "y = decoder.decode(codes, seed=0)  # codes of decoder.codec",
    )


def omni(vocabulary: Vocabulary, transformer: nn.Module, context: int) -> Card:
    """Return the card of an omni model: its channels, their codecs, and lines that generate."""
    channels = vocabulary.channels.values()
    facts = {
        f"channel {channel.name}": f"{NOUN[channel.modality]}, `{channel.codec.name}`, "
        f"fingerprint `{channel.codec.fingerprint.hex()}`"
        for channel in channels
    }
    weights = number(sum(parameter.numel() for parameter in transformer.parameters()))
    facts["transformer"] = f"{weights} weights, {vocabulary.size:,} ids, a context of {context:,}"
    modalities = dict.fromkeys(channel.modality for channel in channels)
    calls = [f'result, = omni.generate(["a prompt"], to="{modality}")' for modality in modalities]
    return Card(
        "One autoregressive transformer of tokenloom over the tokens of several codecs.",
        ("any-to-any", *map(str, modalities)),
        "any-to-any" if len(modalities) > 1 else None,
        facts,
        "\n".join(("from tokenloom import models\n\nomni = models.load(SOURCE)", *calls)),
    )
