"""Differences between encodings and between signals, and the verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes, CodeSpec, Modality
from tokenloom.metrics import tokens

from .patient import Patient
from .records import Diagnosis, Verdict

RARE = 1e-5
"""Largest share of differing codes that is a warning."""
SAME = "no code may differ; up to 1e-5 of them is a warning"
CLOSE, VISIBLE = 1e-5, 1 / 510
"""Largest difference of samples that passes, and that is a warning: half a step of 8 bits in [0, 1]."""
EQUAL = "samples may differ by 1e-5; up to half an 8-bit step, .002, is a warning"
WINDOW = 256
"""Samples of a window of a spectrum."""
LARGEST = 99.0
"""Decibels of equal signals."""


@dataclass
class Difference:
    """Number of tokens that differ, and of all tokens."""

    differing: int = 0
    total: int = 0

    def add(self, a: Codes, b: Codes) -> int:
        """Count the tokens of two encodings of the same signals. A missing token differs. Return those that differ."""
        before = self.differing
        for row in range(len(a)):
            for one, other in zip(tokens.sequences(a, row), tokens.sequences(b, row), strict=True):
                n = min(len(one), len(other))
                longest = max(len(one), len(other))
                self.differing += longest - int((one[:n].cpu() == other[:n].cpu()).sum())
                self.total += longest
        return self.differing - before

    @property
    def share(self) -> float:
        return self.differing / max(1, self.total)

    @property
    def verdict(self) -> Verdict:
        if not self.differing:
            return Verdict.PASS
        return Verdict.WARN if self.share <= RARE else Verdict.FAIL

    def __str__(self) -> str:
        if not self.differing:
            return f"0 of {self.total:,} codes differ"
        return f"{self.differing:,} of {self.total:,} codes differ ({self.share:.2g})"

    def figures(self) -> dict[str, Any]:
        return {"differing": self.differing, "codes": self.total, "share": self.share}


def invariant(patient: Patient, variants: Iterable[tuple[str, Callable[[], Codes]]]) -> Diagnosis:
    """Compare the codes of the batch with those of variants: a name, and a call that encodes the batch again."""
    all_codes, by_name = Difference(), {}
    expected = patient.codes
    for name, encode in patient.cases(variants):
        by_name[name] = all_codes.add(expected, encode())
    worst = [name for name, count in by_name.items() if count]
    text = f"{all_codes}{f', with {worst[0]}' if worst else ''}"
    if not worst:
        text += f" ({', '.join(by_name)})"
    return Diagnosis(all_codes.verdict, text, all_codes.figures() | {"differing by variant": by_name})


def signal_verdict(largest: float) -> Verdict:
    """Return the verdict on the largest difference of two signals that should be equal."""
    if largest <= CLOSE:
        return Verdict.PASS
    return Verdict.WARN if largest <= VISIBLE else Verdict.FAIL  # NaN fails


def largest_difference(a: Any, b: Any) -> float:
    """Return the largest difference of two tensors, inf for other shapes; for texts 0 if they are equal, else inf."""
    if not isinstance(a, Tensor):
        return 0.0 if a == b else math.inf
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    largest = float((a.double() - b.double()).abs().max())
    return math.inf if math.isnan(largest) else largest


def decibel(spec: CodeSpec, x: Tensor, y: Tensor) -> float:
    """Return the PSNR of images, or the signal-to-noise ratio of sounds, over a whole batch. At most LARGEST."""
    error = float((x.double() - y.double()).square().mean())
    power = 1.0 if spec.modality is Modality.IMAGE else float(x.double().square().mean())
    return min(LARGEST, 10 * math.log10(max(power, 1e-30) / max(error, 1e-30)))


def spectral_likeness(x: Tensor, y: Tensor) -> float:
    """Return the mean correlation of the log-magnitudes of two batches of sounds, which ignores their phases."""
    window = torch.hann_window(WINDOW)
    a, b = (
        torch.stft(t.flatten(0, 1), WINDOW, WINDOW // 4, window=window, return_complex=True).abs().clamp_min(1e-4).log()
        for t in (x, y)
    )
    return likeness(a, b)


def likeness(x: Tensor, y: Tensor) -> float:
    """Return the mean correlation of two batches of signals, each without its mean."""
    a, b = (t.double().flatten(1) - t.double().flatten(1).mean(1, keepdim=True) for t in (x, y))
    found = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
    return float(torch.nan_to_num(found).mean())
