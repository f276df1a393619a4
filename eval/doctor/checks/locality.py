"""Parts of a signal against the whole, and what a code depends on."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from tokenloom.codecs.types import Codes, Modality

from .. import reach
from ..check import check
from ..difference import EQUAL, RARE, SAME, Difference, signal_verdict
from ..patient import Patient
from ..records import Diagnosis, Inapplicable, Verdict

LONGEST = 2**19
"""Most samples of the sound that is cut into parts."""
TILES = 48
"""Fewest codes along each axis of the signal that is cut into parts."""


def _where(values: tuple[int, ...], unit: str) -> str:
    axes = ("rows", "columns") if len(values) == 2 else ("",)
    if len(set(values)) == 1:
        return f"{values[0]:,} {unit}"
    return " and ".join(f"{n:,} {unit} in {axis}" for n, axis in zip(values, axes, strict=True))


# -- reach ----------------------------------------------------------------------------------------


@check(
    "locality", "Look-ahead",
    limit="none for a codec that says it is causal; otherwise a finite one, and an unbounded one is a warning",
    about="How far beyond its own last sample a code of a sound looks, found by changing all later samples.",
)  # fmt: skip
def look_ahead(patient: Patient) -> Diagnosis:
    patient.require_grid()
    if patient.modality is not Modality.AUDIO:
        raise Inapplicable("pictures have no order in time; see the receptive field")
    (stride,), grid = patient.stride, 65
    middle, farthest, unbounded = grid // 2, 0, False
    x = patient.stack((grid * stride,), 2)
    offsets = sorted({0, stride - 1, *(2**i for i in range(stride.bit_length()) if 2**i < stride)})
    for seed in patient.cases(range(6), least=2):
        probes = [x]
        for offset in offsets:
            changed = x.clone()
            tail = changed[..., middle * stride + offset :]
            tail.copy_(torch.rand(tail.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
            probes.append(changed)
        indices = patient.encode(torch.cat(probes)).indices.cpu().unflatten(0, (-1, 2))
        for number, offset in enumerate(offsets, 1):
            hit = (indices[0] != indices[number]).flatten(0, 1).any(0).nonzero()[:, 0]
            if len(hit) and int(hit.min()) < middle:
                farthest = max(farthest, (middle - int(hit.min()) - 1) * stride + offset + 1)
                unbounded |= int(hit.min()) == 0
    figures = {"samples": farthest, "milliseconds": 1000 * farthest / (patient.spec.sample_rate or 1)}
    said = "the codec says it is causal" if patient.spec.causal else "the codec does not say it is causal"
    if unbounded:
        verdict = Verdict.FAIL if patient.spec.causal else Verdict.WARN
        return Diagnosis(verdict, f"a change is noticed {middle} codes before it, at the start; {said}", figures)
    text = f"{farthest:,} samples ({figures['milliseconds']:.3g} ms); {said}"
    return Diagnosis(Verdict.FAIL if farthest and patient.spec.causal else Verdict.PASS, text, figures)


@check(
    "locality", "Receptive field of a code", limit="finite; one as large as the probe is a warning",
    about="How far away a change of one cell of the signal still changes codes.",
)  # fmt: skip
def encoder_field(patient: Patient) -> Diagnosis:
    found = patient.once(reach.encoder)
    figures = {"codes before": list(found.before), "codes after": list(found.after), "codes of the probe": found.probe}
    if not found.bounded:
        return Diagnosis(Verdict.WARN, f"a change is noticed all over {found.probe} codes", figures)
    text = f"{_where(found.before, 'codes')} before the change and {_where(found.after, 'codes')} after it"
    return Diagnosis(Verdict.PASS, text, figures)


@check(
    "locality", "Receptive field of a sample", limit="finite; one as large as the probe is a warning",
    about="How far from its own cell a change of one code changes samples; in a causal sound never before it.",
)  # fmt: skip
def decoder_field(patient: Patient) -> Diagnosis:
    found = patient.once(reach.decoder)
    figures = {"samples before": list(found.before), "samples after": list(found.after)}
    text = f"{_where(found.before, 'samples')} before the cell and {_where(found.after, 'samples')} after it"
    if patient.spec.causal and max(found.before):
        return Diagnosis(Verdict.FAIL, f"{text}; the codec says it is causal", figures)
    if not found.bounded:
        return Diagnosis(Verdict.WARN, f"a change is noticed all over {found.probe} codes", figures)
    return Diagnosis(Verdict.PASS, text, figures)


# -- seams ----------------------------------------------------------------------------------------


def _grid(patient: Patient, context: int) -> tuple[int, ...]:
    """Return the size in codes of the signal to cut: three parts that are longer than their contexts."""
    least = max(TILES, 4 * context)
    if patient.modality is Modality.IMAGE:
        return (least, least)
    affordable = int(patient.speed * patient.seconds / 3)
    return (max(least, min(LONGEST, affordable) // patient.stride[0]),)


def _context(field: reach.Reach) -> int:
    """Return the codes that a part is given on each side: more than the reach, which may be measured too small."""
    return 2 * field.most + 2 if field.bounded else 0


def _signal(patient: Patient, grid: tuple[int, ...]) -> Tensor:
    """Return one real signal of a size in codes; for sounds, all of them in a row."""
    size = tuple(n * s for n, s in zip(grid, patient.stride, strict=True))
    if patient.modality is Modality.IMAGE:
        return patient.stack(size, 1)
    row = torch.cat([one for one in patient.real if isinstance(one, Tensor)], -1)
    return row.repeat(1, -(-size[0] // row.shape[-1]))[None, :, : size[0]].contiguous()


def _spans(count: int, context: int) -> list[tuple[int, int, int, int]]:
    """Return the parts of `count` codes: start and end, and both with their context."""
    cuts = [0, count // 3, 2 * count // 3, count]
    return [(a, b, max(0, a - context), min(count, b + context)) for a, b in itertools.pairwise(cuts)]


def _encode_parts(patient: Patient, x: Tensor, axis: int, count: int, context: int) -> Tensor:
    stride, parts = patient.stride[axis], []
    for start, end, first, last in _spans(count, context):
        indices = patient.encode(x.narrow(axis + 2, first * stride, (last - first) * stride)).indices
        parts.append(indices.narrow(axis + 2, start - first, end - start))
    return torch.cat(parts, axis + 2)


@check(
    "locality", "Seams between coded parts", limit=f"with context: {SAME}",
    about="A signal that is cut at whole strides gives the codes of the whole, if each part is encoded with as much of "
    "its neighbors as its codes depend on.",
)  # fmt: skip
def seams(patient: Patient) -> Diagnosis:
    field = patient.once(reach.encoder)
    context = _context(field)
    grid = _grid(patient, context)
    x = _signal(patient, grid)
    whole = patient.encode(x).indices
    plain = differing = total = farthest = 0
    for axis in patient.cases(range(len(grid))):
        hit = (_encode_parts(patient, x, axis, grid[axis], 0) != whole).flatten(0, 1).any(0)
        places = reach.along(hit, axis)
        cuts = torch.tensor([grid[axis] // 3, 2 * grid[axis] // 3])
        if len(places):
            away = torch.where(places[:, None] >= cuts, places[:, None] - cuts + 1, cuts - places[:, None]).amin(1)
            farthest = max(farthest, int(away.max()))
        plain += int((_encode_parts(patient, x, axis, grid[axis], 0) != whole).sum())
        if field.bounded:
            differing += int((_encode_parts(patient, x, axis, grid[axis], context) != whole).sum())
        total += whole.numel()
    figures = {
        "codes": total, "differing without context": plain, "farthest from a seam in codes": farthest,
        "context in codes": context, "differing with context": differing,
    }  # fmt: skip
    bare = f"without context {plain:,} of {total:,} differ, up to {farthest} codes from the seam" if plain else (
        f"even without context 0 of {total:,} differ"
    )  # fmt: skip
    if not field.bounded:
        text = f"{bare}; no context suffices, since codes depend on the whole probe"
        return Diagnosis(Verdict.WARN if plain else Verdict.PASS, text, figures)
    counted = Difference(differing, total)
    text = f"with {context} codes of context {counted}; {bare}"
    return Diagnosis(counted.verdict, text, figures | {"share": counted.share})


@check(
    "locality", "Seams between decoded parts", limit=f"with context: {EQUAL}",
    about="Codes that are cut into parts decode to the samples of the whole, if each part is decoded with as many of "
    "its neighbors as its samples depend on.",
)  # fmt: skip
def decoded_seams(patient: Patient) -> Diagnosis:
    field = patient.once(reach.decoder)
    if patient.codec.side_shapes(patient.size):
        raise Inapplicable("side information belongs to the whole signal")
    context = 2 * math.ceil(field.most / min(patient.stride)) + 2 if field.bounded else 0
    grid = _grid(patient, context)
    codes = patient.encode(_signal(patient, grid))
    whole = patient.decode(codes)
    bare = largest = 0.0
    for axis in patient.cases(range(len(grid))):
        bare = max(bare, float((_decode_parts(patient, codes, axis, 0) - whole).abs().max()))
        if field.bounded:
            largest = max(largest, float((_decode_parts(patient, codes, axis, context) - whole).abs().max()))
    figures = {"largest without context": bare, "context in codes": context, "largest with context": largest}
    if not field.bounded:
        text = f"parts differ by up to {bare:.2g} from the whole; no context suffices"
        return Diagnosis(Verdict.WARN if bare > 0 else Verdict.PASS, text, figures)
    text = f"with {context} codes of context samples differ by at most {largest:.2g}, without by {bare:.2g}"
    return Diagnosis(signal_verdict(largest), text, figures)


def _decode_parts(patient: Patient, codes: Codes, axis: int, context: int) -> Tensor:
    stride, parts = patient.stride[axis], []
    for start, end, first, last in _spans(codes.indices.shape[axis + 2], context):
        sizes = codes.sizes.clone()
        sizes[:, axis] = (last - first) * stride
        part = patient.decode(Codes(codes.indices.narrow(axis + 2, first, last - first), sizes))
        parts.append(part.narrow(axis + 2, (start - first) * stride, (end - start) * stride))
    return torch.cat(parts, axis + 2)


# -- shift ----------------------------------------------------------------------------------------


@check(
    "locality", "Shift", limit="a shift by whole strides moves all codes away from the edges; else a warning",
    about="How many codes stay when the signal moves by one whole stride, and by half of one.",
)  # fmt: skip
def shift(patient: Patient) -> Diagnosis:
    patient.require_grid()
    field = patient.once(reach.encoder)
    margin = _context(field)
    grid = max(TILES // 2, 2 * margin + 8)
    size = tuple((grid + 1) * s for s in patient.stride)
    x = patient.stack(size, 4)
    last = patient.stride[-1]
    base = patient.encode(x[..., : grid * last]).indices
    moved = {}
    for name, step in patient.cases((("a stride", last), ("half a stride", last // 2))):
        if not step:
            continue
        other = patient.encode(x[..., step : step + grid * last]).indices
        keep = slice(margin, grid - 1 - margin)
        aligned = base[..., 1:][..., keep] if step == last else base[..., keep]
        moved[name] = float((other[..., keep] == aligned).float().mean())
    words = [f"{share:.2%} of the codes stay after {name}" for name, share in moved.items()]
    verdict = Verdict.PASS if 1 - moved["a stride"] <= RARE else Verdict.WARN
    return Diagnosis(verdict, "; ".join(words), {f"same after {name}": share for name, share in moved.items()})
