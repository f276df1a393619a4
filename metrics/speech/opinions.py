"""Mean opinion scores that networks predict of a sound alone. The original is not used.

Waveforms are float32 (channels, samples) in [-1, 1]. The networks take the mean of the channels at 16 kHz.
"""

from __future__ import annotations

from torch import Tensor

from .. import native
from ..audio import check_not_silent
from ..errors import Unmeasurable
from .pairs import answered, mono

RATE = 16000
"""Sample rate of the networks in Hz."""
SHORTEST = 0.4
"""Shortest sound in seconds. DNSMOS repeats a short one until it lasts 9 s."""


def dnsmos(reference: Tensor, output: Tensor, *, sample_rate: int, score: str) -> float:
    """Return a score of DNSMOS (Reddy et al. 2022, ITU-T P.835), in [1, 5]: speech free of noise is good.

    Args:
        reference: Not used.
        output: The sound to judge.
        sample_rate: In Hz.
        score: "ovrl_mos" (overall), "sig_mos" (speech), "bak_mos" (background) or "p808_mos".

    Raises:
        Unmeasurable: If the output is silent or shorter than SHORTEST.
    """
    x = _judged(output, sample_rate)
    return answered("DNSMOS", "speechmos", lambda: native.call("dnsmos", x, rate=RATE, score=score))


def plcmos(reference: Tensor, output: Tensor, *, sample_rate: int, seed: int) -> float:
    """Return PLCMOS v2 (Diener et al. 2023, arXiv 2305.15127), in [1, 5]: the mean of 15 simulated raters.

    It is made for speech with concealed packet losses. The raters are drawn at random from `seed`. The other arguments
    are those of `dnsmos`.
    """
    x = _judged(output, sample_rate)
    return answered("PLCMOS", "speechmos", lambda: native.call("plcmos", x, rate=RATE, seed=seed))


def _judged(output: Tensor, sample_rate: int) -> Tensor:
    if output.shape[-1] < SHORTEST * sample_rate:
        raise Unmeasurable(f"shorter than {SHORTEST} s")
    check_not_silent(output)
    return mono(output, sample_rate, RATE)
