"""Takeaways: sentences with measured values that summarize a comparison.

They compare the best codec with the runner-up at an equal rate. A difference inside its 95 % interval is a tie.
"""

from __future__ import annotations

import itertools
import math

from ...metric import ItemValues
from ..records import Place, Record, Standing
from ..results import Results
from .standings import standing
from .text import MAIN, MetricWords, listed


def takeaways(results: Results) -> list[str]:
    """Return the sentences, the most important first."""
    lines = [_learnability(results)]
    for modality in results.modalities():
        if modality == "text":
            lines.append(_text(results))
        elif MAIN[modality] in results.measured(modality):
            lines += [_at_equal_rate(results, modality), _by_rate(results, modality)]
    return [line for line in [*lines, *_narrowed(results)] if line]


def _at_equal_rate(results: Results, modality: str) -> str:
    """Compare the best codec, the runner-up and the learned codecs at one rate."""
    learned = {r.codec for r in results.of(modality) if r.learned}
    rate = _usual_rate(results, modality)
    if rate is None or len(results.codecs(modality)) < 2:
        return ""
    found = standing(results, modality, MAIN[modality], rate)
    words, places, tied = MetricWords(found.metric, results.metric(modality, found.metric)), found.places, found.best
    text = f"At {rate:.3g} {found.rate_unit}, "
    if len(places) < 2:
        return "".join(f"{text}{place.codec} has no rival: {_nearest(results, found, words)}" for place in places)
    if len(tied) > 1:
        text += (
            f"{listed(place.codec for place in tied)} tie for the best {words.label}, {words.values(tied)}: "
            f"no difference to {tied[0].codec} exceeds its 95 % interval"
        )
    else:
        text += (
            f"{places[0].codec} has the best {words.label}: {words.values(tied)}, {words.gap(places[1])} better than "
            f"the runner-up, {places[1].codec}"
        )
    told = tied if len(tied) > 1 else places[:2]
    for rank, place in enumerate(places, 1):
        if place.codec in learned and place not in told:
            text += f"; {place.codec} is number {rank} of {len(places)}: {words.values([place])}, "
            text += f"{words.gap(place)} worse than {places[0].codec}"
    return text + "."


def _usual_rate(results: Results, modality: str) -> float | None:
    """Return the user's rate, else that of the first learned codec by default, else one that most codecs reach."""
    defaults = [r.rate() for r in results.of(modality) if r.learned and r.default]
    bands = _bands(results, modality)
    most = max(bands, key=lambda s: len(s.places)).rate if bands else None
    return results.environment.rates.get(modality) or next(filter(None, defaults), most)


def _bands(results: Results, modality: str) -> list[Standing]:
    return [s for s in results.standings if (s.modality, s.metric) == (modality, MAIN[modality])]


def _nearest(results: Results, found: Standing, words: MetricWords) -> str:
    """Return the value of the only codec at a rate, and the value of another one at the nearest rate."""

    def distance(record: Record) -> float:
        return abs(math.log((record.rate() or math.inf) / found.rate))

    (place,) = found.places
    others = [r for r in results.of(found.modality) if r.codec != place.codec and r.value(found.metric) is not None]
    text = f"its {words.label} is {words.values([place])}"
    if not others:
        return f"{text}."
    near = min(others, key=distance)
    value = words.values([Place(codec=near.codec, value=near.value(found.metric) or 0.0, gap=0.0, ci95=None)])
    return (
        f"{text}. At {near.rate():.3g} {found.rate_unit}, the nearest rate of another codec, {near.codec} has {value}."
    )


def _by_rate(results: Results, modality: str) -> str:
    """Name the best codec for each band of rates."""
    bands = _bands(results, modality)
    if len(bands) < 2 or len(results.codecs(modality)) < 2:
        return ""
    words, parts = MetricWords(MAIN[modality], results.metric(modality, MAIN[modality])), []
    for winner, same in itertools.groupby(bands, _winner):
        centers = [f"{s.center:.3g}" for s in same]
        parts.append(f"{winner} around {centers[0]}" + (f" to {centers[-1]}" if len(centers) > 1 else ""))
    return f"Best {words.label} by rate, in {bands[0].rate_unit}: {'; '.join(parts)}."


def _winner(standing: Standing) -> str:
    names = sorted(place.codec for place in standing.best)
    note = " (tie)" if len(names) > 1 else " (no rival)" if len(standing.places) == 1 else ""
    return f"{listed(names)}{note}"


def _narrowed(results: Results) -> list[str]:
    """Name the codecs whose sample rate or channels are below those of the data."""
    lines = (f"{r.codec} codes {how}; its figures include that loss." for r in results.records for how in r.narrowed)
    return list(dict.fromkeys(lines))


def _learnability(results: Results) -> str:
    """Compare the two codecs with the smallest ratios of modelled to nominal rate."""
    share = {
        r.codec: (modelled / nominal, r)
        for r in results.records
        if r.n and r.default and (modelled := r.rate("modelled")) is not None and (nominal := r.rate("nominal"))
    }
    if not share:
        return ""
    best, *others = sorted(share, key=lambda name: share[name][0])
    r = share[best][1]
    text = (
        f"A small transformer that saw {r.modelled.tokens_seen:,} tokens of other items codes {best} at "
        f"{r.rate('modelled'):.3g} {r.rate_unit}, {share[best][0]:.0%} of its nominal rate"
    )
    return text + (f", and {others[0]} at {share[others[0]][0]:.0%} of its own." if others else ".")


def _text(results: Results) -> str:
    """Compare the two codecs with the fewest bits per byte of text."""
    best, *others = sorted(results.of("text"), key=lambda r: r.rate() or math.inf)
    text = f"{best.codec} codes text at {best.rate():.2f} bits per byte ({best.value('exact'):.0%} come back exactly)"
    if not others:
        return f"{text}."
    (near, *_), rates = others, [{row["key"]: row.get("coded") for row in r.items} for r in (best, others[0])]
    pairs = [(rates[0][key], rates[1][key]) for key in rates[0] if rates[0][key] and rates[1].get(key)]
    ci95 = ItemValues(b - a for a, b in pairs).summary().ci95
    gap = (near.rate() or 0.0) - (best.rate() or 0.0)
    how = "a tie with" if ci95 is not None and gap <= ci95 else f"{gap:.2f} fewer than the runner-up,"
    return f"{text}, {how} {near.codec}."
