"""A sound that is pushed piece by piece against the whole."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ..check import check
from ..difference import EQUAL, SAME, Difference, signal_verdict
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict

SECONDS = 4
"""Length of the sound."""


@check(
    "locality", "Stream", limit=f"{SAME}; {EQUAL}",
    about="A sound that is pushed in pieces of random lengths, from one sample to all, gives the codes and the samples "
    "of the whole.",
)  # fmt: skip
def stream(patient: Patient) -> Diagnosis:
    if obstacle := patient.codec.stream_obstacle:
        raise Inapplicable(obstacle)
    size = (SECONDS * (patient.spec.sample_rate or 1) + 1,)
    x = patient.stack(size, 1)
    codes = patient.encode(x)
    whole, encoder = patient.decode(codes), patient.codec.stream_encoder(patient.setting)
    counted, largest, cuts = Difference(), 0.0, 0
    for seed in patient.cases(range(50)):
        found, sound = _pushed(patient, x, random.Random(seed))
        missing = abs(found.shape[2] - codes.indices.shape[2]) * codes.indices.shape[1]
        shared = min(found.shape[2], codes.indices.shape[2])
        counted.differing += missing + int((found[..., :shared] != codes.indices[..., :shared]).sum())
        counted.total += codes.indices.numel()
        same = sound.shape == whole.shape
        largest = max(largest, float((sound - whole).abs().max()) if same else float("inf"))
        cuts += 1
    figures = counted.figures() | {"cuts": cuts, "largest difference": largest}
    figures |= {"latency in samples": encoder.latency, "delay in samples": encoder.delay}
    text = (
        f"{counted} in {cuts} cuts; samples differ by at most {largest:.2g}; the first code comes after "
        f"{encoder.delay:,} samples, with {encoder.latency:,} of look-ahead"
    )
    worst = max((counted.verdict, signal_verdict(largest)), key=[Verdict.PASS, Verdict.WARN, Verdict.FAIL].index)
    return Diagnosis(worst, text, figures)


def _pushed(patient: Patient, x: Tensor, draw: random.Random) -> tuple[Tensor, Tensor]:
    """Return the indices and the samples of a sound that is cut at random."""
    encoder, decoder = (patient.codec.stream_encoder(patient.setting), patient.codec.stream_decoder(patient.setting))
    codes, sounds, at, length = [], [], 0, x.shape[-1]
    while at < length:
        longest = draw.choice((patient.stride[0] // 2 + 1, length // 20 + 1, length))
        piece = x[..., at : at + draw.randint(1, longest)]
        codes.append(encoder.push(piece))
        at += piece.shape[-1]
    codes.append(encoder.close())
    sounds = [*map(decoder.push, codes), decoder.close()]
    return torch.cat([part.indices for part in codes], 2).cpu(), torch.cat(sounds, -1).cpu()
