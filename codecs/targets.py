"""`Target` in place of a setting: bisection over the dial, per item."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import Codec, Codes, Modality, Target, TargetError


def psnr(reference: Tensor, decoded: Tensor) -> float:
    """dB between two images in [0, 1], both rounded to 8 bits; inf where they are equal."""
    error = (reference * 255).round() - (decoded * 255).round()
    mse = error.double().square().mean().item()
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def meet(codec: Codec, x: Tensor | list[str], target: Target) -> Codes:
    """Codes of each item at the setting that meets the target; TargetError where none does."""
    if len(codec.settings) < 2:
        raise ValueError(f"{codec.name} has no setting to meet {target} with")
    kinds = {"psnr": Modality.IMAGE, "bits_per_pixel": Modality.IMAGE, "kbps": Modality.AUDIO}
    if codec.spec.modality is not kinds[target.name]:
        raise ValueError(f"{target} is for {kinds[target.name]} codecs; {codec.name} codes {codec.spec.modality}")
    return collate([_meet_one(codec, x[i : i + 1], target, i) for i in range(len(x))])


def _meet_one(codec: Codec, x: Tensor | list[str], target: Target, item: int) -> Codes:
    """Bisect `settings.values`, which rise in rate: the first to reach a PSNR, the last to keep a rate.

    Figures need not rise with the rate everywhere; where bisection ends with nothing, the points
    of the sweep are tried one by one.
    """
    settings, quality = codec.settings, target.name == "psnr"
    tried: dict[int, tuple[Codes, float]] = {}

    def beyond(i: int) -> bool:
        """Whether values[i] reaches the PSNR, or exceeds the rate."""
        if i not in tried:
            codes = codec.encode(x, settings.values[i])
            tried[i] = (codes, _figure(codec, x, codes, target))
        return tried[i][1] >= target.value if quality else tried[i][1] > target.value

    def meets(i: int) -> bool:
        return 0 <= i < len(settings) and beyond(i) == quality

    below, above = _bisect(beyond, -1, len(settings))
    if not meets(above if quality else below):
        places = [settings.values.index(v) for v in settings.sweep]
        if quality and (stop := next(filter(meets, places), None)) is not None:
            below, above = _bisect(beyond, -1, stop)
        elif not quality and (stop := next(filter(meets, reversed(places)), None)) is not None:
            below, above = _bisect(beyond, stop, len(settings))
    best = above if quality else below
    if meets(best):
        return tried[best][0]
    end = len(settings) - 1 if quality else 0
    raise TargetError(
        f"{target} is out of reach of {codec.name} on item {item}: "
        f"{settings.name}={settings.values[end]} gives {tried[end][1]:.4g}"
    )


def _bisect(beyond: Callable[[int], bool], below: int, above: int) -> tuple[int, int]:
    """Neighbours (i, i + 1) between `below`, where `beyond` is taken to be False, and `above`, where True."""
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if beyond(middle) else (middle, above)
    return below, above


def _figure(codec: Codec, x: Any, codes: Codes, target: Target) -> float:
    if target.name == "psnr":
        return psnr(x, codec.decode(codes))
    from . import bitstream, rate

    bits = rate.coded(bitstream.write(codec, codes))
    if target.name == "bits_per_pixel":
        return rate.bits_per_pixel(bits, codes).item()
    return rate.kbps(bits, codes, codec.spec).item()


def collate(parts: list[Codes]) -> Codes:
    """One batch from several; −1 fills unused quantizers, 0 positions beyond a length."""
    quantizers = max(p.indices.shape[1] for p in parts)
    grid = [max(p.indices.shape[axis] for p in parts) for axis in range(2, parts[0].indices.ndim)]
    indices = parts[0].indices.new_zeros(sum(len(p) for p in parts), quantizers, *grid)
    row = 0
    for part in parts:
        block = indices[row : row + len(part)]
        block[:, part.indices.shape[1] :] = -1
        block[(slice(None), slice(part.indices.shape[1]), *(slice(n) for n in part.indices.shape[2:]))] = part.indices
        row += len(part)
    lengths = None if parts[0].lengths is None else torch.cat([p.lengths for p in parts])
    side = {key: torch.cat([p.side[key] for p in parts]) for key in parts[0].side}
    return Codes(indices, torch.cat([p.sizes for p in parts]), lengths, side)
