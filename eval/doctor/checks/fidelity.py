"""What comes back: likeness to the signal, its place, repeated passes, and the settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Modality

from ..check import check
from ..difference import Difference, decibel, likeness, spectral_likeness
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict

ALIKE = 0.5
"""Smallest correlation at which a reconstruction counts as one of the signal."""
PASSES = 10
LOSS = 1.0
"""Largest loss of repeated passes in dB without a warning."""


def _unit(patient: Patient) -> str:
    return "dB PSNR" if patient.modality is Modality.IMAGE else "dB SNR"


@check(
    "fidelity", "Reconstruction", limit=f"a correlation of at least {ALIKE}, for sounds also of spectra; texts exactly",
    about="How much what comes back resembles what went in.",
)  # fmt: skip
def reconstruction(patient: Patient) -> Diagnosis:
    x, y = patient.batch, patient.decoded
    if patient.modality is Modality.TEXT:
        same = sum(a == b for a, b in zip(x, y, strict=True))
        verdict = Verdict.PASS if same == len(x) else Verdict.WARN
        return Diagnosis(verdict, f"{same} of {len(x)} texts come back exactly", {"exact": same, "texts": len(x)})
    alike, db = likeness(x, y), decibel(patient.spec, x, y)
    text, figures = f"{db:.2f} {_unit(patient)}, correlation {alike:.3f}", {"dB": db, "correlation": alike}
    if patient.modality is Modality.AUDIO:
        figures["correlation of spectra"] = spectra = spectral_likeness(x, y)
        text, alike = f"{text}, of the spectra {spectra:.3f}", max(alike, spectra)
    return Diagnosis(Verdict.PASS if alike >= ALIKE else Verdict.WARN, text, figures)


@check(
    "fidelity", "Alignment", limit="no shift may fit better than none",
    about="Whether what comes back lies where it was, or fits the signal better when moved by some samples.",
)  # fmt: skip
def alignment(patient: Patient) -> Diagnosis:
    patient.require_signal()
    x, y = patient.batch, patient.decoded
    furthest = 3 if patient.modality is Modality.IMAGE else min(64, patient.size[0] // 4)
    inner = tuple(slice(furthest, n - furthest) for n in patient.size)
    still = x[(..., *inner)]
    errors = {}
    for shift in _shifts(furthest, len(patient.size)):
        moved = y[(..., *(slice(furthest + d, n - furthest + d) for d, n in zip(shift, patient.size, strict=True)))]
        errors[shift] = float((still - moved).double().square().mean())
    none = errors[(0,) * len(patient.size)]
    best = min(errors, key=lambda shift: (errors[shift], sum(map(abs, shift))))
    moved = y.roll(tuple(-d for d in best), tuple(range(2, y.ndim)))
    if (alike := likeness(still, moved[(..., *inner)])) < ALIKE:
        raise Inapplicable(f"what comes back does not resemble the signal (correlation {alike:.2f})")
    gain = 10 * math.log10(max(none, 1e-30) / max(errors[best], 1e-30))
    figures = {"best shift in samples": list(best), "gain in dB": gain}
    if not any(best) or gain < 0.01:
        return Diagnosis(Verdict.PASS, f"no shift of up to {furthest} samples fits better", figures)
    where = " and ".join(str(d) for d in best)
    return Diagnosis(Verdict.FAIL, f"a shift by {where} samples fits {gain:.2f} dB better", figures)


def _shifts(furthest: int, axes: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(range(-furthest, furthest + 1), repeat=axes)


@check(
    "fidelity", "Repeated passes",
    limit=f"a loss of {LOSS:g} dB in {PASSES} passes, more is a warning; it fails when the error exceeds the signal",
    about="What is lost when a signal is coded again and again: equal tokens from pass to pass, and decibels.",
)  # fmt: skip
def idempotence(patient: Patient) -> Diagnosis:
    x = patient.batch[:4]
    before, y = patient.encode(x), x
    same, db = [], []
    for number in patient.cases(range(PASSES), least=3):
        codes = before if not number else patient.encode(y)
        if number:
            difference = Difference()
            difference.add(before, codes)
            same.append(1 - difference.share)
        before, y = codes, patient.decode(codes)
        if isinstance(y, Tensor):
            db.append(decibel(patient.spec, x, y))
    passes = len(same) + 1
    tokens = f"{same[0]:.1%} of the tokens stay in the 2nd pass, {same[-1]:.1%} in the last of {passes}"
    if not isinstance(y, Tensor):
        exact = Verdict.PASS if min(same) == 1 else Verdict.FAIL
        return Diagnosis(exact, tokens, {"same": same})
    lost = db[0] - db[-1]
    figures = {"same": same, "dB": db, "lost in dB": lost}
    text = f"{abs(lost):.2f} dB {'lost' if lost >= 0 else 'gained'} in {passes} passes; {tokens}"
    destroyed = float((x - y).square().mean()) > float((x - x.mean()).square().mean())
    alike = likeness(x, patient.decoded[:4]) >= ALIKE
    verdict = Verdict.PASS if lost <= LOSS else Verdict.FAIL if destroyed and alike else Verdict.WARN
    return Diagnosis(verdict, text, figures)


@check(
    "fidelity", "Settings", limit="bits and decibels rise along the sweep; a fall above 2 % or .5 dB is a warning",
    about="Every setting of the sweep codes, and a higher one costs more and gives more.",
)  # fmt: skip
def settings(patient: Patient) -> Diagnosis:
    control, codec = patient.codec.settings, patient.codec
    if control.values == (None,):
        raise Inapplicable("the codec has no setting")
    x = patient.batch[:2]
    bits, db = [], []
    for value in patient.cases(control.sweep, least=2):
        codes = codec.encode(x, value)
        bits.append(float(rate.nominal(patient.spec, codes).mean()))
        if patient.has_containers:
            bits[-1] = float(rate.coded(codec.compress(x, value)).mean())
        y = patient.decode(codes)
        if isinstance(y, Tensor):
            db.append(decibel(patient.spec, x, y))
    figures = {"settings": [str(v) for v in control.sweep[: len(bits)]], "bits": bits, "dB": db}
    text = f"{len(bits)} settings of {control.name}, {bits[0]:,.0f} to {bits[-1]:,.0f} bits"
    text += f", {db[0]:.1f} to {db[-1]:.1f} {_unit(patient)}" if db else ""
    if any(b < 0.98 * a for a, b in itertools.pairwise(bits)):
        return Diagnosis(Verdict.WARN, f"{text}; a higher setting takes fewer bits", figures)
    if any(b < a - 0.5 for a, b in itertools.pairwise(db)):
        return Diagnosis(Verdict.WARN, f"{text}; a higher setting gives a worse signal", figures)
    return Diagnosis(Verdict.PASS, text, figures)
