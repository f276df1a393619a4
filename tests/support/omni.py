"""Small untrained models, and prompts for them."""

from __future__ import annotations

from pathlib import Path

import torch

from support.codecs import structured, tiny
from tokenloom import codecs, models
from tokenloom.models import Omni
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import Channel, Vocabulary

CONTEXT = 160


def fresh(
    *, size: tuple[int, int] | None = (32, 24), pattern: str = "delay", longest: int = CONTEXT, **options
) -> Omni:
    """Return a model over four tiny codecs, with random weights so large that the output depends on the prompt."""
    vocabulary = Vocabulary(
        [
            Channel("text/bytes", codecs.build("text/bytes")),
            Channel("pictures", tiny("image/fsq")),
            Channel("flexible", tiny("image/flex"), 6),
            Channel("sounds", tiny("audio/rvq"), 2, pattern),
        ],
        longest,
    )
    torch.manual_seed(0)
    transformer = Transformer(
        vocabulary.size, vocabulary.places, width=32, layers=2, heads=2, kv_heads=1, context=CONTEXT
    )
    for name, weight in transformer.named_parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=2 * weight.shape[1] ** -0.5)
        elif name.startswith("embedding"):
            torch.nn.init.normal_(weight, std=0.15)
    return Omni(vocabulary, transformer, sizes={"pictures": size} if size else None, **options).eval()


def picture(height: int = 32, width: int = 24) -> torch.Tensor:
    return structured(tiny("image/fsq"), (height, width))[0]


def sound(samples: int = 100) -> torch.Tensor:
    return structured(tiny("audio/rvq"), (samples,))[0]


def untrained_decoder(folder: Path, name: str) -> models.DiffusionDecoder:
    """Return an untrained decoder of a tiny codec. `decoder_for` finds it while it is referenced."""
    codecs.save(tiny(name), folder / "codec")
    decoder = models.build_decoder({"codec": str(folder / "codec"), "widths": [8, 16], "depths": [1, 1]})
    models.save(decoder, folder / "decoder")
    return models.load(folder / "decoder")
