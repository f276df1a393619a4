"""A `Target` in place of a setting: per item, by bisection over the settings or by comparing all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from . import batches, bitstream, rate
from .types import CodecInterface, Codes, Modality, Target, TargetError

MODALITIES = {
    "psnr": Modality.IMAGE, "slope": Modality.IMAGE, "bits_per_pixel": Modality.IMAGE, "kbps": Modality.AUDIO,
}  # fmt: skip
"""Attribute of the target → modality of the codecs that support it."""
MAX_PIXELS_AT_ONCE = 2**18
"""Most pixels of a batch in which several settings of one image are decoded."""


def psnr(reference: Tensor, decoded: Tensor) -> float:
    """Return the PSNR in dB of two images in [0, 1], both rounded to 8 bits; inf if they are equal."""
    error = (reference * 255).round() - (decoded * 255).round()
    return decibel(error.cpu().double().square().mean().item())


def decibel(mse: float) -> float:
    """Return the PSNR in dB for a mean squared error of 8-bit values; inf for 0."""
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def meet(codec: CodecInterface, x: Any, target: Target) -> Codes:
    """Encode each item of `x`, a batch of signals, at the setting that meets the target.

    Raises:
        ValueError: If the codec has no settings, or the target is for another modality.
        TargetError: If no setting meets the target on an item.
    """
    require(codec, target)
    if target.name == "slope" or (target.name == "psnr" and codec.pieces(tuple(x.shape[2:])) > 1):
        return batches.collate([_best(codec, x[i : i + 1], target, i) for i in range(len(x))])
    items = SettingCodes.split(codec, x)
    chosen = _run_together([_search(codec, target, i) for i in range(len(x))], items, target)
    return batches.collate([item.at(index) for item, index in zip(items, chosen, strict=True)])


def require(codec: CodecInterface, target: Target) -> None:
    """Raise ValueError if a codec has no settings, or the target is for another modality."""
    if len(codec.settings) < 2:
        raise ValueError(f"{codec.name} has no setting, so it cannot meet {target}")
    if codec.spec.modality is not MODALITIES[target.name]:
        raise ValueError(f"{target} is for {MODALITIES[target.name]} codecs; {codec.name} codes {codec.spec.modality}")


def find(codec: CodecInterface, target: Target, measure: Callable[[int], float]) -> int:
    """Return the index of the setting that meets a target of PSNR or rate on one signal.

    Args:
        codec: A codec with settings.
        target: The target.
        measure: Returns the PSNR or the rate at the setting of an index.

    Raises:
        TargetError: If no setting meets the target.
    """
    search = _search(codec, target, 0)
    index = next(search)
    while True:
        try:
            index = search.send(measure(index))
        except StopIteration as stop:
            return stop.value


# -- every setting of an item ---------------------------------------------------------------------


class SettingCodes:
    """Codes of one item at every setting, computed on demand. If the codec truncates, the item is encoded once."""

    def __init__(self, codec: CodecInterface, x: Any, full: Codes | None) -> None:
        self.codec, self.x, self.full = codec, x, full
        self._cache: dict[int, Codes] = {}

    @classmethod
    def split(cls, codec: CodecInterface, x: Any) -> list[SettingCodes]:
        """Return one object for each item of a batch."""
        full = codec.encode(x, codec.settings.values[-1]) if codec.truncates else None
        return [cls(codec, x[i : i + 1], None if full is None else full[i]) for i in range(len(x))]

    def at(self, index: int) -> Codes:
        """Return the codes at `settings.values[index]`."""
        if index not in self._cache:
            value = self.codec.settings.values[index]
            codes = self.codec.encode(self.x, value) if self.full is None else self.codec.truncate(self.full, value)
            self._cache[index] = codes
        return self._cache[index]


@dataclass(frozen=True)
class Curve:
    """Candidate encodings of one image. The first are those of the settings.

    Attributes:
        tokens: Number of tokens of each candidate.
        psnr: PSNR of each candidate in dB.
        codes: Function from the index of a candidate to its codes; None if only the numbers are known.
    """

    tokens: list[int]
    psnr: list[float]
    codes: Callable[[int], Codes] | None

    def cheapest(self, psnr: float) -> int | None:
        """Return the index of the candidate with the fewest tokens that reaches a PSNR, or None."""
        candidates = [i for i, reached in enumerate(self.psnr) if reached >= psnr]
        return min(candidates, key=lambda i: self.tokens[i], default=None)

    def steepest(self, slope: float) -> int:
        """Return the index of the candidate with the largest PSNR − slope · tokens; on a tie, that with fewer tokens.

        Maximizing this for every image maximizes the summed PSNR of a set for its total number of tokens.
        Source: Shoham and Gersho, IEEE TASSP 36, 1988.
        """
        return max(range(len(self.tokens)), key=lambda i: (self.psnr[i] - slope * self.tokens[i], -self.tokens[i]))


def curve(codec: CodecInterface, x: Tensor) -> Curve:
    """Return the encodings of one image, a batch of one, at every setting of the codec."""
    (item,) = SettingCodes.split(codec, x)
    indices = range(len(codec.settings))
    values: list[float] = []
    step = max(1, MAX_PIXELS_AT_ONCE // math.prod(x.shape[2:]))
    for start in indices[::step]:
        some = [item.at(index) for index in indices[start : start + step]]
        values += _psnrs(codec, [x] * len(some), batches.collate(some))
    tokens = [int(rate.tokens(codec.spec, item.at(index))) for index in indices]
    return Curve(tokens, values, item.at)


def _psnrs(codec: CodecInterface, references: list[Tensor], codes: Codes) -> list[float]:
    """Return the PSNR of each decoded item against its reference, a batch of one."""
    decoded: Any = codec.decode(codes)
    return [psnr(x, y[None]) for x, y in zip(references, decoded, strict=True)]


def _best(codec: CodecInterface, x: Tensor, target: Target, item: int) -> Codes:
    """Return the best candidate encoding of one image. Raises TargetError if none reaches the PSNR."""
    candidates = codec.curve(x)
    chosen = candidates.steepest(target.value) if target.name == "slope" else candidates.cheapest(target.value)
    if chosen is None:
        raise TargetError(
            f"{target} is out of reach for {codec.name} on item {item}: the highest PSNR is {max(candidates.psnr):.4g}"
        )
    return candidates.codes(chosen)


# -- bisection ------------------------------------------------------------------------------------

Search = Generator[int, float, int]
"""Generator that yields an index of the settings, receives the value measured there, and returns the best index."""


def _run_together(searches: list[Search], items: list[SettingCodes], target: Target) -> list[int]:
    """Run the searches of all items in parallel. Each step decodes one batch."""
    pending = {i: next(search) for i, search in enumerate(searches)}
    found: dict[int, int] = {}
    while pending:
        values = _measure([items[i] for i in pending], list(pending.values()), target)
        following = {}
        for i, value in zip(pending, values, strict=True):
            try:
                following[i] = searches[i].send(value)
            except StopIteration as stop:
                found[i] = stop.value
        pending = following
    return [found[i] for i in range(len(searches))]


def _measure(items: list[SettingCodes], indices: list[int], target: Target) -> list[float]:
    """Return the PSNR or the rate of each item at its own setting."""
    codec = items[0].codec
    codes = batches.collate([item.at(index) for item, index in zip(items, indices, strict=True)])
    if target.name == "psnr":
        return _psnrs(codec, [item.x for item in items], codes)
    bits = rate.coded(bitstream.write(codec, codes))
    if target.name == "bits_per_pixel":
        return rate.bits_per_pixel(bits, codes).tolist()
    return rate.kbps(bits, codes, codec.spec).tolist()


def _search(codec: CodecInterface, target: Target, item: int) -> Search:
    """Bisect `settings.values` for the first that reaches a PSNR, or the last that does not exceed a rate.

    Measured values may fall between neighboring settings. If bisection fails, the settings of the sweep are tried in
    turn.
    """
    settings, quality = codec.settings, target.name == "psnr"
    tried: dict[int, float] = {}

    def above(i: int) -> Generator[int, float, bool]:
        """Return whether values[i] reaches the PSNR, or exceeds the rate."""
        if i not in tried:
            tried[i] = yield i
        return tried[i] >= target.value if quality else tried[i] > target.value

    def bisect(low: int, high: int) -> Search:
        """Bisect between an index where `above` is False and one where it is True."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if (yield from above(middle)) else (middle, high)
        return high if quality else low

    def meets(i: int) -> Generator[int, float, bool]:
        return 0 <= i < len(settings) and (yield from above(i)) == quality

    best = yield from bisect(-1, len(settings))
    if not (yield from meets(best)):
        sweep = [settings.values.index(v) for v in settings.sweep]
        for stop in sweep if quality else reversed(sweep):
            if (yield from meets(stop)):
                best = yield from (bisect(-1, stop) if quality else bisect(stop, len(settings)))
                break
    if (yield from meets(best)):
        return best
    end = len(settings) - 1 if quality else 0  # measured by the first bisection
    raise TargetError(
        f"{target} is out of reach for {codec.name} on item {item}: "
        f"{settings.name}={settings.values[end]} gives {tried[end]:.4g}"
    )
