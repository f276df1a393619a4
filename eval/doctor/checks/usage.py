"""Use of the codebooks: dead and rare entries, perplexity, and what a code tells about the next one."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Modality
from tokenloom.metrics.tokens import CodeCounts, sequences

from .. import signals
from ..check import check
from ..patient import ITEMS, Patient
from ..records import Diagnosis, Inapplicable, Verdict

ENOUGH = 10
"""Fewest tokens per entry with which an entry that never occurs counts as dead."""
FEW, MANY = 0.1, 0.45
"""Shares of dead entries without a warning, and from which on a codec fails."""
RARE = 0.01
"""Share of an even use below which an entry is rare."""
PAID = 0.5
"""Largest share of the nominal bits in a container whose entropy coder makes uneven use free."""
FLAT = 0.1
"""Smallest perplexity, relative to the number of entries, without a warning."""
COLLAPSED = 1.5
"""Largest perplexity of a codebook that has collapsed."""
SAVING = 0.05
"""Largest saving of a neighbor's code without a warning, where the container does not use it."""
TRUST = (1, 8, 64, 512)
"""Observations after an entry that the estimate of order 0 counts for."""
MOST = 30_000
"""Most tokens of a quantizer for the conditional entropy."""


def _counts(patient: Patient, noise: bool = False) -> tuple[list[Tensor], str]:
    """Return the counts of each quantizer's entries, and what was counted: the training split if it is known.

    With `noise`, signals of all kinds of noise count, too: what they do not reach either is dead on any data.
    """
    sizes = patient.spec.codebook_sizes
    trained = patient.codec.counts
    if isinstance(trained, Tensor) and int(trained.sum()):
        return [row[:size].cpu() for row, size in zip(trained, sizes, strict=True)], "codes of the training split"
    counts = CodeCounts(sizes)
    for codes in patient.corpus:
        counts.update(codes)
    if noise:
        for x in patient.cases(_blocks(patient), least=4):
            counts.update(patient.encode(x))
    return counts.counts, f"codes of {len(patient.corpus)} signals{' and of noise' * noise}"


def _paid(patient: Patient) -> float:
    """Return the bits of containers as a share of the nominal ones."""
    few = patient.batch[:4]
    coded = float(rate.coded(patient.compress(few)).sum())
    return coded / max(1.0, float(rate.nominal(patient.spec, patient.encode(few)).sum()))


def _blocks(patient: Patient) -> Iterator[Tensor]:
    """Yield noise that is constant over blocks of fractions and multiples of a stride, loud and soft."""
    size = patient.size
    for number, (scale, loud) in enumerate(itertools.product((1.0, 0.25, 2.0, 4.0), (1.0, 0.3, 0.1))):
        small = tuple(max(1, round(n / (s * scale))) for n, s in zip(size, patient.stride, strict=True))
        x = signals.noise(patient.spec, small, ITEMS, seed=number)
        middle = 0.0 if patient.modality is Modality.AUDIO else x.mean((2, *range(3, x.ndim)), keepdim=True)
        yield F.interpolate(middle + (x - middle) * loud, size, mode="nearest").clamp(x.min(), x.max())


def _require_codebook(patient: Patient) -> None:
    if not patient.spec.total:
        raise Inapplicable("the tokens are the bytes of a file")
    if patient.modality is Modality.TEXT:
        raise Inapplicable("a text uses what its language uses")


@check(
    "tokens", "Dead and rare codes",
    limit=f"at most {FEW:.0%} of the entries dead; {MANY:.0%} fail, unless an entropy coder halves the bits",
    about="Entries of a codebook that never occur, not even in noise, and those that occur in less than a hundredth of "
    "an even use.",
)  # fmt: skip
def dead_codes(patient: Patient) -> Diagnosis:
    _require_codebook(patient)
    counts, what = _counts(patient, noise=True)
    totals = [int(count.sum()) for count in counts]
    if short := [q for q, (n, count) in enumerate(zip(totals, counts, strict=True)) if n < ENOUGH * len(count)]:
        used = int((counts[short[0]] > 0).sum())
        raise Inapplicable(
            f"{totals[short[0]]:,} {what} are too few for {len(counts[short[0]]):,} entries, of which {used:,} occur; "
            f"it takes {ENOUGH * len(counts[short[0]]):,}"
        )
    dead = [int((count == 0).sum()) / len(count) for count in counts]
    rare = [int(((count > 0) & (count < RARE * n / len(count))).sum()) / len(count)
            for count, n in zip(counts, totals, strict=True)]  # fmt: skip
    worst = max(range(len(dead)), key=lambda q: dead[q])
    where = f" of quantizer {worst}" if len(dead) > 1 else ""
    text = f"{dead[worst]:.1%} of the entries{where} dead, {rare[worst]:.1%} rare, in {sum(totals):,} {what}"
    verdict = Verdict.PASS if dead[worst] <= FEW else Verdict.WARN if dead[worst] < MANY else Verdict.FAIL
    if verdict is not Verdict.PASS and patient.has_containers and (paid := patient.once(_paid)) <= PAID:
        verdict, text = (
            Verdict.PASS,
            f"{text}; the container takes {paid:.0%} of the nominal bits, so they cost nothing",
        )
    return Diagnosis(verdict, text, {"dead": dead, "rare": rare, "counted": what})


