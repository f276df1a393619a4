"""Codes must not depend on what stands beside a signal, or on the state of PyTorch, threads and processes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenloom import threads
from tokenloom.codecs import batches
from tokenloom.codecs.types import Codes, Modality

from .. import child, signals
from ..check import check
from ..difference import EQUAL, SAME, Difference, invariant, largest_difference, signal_verdict
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict


def _rows(codes: Codes, order: list[int]) -> Codes:
    return batches.collate([codes[i] for i in order])


@check(
    "invariance", "Repetition", limit=SAME,
    about="The same call gives the same codes again, whatever the state of the random generators.",
)  # fmt: skip
def repetition(patient: Patient) -> Diagnosis:
    def encode(seed: int) -> Codes:
        with _seeded(seed):
            return patient.encode(patient.batch)

    return invariant(patient, ((f"seed {seed}", lambda seed=seed: encode(seed)) for seed in (1, 2)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all random generators inside the block; restore their states after it."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@check(
    "invariance", "Weights", limit="nothing may change",
    about="Encoding and decoding change neither a weight nor the codec's mode.",
)  # fmt: skip
def weights(patient: Patient) -> Diagnosis:
    codec = patient.codec
    if not patient.has_containers:
        raise Inapplicable("the codec has no fingerprint")
    before = codec.fingerprint, codec.training
    patient.round_trip(patient.batch)
    after = codec.fingerprint, codec.training
    if before == after:
        return Diagnosis(Verdict.PASS, "no weight changed in an encode and a decode")
    return Diagnosis(Verdict.FAIL, "an encode and a decode changed the weights or the mode of the codec")


@check(
    "invariance", "Batch size", limit=SAME,
    about="A signal has the same codes alone and in a batch.",
)  # fmt: skip
def batch_size(patient: Patient) -> Diagnosis:
    x = patient.batch

    def encode(size: int) -> Codes:
        return batches.collate([patient.encode(x[i : i + size]) for i in range(0, len(x), size)])

    return invariant(patient, ((f"batches of {size}", lambda size=size: encode(size)) for size in (1, 3)))


@check(
    "invariance", "Order", limit=SAME,
    about="The codes of a signal do not depend on its place in the batch, nor on the others in it.",
)  # fmt: skip
def order(patient: Patient) -> Diagnosis:
    x, last = patient.batch, len(patient.batch) - 1

    def reverse() -> Codes:
        back = list(range(last, -1, -1))
        flipped = x.flip(0) if isinstance(x, Tensor) else x[::-1]
        return _rows(patient.encode(flipped), back)

    def beside_others() -> Codes:
        if isinstance(x, Tensor):
            others = signals.noise(patient.spec, patient.size, len(x), seed=5)
            mixed: Any = torch.stack([others, x], 1).flatten(0, 1)
        else:
            mixed = [text for one in x for text in ("beside", one)]
        return _rows(patient.encode(mixed), list(range(1, 2 * len(x), 2)))

    return invariant(patient, (("the reverse order", reverse), ("noise between the signals", beside_others)))


@check(
    "invariance", "Padding", limit=EQUAL,
    about="Codes of several sizes, padded to one batch, decode to the signals that each gives alone, whatever the "
    "padding holds.",
)  # fmt: skip
def padding(patient: Patient) -> Diagnosis:
    parts = [patient.encode(x) for x in _unequal(patient)]
    alone = [patient.decode(part) for part in parts]
    largest = 0.0
    for fill in patient.cases(("first", "last")):
        joined = batches.collate(parts)
        if fill == "last":
            joined = _refilled(joined, parts, patient)
        together = patient.decode(joined)
        for row, expected in enumerate(alone):
            found = together[row : row + 1]
            if isinstance(found, Tensor):
                found = found[(..., *(slice(n) for n in expected.shape[2:]))]
            largest = max(largest, largest_difference(expected, found))
    text = f"samples differ by at most {largest:.2g}, {len(parts)} signals of {len(parts)} sizes"
    return Diagnosis(signal_verdict(largest), text, {"largest": largest})


def _unequal(patient: Patient) -> list[Any]:
    """Return batches of one, each of another size."""
    if patient.modality is Modality.TEXT:
        return [[text] for text in patient.batch[:4]]
    size = patient.size
    shares = (1.0, 0.71, 0.43, 0.86)
    return [
        patient.batch[i : i + 1][(..., *(slice(max(1, int(n * share))) for n in size))]
        for i, share in enumerate(shares) if i < len(patient.batch)
    ]  # fmt: skip


def _refilled(joined: Codes, parts: list[Codes], patient: Patient) -> Codes:
    """Return joined codes whose padding holds the last entry of each codebook in place of 0."""
    sizes = patient.spec.codebook_sizes[: joined.indices.shape[1]]
    indices = torch.tensor(sizes).sub(1).reshape(1, -1, *[1] * (joined.indices.ndim - 2)).to(joined.indices)
    indices = indices.expand_as(joined.indices).clone()
    for row, part in enumerate(parts):
        own = (slice(part.indices.shape[1]), *(slice(n) for n in part.indices.shape[2:]))
        indices[(row, *own)] = part.indices[0]
        indices[row, part.indices.shape[1] :] = -1
    return Codes(indices, joined.sizes, joined.lengths, joined.side)


@check(
    "invariance", "Threads", limit=SAME,
    about="The codes do not depend on the number of threads that PyTorch computes with.",
)  # fmt: skip
def thread_count(patient: Patient) -> Diagnosis:
    def encode(count: int) -> Codes:
        with threads.limit(count):
            return patient.encode(patient.batch)

    counts = [n for n in (1, 2, 4) if n <= max(2, os.cpu_count() or 1)]  # more threads than processors only wait
    return invariant(patient, ((f"{n} thread{'s' * (n > 1)}", lambda n=n: encode(n)) for n in counts))


@check(
    "invariance", "Memory format", limit=SAME,
    about="The codes do not depend on how the samples lie in memory: channels last, or as a view with gaps.",
)  # fmt: skip
def memory_format(patient: Patient) -> Diagnosis:
    patient.require_signal()
    x = patient.batch

    def gaps() -> Tensor:
        wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1])
        wide.fill_(float("nan"))
        wide[..., ::2] = x
        return wide[..., ::2]

    def channels_last() -> Tensor:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)

    return invariant(
        patient,
        (
            ("channels last", lambda: patient.encode(channels_last())),
            ("a view with gaps", lambda: patient.encode(gaps())),
        ),
    )


@check(
    "invariance", "Autocast", limit=SAME,
    about="The codes are computed in float32, also inside the caller's autocast to bfloat16.",
)  # fmt: skip
def autocast(patient: Patient) -> Diagnosis:
    def encode() -> Codes:
        with torch.autocast(patient.codec.device.type, dtype=torch.bfloat16):
            return patient.encode(patient.batch)

    return invariant(patient, [("bfloat16", encode)])


@check(
    "invariance", "Inference mode", limit=SAME,
    about="The codes are the same inside torch.inference_mode, and where gradients are recorded.",
)  # fmt: skip
def inference_mode(patient: Patient) -> Diagnosis:
    x = patient.batch

    def inference() -> Codes:
        with torch.inference_mode():
            return patient.encode(x)

    def gradients() -> Codes:
        with torch.enable_grad():
            return patient.encode(x.clone().requires_grad_() if isinstance(x, Tensor) else x)

    return invariant(patient, (("inference mode", inference), ("gradients", gradients)))


@check(
    "invariance", "Default type", limit=SAME,
    about="The codes do not depend on PyTorch's default type, nor on its precision of matrix products.",
)  # fmt: skip
def default_type(patient: Patient) -> Diagnosis:
    def encode(dtype: torch.dtype, precision: str) -> Codes:
        before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        try:
            return patient.encode(patient.batch)
        finally:
            torch.set_default_dtype(before[0])
            torch.set_float32_matmul_precision(before[1])

    return invariant(
        patient,
        (
            ("float64 as the default", lambda: encode(torch.float64, "highest")),
            ("medium precision of products", lambda: encode(torch.float32, "medium")),
        ),
    )


@check(
    "invariance", "Another process", limit=f"{SAME}; {EQUAL}",
    about="Another process, with another hash seed, gives the same codes, and decodes these codes to the same signals.",
)  # fmt: skip
def another_process(patient: Patient) -> Diagnosis:
    if patient.source is None:
        raise Inapplicable("the codec was given as an object, which another process cannot load")
    few = patient.batch[:2]
    expected = patient.encode(few)
    answer = child.ask(patient.source, patient.setting, str(patient.codec.device), few, expected)
    difference = Difference()
    difference.add(expected, answer.codes)
    largest = largest_difference(patient.decode(expected), answer.decoded)
    verdict = min(difference.verdict, signal_verdict(largest), key=list(Verdict).index)
    text = f"{difference}; decoded samples differ by at most {largest:.2g}"
    return Diagnosis(verdict, text, difference.figures() | {"largest": largest})
