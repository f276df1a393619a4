"""VQGAN f16 at 256², with random weights of the published size, and natural-ntc at 512² beside AVIF."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers import VQModel
from PIL import Image
from skimage import data
from torch import Tensor

from tokenloom import codecs

from . import floor
from .case import Case

SIZE = 256
WIDTHS = (128, 128, 256, 256, 512)
NAMES = (
    (r"\.stages\.(\d)\.blocks\.", r".blocks.\1.resnets."), (r"\.stages\.(\d)\.attentions\.", r".blocks.\1.attentions."),
    (r"\.stages\.(\d)\.resample\.", r".blocks.\1.resamplers.0."), (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."), (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"(attentions\.\d\.)([qkv])\.", r"\1to_\2."), (r"(attentions\.\d\.)project\.", r"\1to_out.0."),
    (r"(attentions\.\d\.)norm\.", r"\1group_norm."), (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."), (r"^encoder\.project\.", "quant_conv."),
    (r"^decoder\.project\.", "post_quant_conv."), (r"^(encoder)\.blocks\.", r"\1.down_blocks."),
    (r"^(decoder)\.blocks\.", r"\1.up_blocks."), (r"^(encoder.*\.)resamplers", r"\1downsamplers"),
    (r"^(decoder.*\.)resamplers", r"\1upsamplers"),
)  # fmt: skip
"""Pattern of our name → that of diffusers."""


def cases() -> Iterator[Case]:
    yield from _networks()
    yield from _files()


@torch.no_grad()
def _networks() -> Iterator[Case]:
    torch.manual_seed(0)
    codec = codecs.build("image/taming")
    x = torch.rand(1, 3, SIZE, SIZE)
    latents = codec.analyze(x).transpose(0, 1).flatten(1)
    codec.quantizer.codebook.copy_(latents.mean(1) + latents.std(1) * torch.randn_like(codec.quantizer.codebook))
    peer = _peer(codec)
    codes = codec.encode(x)

    @torch.no_grad()
    def encode() -> Tensor:
        return peer.quantize(peer.encode(x * 2 - 1).latents)[2][2].reshape(codes.indices.shape)

    @torch.no_grad()
    def decode() -> Tensor:
        latents = peer.quantize.get_codebook_entry(codes.indices.flatten(), (1, SIZE // 16, SIZE // 16, 256))
        return ((peer.decode(latents, force_not_quantize=True).sample + 1) / 2).clamp(0, 1)

    work = f"a picture of {SIZE}² by image/taming (VQGAN f16)"

    def ours_encode() -> Tensor:
        return codec.encode(x).indices

    def ours_decode() -> Tensor:
        return codec.decode(codes)

    for verb, ours, theirs, check in (
        ("encode", ours_encode, encode, _same_codes),
        ("decode", ours_decode, decode, _same_picture),
    ):
        yield Case("pictures", f"{verb} {work}", "diffusers", ours, theirs, check, floor.products(ours))


def _peer(codec: Any) -> VQModel:
    """Return diffusers' model of the same network with the weights of a codec."""
    coarse = len(WIDTHS) - 1
    peer = VQModel(
        down_block_types=("DownEncoderBlock2D",) * coarse + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * coarse,
        block_out_channels=WIDTHS, layers_per_block=2, latent_channels=256, num_vq_embeddings=1024, vq_embed_dim=256,
    )  # fmt: skip
    state = {"quantize.embedding.weight": codec.quantizer.codebook[0]}
    shapes = peer.state_dict()
    for name, value in codec.state_dict().items():
        if name.startswith(("encoder.", "decoder.")):
            for pattern, theirs in NAMES:
                name = re.sub(pattern, theirs, name)
            state[name] = value.reshape(shapes[name].shape)
    peer.load_state_dict(state)
    return peer.eval()


def _same_codes(ours: Tensor, theirs: Tensor) -> str:
    assert torch.equal(ours, theirs)
    return "equal"


def _same_picture(ours: Tensor, theirs: Tensor) -> str:
    error = (ours - theirs).abs().max().item()
    assert error < 1e-4
    return f"within {error:.0e}"


def _files() -> Iterator[Case]:
    """A photograph as a file, at the default quality of natural-ntc, and AVIF at the next lower number of bytes."""
    codec, pixels = codecs.load("natural-ntc"), data.astronaut()
    x, image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, Image.fromarray(pixels)
    (ours,) = codec.compress(x)

    def write(quality: int) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "avif", quality=quality, speed=6, max_threads=1)
        return stream.getvalue()

    def read() -> Tensor:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(theirs)))).permute(2, 0, 1)[None] / 255

    quality = max(q for q in range(100) if len(write(q)) <= len(ours))
    theirs = write(quality)
    work = "a photograph of 512² by natural-ntc"
    yield Case(
        "pictures", f"write {work}", "Pillow: AVIF, speed 6", lambda: codec.compress(x)[0], lambda: write(quality),
        lambda ours, theirs: f"{len(ours):,} bytes against {len(theirs):,}", floor.products(lambda: codec.encode(x)),
    )  # fmt: skip
    codes = codec.encode(x)
    yield Case(
        "pictures", f"read {work}", "Pillow: AVIF, speed 6", lambda: codec.decompress([ours]), read,
        lambda ours, theirs: f"{_psnr(ours, x):.1f} dB against {_psnr(theirs, x):.1f} dB",
        floor.products(lambda: codec.decode(codes)),
    )  # fmt: skip


def _psnr(found: Tensor, x: Tensor) -> float:
    return -10 * (found - x).square().mean().log10().item()