@check(
    "tokens", "Usage and perplexity",
    limit=f"a perplexity of {FLAT:.0%} of the entries, less is a warning; up to {COLLAPSED} it has collapsed",
    about="How many entries each quantizer uses, and as many equally frequent ones would carry the same information.",
)  # fmt: skip
def perplexity(patient: Patient) -> Diagnosis:
    counts, what = _counts(patient)
    found: list[dict[str, Any]] = []
    for count in counts:
        total = int(count.sum())
        if not total:
            raise Inapplicable("there are no codes to count")
        p = count[count > 0].double() / total
        value = float((-(p * p.log()).sum()).exp())
        found.append({"entries": len(count), "used": int((count > 0).sum()), "perplexity": value})
    worst = min(found, key=lambda one: one["perplexity"] / one["entries"])
    span = sorted(one["perplexity"] for one in found)
    values = f"{span[0]:,.0f} to {span[-1]:,.0f}" if len(span) > 1 else f"{span[0]:,.0f}"
    used = min(one["used"] / one["entries"] for one in found)
    text = f"perplexity {values} of {worst['entries']:,} entries, {used:.0%} used, in {what}"
    verdict = Verdict.PASS if worst["perplexity"] >= FLAT * worst["entries"] else Verdict.WARN
    if patient.modality is Modality.TEXT or not patient.spec.total:
        verdict = Verdict.PASS  # a vocabulary, or the bytes of a file, are not learned for even use
    if span[0] <= COLLAPSED:
        verdict = Verdict.FAIL
    priced = patient.has_containers and span[-1] > COLLAPSED
    if verdict is not Verdict.PASS and priced and (paid := patient.once(_paid)) <= PAID:
        verdict, text = Verdict.PASS, f"{text}; the container takes {paid:.0%} of the nominal bits"
    return Diagnosis(verdict, text, {"quantizers": found, "counted": what})


# -- conditional entropy --------------------------------------------------------------------------


@check(
    "tokens", "Conditional entropy",
    limit=f"a saving above {SAVING:.0%} is a warning, except for text, or if the container is already as small",
    about="Bits of a code after the one before it against bits of it alone, both counted on the fly, so that neither "
    "has seen the signals.",
)  # fmt: skip
def conditional_entropy(patient: Patient) -> Diagnosis:
    alone = after = 0.0
    total = 0
    by_quantizer = []
    for q in patient.cases(range(len(patient.spec.codebook_sizes))):
        rows = [sequences(codes, 0)[q].tolist() for codes in patient.corpus if q < codes.indices.shape[1]]
        plain, conditional, count = adaptive_bits(rows, patient.spec.codebook_sizes[q])
        if count:
            by_quantizer.append({"alone": plain / count, "after the one before": conditional / count})
        alone, after, total = alone + plain, after + conditional, total + count
    if not total:
        raise Inapplicable("there are no codes to count")
    saving = 1 - after / max(alone, 1e-9)
    text = (
        f"{after / total:.2f} bits per token after the one before, {alone / total:.2f} alone: {max(saving, 0):.1%} less"
    )
    coded = _coded_per_token(patient) if patient.has_containers else math.inf
    text += f"; the container takes {coded:.2f}" if patient.has_containers else ""
    verdict = Verdict.WARN if saving > SAVING and after / total < coded * (1 - SAVING) else Verdict.PASS
    if patient.modality is Modality.TEXT:
        verdict = Verdict.PASS  # words that predict each other are no fault of a tokenizer
    return Diagnosis(verdict, text, {"quantizers": by_quantizer, "saving": saving, "bits of the container": coded})


def _coded_per_token(patient: Patient) -> float:
    """Return the bits per token of the containers of the first signals."""
    few = patient.batch[:2]
    bits = float(rate.coded(patient.compress(few)).sum())
    return bits / max(1, int(rate.tokens(patient.spec, patient.encode(few)).sum()))


def adaptive_bits(rows: Sequence[Sequence[int]], entries: int) -> tuple[float, float, int]:
    """Return the bits of sequences by adaptive counts of order 0 and of order 1, and the number of tokens.

    Order 0 adds half a count to each entry (Krichevsky and Trofimov, 1981). Order 1 takes the estimate of order 0 for
    some more observations after each entry; of several numbers of them the best one counts. Both are real code lengths:
    each token is priced before it is counted.
    """
    singles: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    starts: Counter[int] = Counter()
    alone, after = 0.0, [0.0] * len(TRUST)
    count = 0
    for row in rows:
        previous = -1
        for token in row:
            if count >= MOST:
                return alone, min(after), count
            p = (singles[token] + 0.5) / (count + 0.5 * entries)
            alone -= math.log2(p)
            seen, all_seen = pairs[previous, token], starts[previous]
            for i, more in enumerate(TRUST):
                after[i] -= math.log2((seen + more * p) / (all_seen + more))
            singles[token] += 1
            pairs[previous, token] += 1
            starts[previous] += 1
            previous, count = token, count + 1
    return alone, min(after), count
