"""Gradient, time, memory and export."""

from __future__ import annotations

import importlib.util
import math
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokenloom.codecs import export
from tokenloom.codecs.codec import LatentCodec
from tokenloom.codecs.types import Modality

from ...trial import AMOUNTS
from ..check import check
from ..difference import largest_difference, signal_verdict
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict

STEEP, STEEPER = 1.4, 1.7
"""Exponents of the growth with the length without a warning, and from which on a codec fails. Linear growth is 1."""
FACTORS: tuple[int, ...] = (1, 2, 4, 8)
REPEATS = 7
"""Most measurements of a time, of which the shortest counts."""
LARGEST = 20_000_000
"""Most parameters of a codec that is exported."""
GROWTH = f"an exponent of at most {STEEP} of the length; above {STEEPER} it fails (1 is linear, 2 quadratic)"


# -- gradient -------------------------------------------------------------------------------------


@check(
    "cost", "Gradient through decode", limit="finite and not zero; the path must give what decode gives",
    about="A loss on the decoded signal has a gradient for the latents of the codes, as decoders and fine-tuning need.",
)  # fmt: skip
def gradient(patient: Patient) -> Diagnosis:
    codec = patient.codec
    if not isinstance(codec, LatentCodec):
        raise Inapplicable("the codec has no latents: its decoder is no network")
    size = tuple(4 * s for s in patient.stride) if patient.spec.stride else tuple(codec.position_stride)
    codes = codec.encode(patient.stack(size, 1), patient.setting)
    latents = codec.embed(codes).clone().requires_grad_()
    made = codec.synthesize(latents)
    made.square().mean().backward()
    slope = latents.grad
    if slope is None or not bool(slope.isfinite().all()):
        return Diagnosis(Verdict.FAIL, "the gradient is missing, NaN or infinite")
    live = float((slope.abs().flatten(2).amax((0, 2)) > 0).float().mean())
    text, figures = f"norm {float(slope.norm()):.2g}, {live:.0%} of the latent channels", {"live": live}
    if codes.side or patient.spec.window is not None:  # decode also scales the chunks, or joins them
        return Diagnosis(Verdict.PASS if live else Verdict.FAIL, text, figures | {"norm": float(slope.norm())})
    cropped = made.detach().cpu()[(..., *(slice(n) for n in size))]
    low = -1.0 if patient.modality is Modality.AUDIO else 0.0
    apart = largest_difference(cropped.clamp(low, 1), patient.decode(codes))
    figures |= {"norm": float(slope.norm()), "apart from decode": apart}
    verdict = Verdict.FAIL if live == 0 else signal_verdict(apart)
    return Diagnosis(verdict, f"{text}; {apart:.2g} apart from decode", figures)


# -- growth ---------------------------------------------------------------------------------------


def _long(patient: Patient, factor: int, base: tuple[int, ...]) -> Any:
    """Return a signal of `factor` times the base length along its last axis."""
    if patient.modality is Modality.TEXT:
        return [" ".join(str(one) for one in patient.real)[:1000] * (4 * factor)]
    return patient.stack((*base[:-1], base[-1] * factor), 1)


