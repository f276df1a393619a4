"""A small codec of each registered name, and signals for it."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import Codec, LatentCodec, Modality

NETWORK = {"stride": 8, "patch": 4, "widths": [8, 16], "depths": [1, 1], "decoder_depths": [1, 1]}
PUBLISHED = {
    "codebook_size": 64, "dim": 8, "channels": 8, "multipliers": [1, 1, 2, 2], "blocks": 1, "attention": [3],
    "latents": 8, "groups": 4,
}  # fmt: skip
TINY = {
    "image/vqgan": {"codebook_size": 64, "dim": 8, **NETWORK},
    "image/fsq": {"levels": [8, 5, 4], **NETWORK},
    "image/bsq": {"bits": 8, "codebooks": 2, **NETWORK},
    "image/rvq": {"codebook_size": 32, "dim": 8, "quantizers": 3, **NETWORK},
    "image/ntc": {
        "channels": 68, "widths": [8, 8, 8], "depths": [1, 0, 0], "decoder_depths": [1, 0, 0], "context": 8,
    },
    "image/flex": {"levels": [8, 5, 4], "tokens": 8, "tile": 48, "patch": 16, "width": 64, "depths": [1, 1]},
    "image/taming": PUBLISHED,
    "image/llamagen": PUBLISHED,
    "image/magvit2": {"channels": 32, "multipliers": [1, 1, 2], "blocks": 1, "bits": 18},
    "image/hf": {
        "model": {
            "model_type": "janus_vqgan", "embed_dim": 4, "num_embeddings": 1024, "latent_channels": 8,
            "base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1,
        },
    },
    "audio/rvq": {
        "sample_rate": 8000, "ratios": [4, 2], "filters": 4, "dim": 8, "codebook_size": 32, "quantizers": 3,
    },
    "audio/encodec": {
        "sample_rate": 8000, "ratios": [5, 4, 2], "filters": 4, "dim": 8, "lstm": 1, "codebook_size": 32,
        "bandwidths": [1, 2, 3],
    },
    "audio/hf": {
        "model": {
            "model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5],
            "n_codebooks": 3, "codebook_size": 64, "codebook_dim": 4, "sampling_rate": 8000,
        },
    },
}  # fmt: skip
"""Constructor arguments of the codecs that have weights."""

LYRA = Path(__file__).parents[3] / "shared" / "models" / "lyra"

MIDDLE = {Modality.IMAGE: (45, 38), Modality.AUDIO: (3001,), Modality.TEXT: (50,)}
"""Size of a signal of each modality that no stride divides."""

LINES = ["the quick brown fox jumps over the lazy dog", "every signal becomes integers", "naïve café, déjà vu"]


def one_line(error: pytest.ExceptionInfo) -> bool:
    """Return whether the message of an exception is one line of at most 2,000 characters."""
    text = str(error.value)
    return bool(text.strip()) and "\n" not in text and len(text) < 2000


def structured(codec: Codec, size: tuple[int, ...], seed: int = 0) -> Tensor | list[str]:
    """Return a batch of one signal with edges, gradients and a little noise, similar to real signals."""
    noise = torch.Generator().manual_seed(seed)
    if codec.spec.modality is Modality.TEXT:
        return [" ".join(LINES)[: size[0]]]
    if codec.spec.modality is Modality.AUDIO:
        t = torch.arange(size[0]) / codec.spec.sample_rate
        tone = sum(0.2 * torch.sin(2 * math.pi * f * t * (1 + 0.1 * seed)) for f in (220.0, 331.0, 1250.0))
        x = (tone * (0.6 + 0.4 * torch.cos(9 * t))).expand(codec.spec.channels, -1)
        return (x + 0.01 * torch.randn(x.shape, generator=noise)).clamp(-1, 1)[None]
    h, w = size
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.06).float()
    picture = torch.stack([0.6 * x + 0.3 * disc, 0.8 * y * (1 - 0.4 * disc), 0.5 + 0.4 * torch.sin(9 * (x + y + seed))])
    return (picture + 0.02 * torch.randn(picture.shape, generator=noise)).clamp(0, 1)[None]


def lyra() -> Path:
    """Return the folder of Lyra's published weights. Skip the test if there is none."""
    if not LYRA.is_dir():
        pytest.skip(f"needs the published weights of Lyra v2 in {LYRA}")
    return LYRA


@functools.cache
def tiny(name: str) -> Codec:
    """Return a codec of this name. A learned codec has random weights, scaled so that its codes vary."""
    if name == "text/bpe":
        return codecs.registry.codec_class(name).train_from_iterator(LINES * 4, vocab_size=300)
    if name == "audio/lyra":
        return codecs.build(name, checkpoint=lyra())
    torch.manual_seed(0)
    codec = codecs.build(name, **TINY.get(name, {}))
    if isinstance(codec, LatentCodec):
        scale_latents(codec)
    return codec


@torch.no_grad()
def scale_latents(codec: LatentCodec) -> None:
    """Give each latent channel mean 0 and spread 1, and each residual codebook half the spread of the one before."""
    if codec.start_items:
        codec.start(torch.cat([structured(codec, (48, 48), seed) for seed in range(40)]))
        for silent in (p for p in codec.parameters() if p.ndim > 1 and not p.any()):
            silent.normal_(std=0.02)
        return
    x = structured(codec, (64, 64) if codec.spec.modality is Modality.IMAGE else (2048,))
    latents = codec.analyze(x).transpose(0, 1).flatten(1)
    last = [m for m in codec.encoder.modules() if isinstance(m, torch.nn.Conv1d | torch.nn.Conv2d)][-1]
    mean, spread = latents.mean(1), latents.std(1)
    last.weight.div_(spread.reshape(-1, *[1] * (last.weight.ndim - 1)))
    last.bias.sub_(mean).div_(spread)
    if hasattr(codec.quantizer, "codebook"):
        for q, book in enumerate(codec.quantizer.codebook):
            book.normal_().mul_(0.5**q)


def signals(codec: Codec, size: tuple[int, ...], batch: int = 2) -> Tensor | list[str]:
    """Return a batch of different signals of one size."""
    parts = [structured(codec, size, seed) for seed in range(batch)]
    return [text for part in parts for text in part] if isinstance(parts[0], list) else torch.cat(parts)


def trains(name: str) -> bool:
    return issubclass(codecs.registry.codec_class(name), LatentCodec)
