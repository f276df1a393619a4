"""`Target` in place of a setting, per item: bisection over the dial, or the best of all its points."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from . import batches, bitstream, rate
from .types import CodecInterface, Codes, Modality, Target, TargetError

KINDS = {
    "psnr": Modality.IMAGE,
    "slope": Modality.IMAGE,
    "bits_per_pixel": Modality.IMAGE,
    "kbps": Modality.AUDIO,
}
DECODED = 2**18
"""Pixels that are decoded at once when many settings of one picture are looked at."""


def psnr(reference: Tensor, decoded: Tensor) -> float:
    """dB between two images in [0, 1], both rounded to 8 bits; inf where they are equal."""
    error = (reference * 255).round() - (decoded * 255).round()
    return decibel(error.double().square().mean().item())


def decibel(mse: float) -> float:
    """PSNR of a mean squared error of 8-bit values; inf for 0."""
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def meet(codec: CodecInterface, x: Tensor | list[str], target: Target) -> Codes:
    """Codes of each item at the setting that meets the target; TargetError where none does."""
    if len(codec.settings) < 2:
        raise ValueError(f"{codec.name} has no setting to meet {target} with")
    if codec.spec.modality is not KINDS[target.name]:
        raise ValueError(f"{target} is for {KINDS[target.name]} codecs; {codec.name} codes {codec.spec.modality}")
    if target.name == "slope" or (target.name == "psnr" and codec.pieces(tuple(x.shape[2:])) > 1):
        return batches.collate([_choose(codec, x[i : i + 1], target, i) for i in range(len(x))])
    ladders = Ladder.of(codec, x)
    places = _together([_search(codec, target, i) for i in range(len(x))], ladders, target)
    return batches.collate([ladder.codes(place) for ladder, place in zip(ladders, places, strict=True)])


# -- every setting of an item ---------------------------------------------------------------------


class Ladder:
    """One item at any setting; a codec whose codes are ordered encodes once and cuts."""

    def __init__(self, codec: CodecInterface, x: Tensor | list[str], full: Codes | None) -> None:
        self.codec, self.x, self.full = codec, x, full
        self._made: dict[int, Codes] = {}

    @classmethod
    def of(cls, codec: CodecInterface, x: Tensor | list[str]) -> list[Ladder]:
        """One for each item of a batch."""
        full = codec.encode(x, codec.settings.values[-1]) if codec.truncates else None
        return [cls(codec, x[i : i + 1], None if full is None else full[i]) for i in range(len(x))]

    def codes(self, place: int) -> Codes:
        """At `settings.values[place]`."""
        if place not in self._made:
            value = self.codec.settings.values[place]
            one = self.codec.encode(self.x, value) if self.full is None else self.codec.truncate(self.full, value)
            self._made[place] = one
        return self._made[place]


@dataclass(frozen=True)
class Curve:
    """Ways to code one picture, those of the settings first: the tokens that each takes and its PSNR in dB.

    codes  way → its codes; None where only the figures are kept
    """

    tokens: list[int]
    psnr: list[float]
    codes: Callable[[int], Codes] | None

    def cheapest(self, psnr: float) -> int | None:
        """The way of fewest tokens that reaches a PSNR; None where none does."""
        ways = [i for i, reached in enumerate(self.psnr) if reached >= psnr]
        return min(ways, key=lambda i: self.tokens[i], default=None)

    def steepest(self, slope: float) -> int:
        """The way that is worth most if a token costs `slope` dB: the last whose gain a token exceeds it.

        Maximising the sum of PSNR − slope · tokens maximises the summed PSNR of a set for the tokens
        it takes in all (Shoham and Gersho, IEEE TASSP 36, 1988); only the upper hull is ever chosen.
        """
        return max(range(len(self.tokens)), key=lambda i: (self.psnr[i] - slope * self.tokens[i], -self.tokens[i]))


def curve(codec: CodecInterface, x: Tensor) -> Curve:
    """One picture (a batch of one) at every value of the codec's settings."""
    (ladder,) = Ladder.of(codec, x)
    places = range(len(codec.settings))
    figures: list[float] = []
    step = max(1, DECODED // x[0, 0].numel())
    for start in places[::step]:
        some = [ladder.codes(place) for place in places[start : start + step]]
        figures += [psnr(x, y[None]) for y in codec.decode(batches.collate(some))]
    tokens = [int(rate.tokens(codec.spec, ladder.codes(place))) for place in places]
    return Curve(tokens, figures, ladder.codes)


def _choose(codec: CodecInterface, x: Tensor, target: Target, item: int) -> Codes:
    points = codec.curve(x)
    place = points.steepest(target.value) if target.name == "slope" else points.cheapest(target.value)
    if place is None:
        raise TargetError(f"{target} is out of reach of {codec.name} on item {item}: {max(points.psnr):.4g} at most")
    return points.codes(place)


# -- bisection ------------------------------------------------------------------------------------

Search = Generator[int, float, int]
"""Asks for the figure at a place of the settings, is sent it, and returns the place found."""


def _together(searches: list[Search], ladders: list[Ladder], target: Target) -> list[int]:
    """Run the searches of all items side by side, so that every step decodes one batch."""
    asked = {i: next(search) for i, search in enumerate(searches)}
    found: dict[int, int] = {}
    while asked:
        figures = _figures([ladders[i] for i in asked], list(asked.values()), target)
        following = {}
        for i, figure in zip(asked, figures, strict=True):
            try:
                following[i] = searches[i].send(figure)
            except StopIteration as stop:
                found[i] = stop.value
        asked = following
    return [found[i] for i in range(len(searches))]


def _figures(ladders: list[Ladder], places: list[int], target: Target) -> list[float]:
    """What each item gives or costs at a place of its own."""
    codec = ladders[0].codec
    codes = batches.collate([ladder.codes(place) for ladder, place in zip(ladders, places, strict=True)])
    if target.name == "psnr":
        return [psnr(ladder.x, y[None]) for ladder, y in zip(ladders, codec.decode(codes), strict=True)]
    bits = rate.coded(bitstream.write(codec, codes))
    per_unit = rate.bits_per_pixel(bits, codes) if target.name == "bits_per_pixel" else None
    return (rate.kbps(bits, codes, codec.spec) if per_unit is None else per_unit).tolist()


def _search(codec: CodecInterface, target: Target, item: int) -> Search:
    """Bisect `settings.values`, which rise in rate: the first to reach a PSNR, the last to keep a rate.

    Figures need not rise with the rate everywhere; where bisection ends with nothing, the points
    of the sweep are tried one by one.
    """
    settings, quality = codec.settings, target.name == "psnr"
    tried: dict[int, float] = {}

    def beyond(i: int) -> Generator[int, float, bool]:
        """Whether values[i] reaches the PSNR, or exceeds the rate."""
        if i not in tried:
            tried[i] = yield i
        return tried[i] >= target.value if quality else tried[i] > target.value

    def bisect(below: int, above: int) -> Search:
        """The better neighbour of where `beyond` turns, between two places where it is False and True."""
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (below, middle) if (yield from beyond(middle)) else (middle, above)
        return above if quality else below

    def meets(i: int) -> Generator[int, float, bool]:
        return 0 <= i < len(settings) and (yield from beyond(i)) == quality

    best = yield from bisect(-1, len(settings))
    if not (yield from meets(best)):
        places = [settings.values.index(v) for v in settings.sweep]
        for stop in places if quality else reversed(places):
            if (yield from meets(stop)):
                best = yield from (bisect(-1, stop) if quality else bisect(stop, len(settings)))
                break
    if (yield from meets(best)):
        return best
    end = len(settings) - 1 if quality else 0
    yield from beyond(end)
    raise TargetError(
        f"{target} is out of reach of {codec.name} on item {item}: "
        f"{settings.name}={settings.values[end]} gives {tried[end]:.4g}"
    )
