"""Bits that are counted against bits that decoding needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes

from ...trial import Failure, attempt
from ..check import check
from ..difference import EQUAL, largest_difference, signal_verdict
from ..patient import Patient
from ..records import Diagnosis, Verdict

CONTAINER = 8 * 32
"""Most bits of a container around its payload."""
SLACK = 32
"""Most bits of a payload beyond the nominal ones."""
HEAVY = 0.05
"""Largest share of side information in the nominal bits without a warning."""


@check(
    "bits", "Nominal and coded bits", limit=f"coded bits at most nominal + {CONTAINER + SLACK} per signal",
    about="The bytes that compress writes against the bits that the codebooks promise, container included.",
)  # fmt: skip
def coded_bits(patient: Patient) -> Diagnosis:
    data = patient.compress(patient.batch)
    coded, nominal = rate.coded(data), rate.nominal(patient.spec, patient.codes)
    over = float((coded - nominal).max())
    ratio = float(coded.sum() / nominal.sum().clamp_min(1))
    text = f"{float(coded.mean()):,.0f} bits coded, {float(nominal.mean()):,.0f} nominal ({ratio:.1%}), per signal"
    verdict = Verdict.PASS if over <= CONTAINER + SLACK else Verdict.FAIL
    return Diagnosis(verdict, text, {"coded": float(coded.mean()), "nominal": float(nominal.mean()), "most over": over})


@check(
    "bits", "Side information", limit=f"counted, and at most {HEAVY:.0%} of the nominal bits; more is a warning",
    about="Numbers beside the codes that decoding needs: how many there are, and whether the rates count them.",
)  # fmt: skip
def side_information(patient: Patient) -> Diagnosis:
    codes = patient.codes
    numbers = sum(int((~value.isnan()).sum()) for value in codes.side.values())
    declared = sum(math.prod(shape) for shape in _declared(patient).values()) * len(codes)
    if numbers > declared:
        text = f"{numbers / len(codes):g} numbers per signal, of which the codec declares {declared / len(codes):g}"
        return Diagnosis(Verdict.FAIL, text, {"numbers": numbers, "declared": declared})
    share = rate.SIDE_BITS * numbers / max(1.0, float(rate.nominal(patient.spec, codes).sum()))
    text = f"{numbers / len(codes):g} numbers per signal, {share:.2%} of the nominal bits"
    return Diagnosis(Verdict.PASS if share <= HEAVY else Verdict.WARN, text, {"numbers": numbers, "share": share})


def _declared(patient: Patient) -> dict[str, tuple[int, ...]]:
    return patient.codec.side_shapes(patient.size) if isinstance(patient.batch, Tensor) else {}


@check(
    "bits", "Hidden information", limit=f"{EQUAL}; texts must be equal",
    about="Decoding needs nothing but the codes: not what was encoded before, and nothing that containers leave out.",
)  # fmt: skip
def hidden_information(patient: Patient) -> Diagnosis:
    x, codec = patient.batch[:4], patient.codec
    codes = patient.encode(x)
    expected = patient.decode(codes)
    data = patient.compress(x) if patient.has_containers else None
    bare = Codes(
        codes.indices.clone(), codes.sizes.clone(), None if codes.lengths is None else codes.lengths.clone(),
        {key: value.clone() for key, value in codes.side.items()},
    )  # fmt: skip
    patient.round_trip(_others(x))
    largest = {}
    ways = {"the codes alone": lambda: patient.decode(bare)}
    if data is not None:
        ways["the container"] = lambda: _on_cpu(codec.decompress(data))
    for name, call in ways.items():
        found = attempt(call)
        if isinstance(found, Failure):
            return Diagnosis(Verdict.FAIL, f"after another signal was coded, {name} cannot be decoded: {found}")
        largest[name] = largest_difference(expected, found)
    worst = max(largest, key=lambda name: largest[name])
    verdict = signal_verdict(largest[worst])
    text = f"{' and '.join(largest)} give the same signal after another one was coded"
    if verdict is not Verdict.PASS:
        text = f"after another signal was coded, samples from {worst} differ by up to {largest[worst]:.2g}"
    return Diagnosis(verdict, text, largest)


def _on_cpu(signals: Tensor | list[str]) -> Tensor | list[str]:
    return signals.cpu() if isinstance(signals, Tensor) else signals


def _others(x: Tensor | list[str]) -> Tensor | list[str]:
    """Return other signals: the mirror images at a third of their amplitude, or the texts backwards."""
    return torch.flip(x, (-1,)) / 3 if isinstance(x, Tensor) else [text[::-1] for text in x]
