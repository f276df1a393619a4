"""EnCodec at 24 kHz and 24 kbit/s, with random weights of the published size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from encodec import EncodecModel
from torch import Tensor

from tokenloom import codecs

from . import floor
from .case import Case

SECONDS = 10


@torch.no_grad()
def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.set_target_bandwidth(24.0)
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_().mul_(0.05)
        layer._codebook.inited.fill_(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encodec_24khz.th"
        torch.save(model.state_dict(), path)
        codec = codecs.build("audio/encodec", checkpoint=path)
    model.eval()
    x = (0.3 * torch.randn(1, 1, SECONDS * 24_000)).clamp(-1, 1)
    codes = codec.encode(x, 24.0)

    @torch.no_grad()
    def encode() -> Tensor:
        return model.encode(x)[0][0]

    @torch.no_grad()
    def decode() -> Tensor:
        return model.decode([(codes.indices, None)])[..., : x.shape[-1]]

    work = f"{SECONDS} s of audio/encodec at 24 kbit/s"

    def ours_encode() -> Tensor:
        return codec.encode(x, 24.0).indices

    def ours_decode() -> Tensor:
        return codec.decode(codes)

    yield Case("sound", f"encode {work}", "encodec", ours_encode, encode, _same_codes, floor.products(ours_encode))
    yield Case("sound", f"decode {work}", "encodec", ours_decode, decode, _same_sound, floor.products(ours_decode))


def _same_codes(ours: Tensor, theirs: Tensor) -> str:
    assert torch.equal(ours, theirs)
    return "equal"


def _same_sound(ours: Tensor, theirs: Tensor) -> str:
    error = (ours - theirs.clamp(-1, 1)).abs().max().item()
    assert error < 1e-4
    return f"within {error:.0e}" if error else "equal"
