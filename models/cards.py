"""Diffusion decoders and omni models on the hub, and what their model cards say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom.codecs.cards import NOUN
from tokenloom.codecs.hub import Card, Pretrained, number

if TYPE_CHECKING:
    from .diffusion.decoder import DiffusionDecoder
    from .omni import Omni


class Published(Pretrained):
    """By the hub's conventions what `models.save` and `models.load` are by ours."""

    def _write(self, folder: Path, **options: Any) -> None:
        from . import checkpoint

        checkpoint.save(self, folder, **options)

    @classmethod
    def _read(cls, source: str) -> Omni | DiffusionDecoder:
        from . import checkpoint

        return checkpoint.load(source)


def decoder(decoder: DiffusionDecoder) -> Card:
    """Whose codes it decodes, in how many steps, and the lines that do it."""
    codec = decoder.codec
    modality = codec.spec.modality
    facts = {
        "codes of": f"`{codec.name}`, fingerprint `{codec.fingerprint.hex()}`",
        "steps": str(decoder.steps),
        "temperature": f"{decoder.temperature:g}",
        "weights of the flow": number(sum(parameter.numel() for parameter in decoder.flow.parameters())),
    }
    return Card(
        f"A diffusion decoder of tokenloom: {NOUN[modality]} from codes, with the detail that the codes do not say.",
        ("codec", "diffusion", "rectified-flow", str(modality)),
        None,
        facts,
        "from tokenloom import models\n\ndecoder = models.load(SOURCE)\n"
        "y = decoder.decode(codes, seed=0)  # codes: of decoder.codec",
    )


def omni(omni: Omni) -> Card:
    """Its channels, their codecs, and the lines that generate."""
    channels = omni.vocabulary.channels.values()
    facts = {
        f"channel {channel.name}": f"{NOUN[channel.modality]}, `{channel.codec.name}`, "
        f"fingerprint `{channel.codec.fingerprint.hex()}`"
        for channel in channels
    }
    transformer = omni.transformer
    facts["transformer"] = (
        f"{number(sum(parameter.numel() for parameter in transformer.parameters()))} weights, "
        f"{omni.vocabulary.size:,} ids, a context of {transformer.config['context']:,}"
    )
    kinds = dict.fromkeys(channel.modality for channel in channels)
    calls = [f'result, = omni.generate(["a prompt"], to="{kind}")' for kind in kinds]
    return Card(
        "One autoregressive transformer of tokenloom over the tokens of several codecs.",
        ("any-to-any", *map(str, kinds)),
        "any-to-any" if len(kinds) > 1 else None,
        facts,
        "\n".join(("from tokenloom import models\n\nomni = models.load(SOURCE)", *calls)),
    )