def _base(patient: Patient) -> tuple[int, ...]:
    """Return a size of which the eightfold takes about a twentieth of the time of a check."""
    if patient.modality is Modality.TEXT:
        return ()
    side, stride = min(patient.size[0], 128), patient.stride
    samples = patient.speed * patient.seconds / 20 / FACTORS[-1]
    if patient.modality is Modality.AUDIO:
        return patient.whole((int(min(max(samples, 8 * stride[0]), 2**17)),))
    rows = max(1, side // stride[0]) * stride[0]
    return rows, max(4, min(round(samples / rows), 512) // stride[1]) * stride[1]


def exponent(amounts: list[float], lengths: list[float]) -> float:
    """Return the exponent of the growth between the second and the last length."""
    ends = [max(amounts[i], 1e-12) for i in (1, -1)]
    return math.log(ends[1] / ends[0]) / math.log(lengths[-1] / lengths[1])


def _verdict(steepest: float) -> Verdict:
    return Verdict.PASS if steepest <= STEEP else Verdict.WARN if steepest <= STEEPER else Verdict.FAIL


@check(
    "cost", "Time by length", limit=GROWTH,
    about="Seconds of an encode and a decode of one signal, at a length and at twice, four and eight times it.",
)  # fmt: skip
def time_by_length(patient: Patient) -> Diagnosis:
    base = _base(patient)
    encode = dict.fromkeys(FACTORS, math.inf)
    decode = dict.fromkeys(FACTORS, math.inf)
    given = {factor: _long(patient, factor, base) for factor in FACTORS}
    codes = {factor: patient.encode(x) for factor, x in given.items()}
    for _ in patient.cases(range(REPEATS), least=3):
        for factor, x in given.items():
            encode[factor] = min(encode[factor], patient.timed(lambda x=x: patient.encode(x)))
            decode[factor] = min(decode[factor], patient.timed(lambda factor=factor: patient.decode(codes[factor])))
    slopes = {
        "encode": exponent(list(encode.values()), list(map(float, FACTORS))),
        "decode": exponent(list(decode.values()), list(map(float, FACTORS))),
    }
    amount = _amount(patient, given[FACTORS[-1]])
    speeds = {"encode": amount / encode[FACTORS[-1]], "decode": amount / decode[FACTORS[-1]]}
    text = ", ".join(f"{way} {speeds[way]:.3g} {AMOUNTS[patient.modality]} per second, exponent {slopes[way]:.2f}"
                     for way in slopes)  # fmt: skip
    figures = {"exponents": slopes, "speeds": speeds, "seconds of encode": list(encode.values()),
               "seconds of decode": list(decode.values())}  # fmt: skip
    return Diagnosis(_verdict(max(slopes.values())), text, figures)


def _amount(patient: Patient, x: Any) -> float:
    if patient.modality is Modality.TEXT:
        return len(x[0].encode()) / 1e6
    samples = math.prod(x.shape[2:])
    return samples / 1e6 if patient.modality is Modality.IMAGE else samples / (patient.spec.sample_rate or 1)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once. It sees operations of PyTorch, not memory of libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.live += (size := storage.nbytes())
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@check(
    "cost", "Memory by length", limit=GROWTH,
    about="Most bytes of tensors that live at once in an encode and a decode, at a length and at its multiples. "
    "Memory of other libraries is not seen.",
)  # fmt: skip
def memory_by_length(patient: Patient) -> Diagnosis:
    base = _base(patient)
    peaks = []
    for factor in FACTORS:
        x = _long(patient, factor, base)
        with _Live() as counted:
            patient.round_trip(x)
        peaks.append(float(counted.peak))
    slope = exponent(peaks, list(map(float, FACTORS)))
    per = peaks[-1] / max(1, _count(patient, base) * FACTORS[-1])
    text = f"{peaks[-1] / 1e6:,.1f} MB at the longest, {per:,.0f} bytes per sample, exponent {slope:.2f}"
    return Diagnosis(_verdict(slope), text, {"bytes": peaks, "exponent": slope})


def _count(patient: Patient, base: tuple[int, ...]) -> int:
    return math.prod(base) if base else len(_long(patient, 1, base)[0].encode())


# -- export ---------------------------------------------------------------------------------------


@check(
    "cost", "Export", limit="no code may differ, up to .1 % is a warning; samples within .01",
    about="The exported encoder and decoder give the codes and samples of the codec.",
)  # fmt: skip
def exported(patient: Patient) -> Diagnosis:
    codec = patient.codec
    if (obstacle := codec.export_obstacle) is not None:
        raise Inapplicable(obstacle.replace("\n", " "))
    if (parameters := sum(p.numel() for p in codec.parameters())) > LARGEST:
        raise Inapplicable(f"{parameters:,} parameters take long to export; tokenloom export measures the same")
    installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    form = "onnx" if installed else "torch.export"
    with tempfile.TemporaryDirectory() as folder:
        found = export.export(codec, Path(folder) / "exported", form, patient.setting)
    verdict = Verdict.PASS if not found.differing else Verdict.WARN
    return Diagnosis(verdict, f"{form}: {found}", {"tokens": found.tokens, "differing": found.differing,
                                                   "largest": found.largest, "format": form})  # fmt: skip
