"""Losses of one's own: PESQ and STOI, as far as they have gradients, for codecs of speech at 8 kHz.

    pip install torch-pesq torch-stoi
    tokenloom train import=examples/speech_losses.py losses.pesq=1 losses.stoi=5 …

torch-pesq follows ITU-T P.862 without its alignment in time. A codec that was trained with a judge is not judged by it:
others, such as ViSQOL and the pitch, must agree. docs/judges.md shows a decoder of which they do not.
"""

import functools

import torch
from torch import Tensor
from torch_pesq import PesqLoss
from torch_stoi import NegSTOILoss

from tokenloom.train.losses import register

RATE = 8000


@functools.cache
def judge(kind: type, device: torch.device) -> torch.nn.Module:
    options = {"factor": 1.0} if kind is PesqLoss else {"use_vad": False}
    return kind(sample_rate=RATE, **options).to(device)


@register("pesq", "audio")
def pesq(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean disturbance of x (batch, channels, samples) against the reference y; 0 for equal sounds."""
    return judge(PesqLoss, x.device)(y.flatten(0, 1), x.flatten(0, 1)).mean()


@register("stoi", "audio")
def stoi(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 − STOI of x (batch, channels, samples) against the reference y, mean over the batch."""
    return 1 + judge(NegSTOILoss, x.device)(x.flatten(0, 1), y.flatten(0, 1)).mean()
