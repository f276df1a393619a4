"""Exact sizes, and signals that are odd, extreme or invalid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import validate
from tokenloom.codecs.types import Modality

from ...trial import Failure, attempt
from .. import signals
from ..check import check
from ..difference import decibel
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict

CLIPPED = 0.01
"""Largest share of samples at the ends of the range, beyond that of the signal, without a warning."""
QUIET = -40.0
"""Largest level in dB below full scale that silence may come back at without a warning."""
FLAT = 20.0
"""Smallest PSNR in dB of a picture of one color without a warning."""
LENGTHS = 24
"""Longest signal of a codec without a stride in the check of lengths."""


# -- sizes ----------------------------------------------------------------------------------------


@check(
    "robustness", "Exact lengths", limit="every size must come back",
    about="Signals of 1 sample to 3 strides come back at their own size, from codes and from bytes, and the number of "
    "codes is what the spec says.",
)  # fmt: skip
def lengths(patient: Patient) -> Diagnosis:
    done, wrong = 0, []
    for size in patient.cases(_sizes(patient), least=8):
        done += 1
        problem = attempt(lambda size=size: _problem(patient, size))
        if problem is not None:
            wrong.append(f"{'x'.join(map(str, size))}: {problem}")
    if wrong:
        return Diagnosis(Verdict.FAIL, f"{len(wrong)} of {done} sizes, such as {wrong[0]}", {"wrong": wrong[:20]})
    return Diagnosis(Verdict.PASS, f"all of {done} sizes come back exactly", {"sizes": done})


def _sizes(patient: Patient) -> Iterator[tuple[int, ...]]:
    """Yield sizes, those around whole strides first."""
    if patient.modality is Modality.TEXT:
        yield from ((n,) for n in range(LENGTHS + 1))
        return
    stride = patient.spec.stride or (LENGTHS // 3,) * len(patient.stride)
    ends = [[1, *(k * s + d for k in (1, 2, 3) for d in (-1, 0, 1) if 1 <= k * s + d <= 3 * s)] for s in stride]
    sizes = [*zip(*ends, strict=True)]
    if len(stride) == 2:
        sizes += [(a, b) for a, b in ((1, 3 * stride[1]), (3 * stride[0], 1), (stride[0] + 1, 2 * stride[1] - 1))]
    count = 3 * max(stride)
    step = next(k for k in (7, 11, 13, 17, 19) if count % k)  # visits every length once, small and large ones mixed
    order = [1 + i * step % count for i in range(count)]
    sizes += [tuple(min(n, 3 * s) for s in stride) for n in order]
    yield from dict.fromkeys(sizes)


def _problem(patient: Patient, size: tuple[int, ...]) -> str | None:
    """Return what is wrong with a signal of a size; None if it comes back."""
    codec, spec = patient.codec, patient.spec
    if patient.modality is Modality.TEXT:
        text = ("".join(str(one) for one in patient.real) * LENGTHS)[: size[0]]
        (back,) = patient.round_trip([text])
        (unpacked,) = codec.decompress(patient.compress([text])) if patient.has_containers else (back,)
        return None if unpacked == back == text else f"{text!r} comes back as {back!r}, {unpacked!r} from bytes"
    x = patient.stack(size, 1)
    codes = patient.encode(x)
    if spec.stride and tuple(codes.indices.shape[2:]) != spec.grid(size):
        return f"{tuple(codes.indices.shape[2:])} codes, the spec says {spec.grid(size)}"
    if tuple(codes.sizes[0].tolist()) != size:
        return f"the codes say {codes.sizes[0].tolist()}"
    found = patient.decode(codes)
    if found.shape != x.shape:
        return f"{tuple(found.shape[2:])} samples come back"
    unpacked: Any = codec.decompress(patient.compress(x)) if patient.has_containers else x
    if unpacked.shape != x.shape:
        return f"{tuple(unpacked.shape[2:])} samples come back from bytes"
    return None if found.isfinite().all() else "NaN or infinity comes back"


# -- odd signals ----------------------------------------------------------------------------------


def _sound(patient: Patient, x: Tensor) -> tuple[Tensor, str]:
    """Return what a signal decodes to, and what is wrong with it; "" if it is finite and in range."""
    low, high = validate.RANGES[patient.modality]
    y = patient.round_trip(x)
    if not y.isfinite().all():
        return y, "NaN or infinity comes back"
    if float(y.min()) < low or float(y.max()) > high:
        return y, f"samples from {float(y.min()):.4g} to {float(y.max()):.4g} come back"
    return y, "" if y.shape == x.shape else f"the size {tuple(y.shape)} comes back"


@check(
    "robustness", "Range and clipping",
    limit=f"all samples finite and in range; more than {CLIPPED:.0%} of the samples newly at its ends is a warning",
    about="Signals over the whole range come back within it, and real ones do not pile up at its ends.",
)  # fmt: skip
def value_range(patient: Patient) -> Diagnosis:
    patient.require_signal()
    low, high = validate.RANGES[patient.modality]
    flat = torch.cat([signals.constant(patient.spec, patient.size, value) for value in (low, high)])
    probes = {"a full-scale square wave": _square(patient), "both ends of the range": flat, "signals": patient.batch}
    for name, x in probes.items():
        _, problem = _sound(patient, x)
        if problem:
            return Diagnosis(Verdict.FAIL, f"of {name}, {problem}")
    ends = [float(((t <= low) | (t >= high)).double().mean()) for t in (patient.batch, patient.decoded)]
    text = f"in range; {ends[1]:.2%} of the samples lie at its ends, {ends[0]:.2%} of those of the signals"
    verdict = Verdict.WARN if ends[1] - ends[0] > CLIPPED else Verdict.PASS
    return Diagnosis(verdict, text, {"at the ends before": ends[0], "at the ends after": ends[1]})


def _square(patient: Patient) -> Tensor:
    """Return squares of the lowest and the highest value, of a period that no stride divides."""
    low, high = validate.RANGES[patient.modality]
    places = torch.meshgrid(*(torch.arange(n) // 5 for n in patient.size), indexing="ij")
    odd = torch.stack(places).sum(0) % 2
    return (low + (high - low) * odd.float()).expand(1, patient.spec.channels, *patient.size).contiguous()


@check(
    "robustness", "Invalid signals", limit="a ValueError for each",
    about="NaN, infinity, values out of range, another type and an empty batch are refused, never coded.",
)  # fmt: skip
def invalid_signals(patient: Patient) -> Diagnosis:
    accepted, other = [], []
    for name, x in _invalid(patient).items():
        try:
            patient.encode(x)
            accepted.append(name)
        except ValueError:
            continue
        except Exception as error:  # any other kind of error is what this check finds
            other.append(f"{name} raises {type(error).__name__}")
    if accepted:
        return Diagnosis(Verdict.FAIL, f"coded without an error: {', '.join(accepted)}", {"coded": accepted})
    if other:
        return Diagnosis(Verdict.WARN, f"{'; '.join(other)}, not ValueError", {"other errors": other})
    return Diagnosis(Verdict.PASS, f"refused: {', '.join(_invalid(patient))}")


def _invalid(patient: Patient) -> dict[str, Any]:
    if patient.modality is Modality.TEXT:
        return {"an empty batch": [], "a bare text": "text", "a number": [1], "a lone surrogate": ["\ud800"]}
    x = patient.batch[:1]
    spoiled = {}
    for name, value in (("NaN", math.nan), ("infinity", math.inf), ("values out of range", 1.5)):
        spoiled[name] = x.clone()
        spoiled[name][(0, 0, *(n // 2 for n in patient.size))] = value
    return spoiled | {"float64": x.double(), "an empty batch": x[:0], "a missing batch axis": x[0]}


@check(
    "robustness", "Silence or one color",
    limit=f"finite; sound above {QUIET:g} dB of full scale, or a picture below {FLAT:g} dB PSNR, is a warning",
    about="Signals without any content come back without any: silence, black, white, gray.",
)  # fmt: skip
def flat_signals(patient: Patient) -> Diagnosis:
    patient.require_signal()
    levels = {}
    sound = patient.modality is Modality.AUDIO
    for value in (0.0,) if sound else (0.0, 0.25, 0.5, 1.0):
        x = signals.constant(patient.spec, patient.size, value)
        y, problem = _sound(patient, x)
        if problem:
            return Diagnosis(Verdict.FAIL, f"{'silence' if sound else f'a picture of {value:g}'}: {problem}")
        levels[value] = 10 * math.log10(max(float(y.square().mean()), 1e-12)) if sound else decibel(patient.spec, x, y)
    figures = {f"dB at {value:g}": level for value, level in levels.items()}
    if sound:
        verdict = Verdict.PASS if levels[0.0] <= QUIET else Verdict.WARN
        return Diagnosis(verdict, f"silence comes back at {levels[0.0]:.1f} dB of full scale", figures)
    worst = min(levels, key=lambda value: levels[value])
    text = f"pictures of one color come back at {levels[worst]:.1f} dB PSNR or more, the least at {worst:g}"
    return Diagnosis(Verdict.PASS if levels[worst] >= FLAT else Verdict.WARN, text, figures)


@check(
    "robustness", "Noise", limit="finite, in range, and of the same size",
    about="White noise over the whole range, which no codec expects, is coded like any other signal.",
)  # fmt: skip
def white_noise(patient: Patient) -> Diagnosis:
    patient.require_signal()
    x = signals.noise(patient.spec, patient.size, 2)
    y, problem = _sound(patient, x)
    if problem:
        return Diagnosis(Verdict.FAIL, problem)
    db = decibel(patient.spec, x, y)
    return Diagnosis(Verdict.PASS, f"comes back at {db:.1f} dB", {"dB": db})


@check(
    "robustness", "Any codes", limit="every array within range must decode to a finite signal in range",
    about="Random codes decode, as those that a transformer samples do.",
)  # fmt: skip
def random_codes(patient: Patient) -> Diagnosis:
    if not patient.spec.total:
        raise Inapplicable("the codec says that not all codes decode")
    codes = patient.codes
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack(
        [
            torch.randint(size, codes.indices[:, q].shape, generator=generator)
            for q, size in enumerate(patient.spec.codebook_sizes[: codes.indices.shape[1]])
        ],
        1,
    )
    made = attempt(lambda: patient.decode(type(codes)(indices, codes.sizes, codes.lengths, codes.side)))
    if isinstance(made, Failure):
        return Diagnosis(Verdict.FAIL, f"random codes do not decode: {made}")
    if not isinstance(made, Tensor):
        return Diagnosis(Verdict.PASS, f"{len(made)} texts from random codes")
    low, high = validate.RANGES[patient.modality]
    fine = bool(made.isfinite().all()) and float(made.min()) >= low and float(made.max()) <= high
    text = f"{indices.numel():,} random codes give samples from {float(made.min()):.3g} to {float(made.max()):.3g}"
    return Diagnosis(Verdict.PASS if fine else Verdict.FAIL, text)
