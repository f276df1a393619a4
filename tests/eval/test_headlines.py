"""Standings and takeaways: the best codec against the runner-up at an equal rate, and ties."""

from __future__ import annotations

import pytest
import torch

from tokenloom import codecs
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.eval import trial
from tokenloom.eval.compare.records import Record
from tokenloom.eval.compare.report.standings import standing, standings
from tokenloom.eval.compare.report.tables import best_table
from tokenloom.eval.compare.report.takeaways import takeaways
from tokenloom.eval.compare.results import Results
from tokenloom.eval.metric import ItemValues, MetricDescription, ProtocolDescription, Summary

METRICS = {
    "image": {"psnr": MetricDescription("PSNR", "dB", "higher"), "lpips": MetricDescription("LPIPS", "", "lower")},
    "audio": {"mel": MetricDescription("Mel distance", "", "lower")},
    "text": {"exact": MetricDescription("Exact round trips", "", "higher")},
}
SPREAD = [-6.0, -1.0, 1.0, 6.0]
"""Items differ far more than codecs do, as photographs and voices do."""


@pytest.fixture
def results(tmp_path) -> Results:
    found = Results(tmp_path, "hand-made")
    for modality, about in METRICS.items():
        found.protocols[modality] = ProtocolDescription(modality, modality, "", {}, about)
    return found


def add(results, codec, rates_and_values, *, modality="image", metric="psnr", learned=False, spread=SPREAD, noise=()):
    """Add a record per (rate, value). Its items have the mean `value`, and differ by `spread` and `noise`."""
    unit = {"image": "bpp", "audio": "kbit/s", "text": "bits per byte"}[modality]
    for i, (rate, value) in enumerate(rates_and_values):
        values = [value + s + n for s, n in zip(spread, noise or [0.0] * len(spread), strict=True)]
        rows = [{"key": f"item{k}", metric: v, "coded": rate} for k, v in enumerate(values)]
        results.records.append(
            Record(codec=codec, modality=modality, n=len(values), protocol=modality, setting_name="quality", setting=i,
                   default=i == 0, learned=learned, rate_unit=unit, rates={"coded": Summary(rate)},
                   metrics={metric: ItemValues(values).summary()}, items=rows)
        )  # fmt: skip


def lines(results) -> list[str]:
    results.standings = standings(results)
    return takeaways(results)


def test_a_value_between_two_settings_is_interpolated_in_log_rate(results):
    add(results, "image/a", [(0.1, 20.0), (0.4, 30.0)])
    add(results, "image/b", [(0.2, 25.0)])

    def at(rate):
        return {place.codec: place.value for place in standing(results, "image", "psnr", rate).places}

    assert at(0.2) == pytest.approx({"image/a": 25.0, "image/b": 25.0})
    assert at(0.205) == pytest.approx({"image/a": 25.178, "image/b": 25.0}, abs=1e-3)
    assert set(at(0.3)) == {"image/a"}
    assert at(0.097) == {"image/a": 20.0}
    assert at(0.05) == {}


def test_the_interval_is_that_of_the_difference_on_the_same_items(results):
    """Between items, PSNR varies by 12 dB. The codecs differ by 1 dB on each of them: that is no tie."""
    add(results, "image/a", [(0.1, 30.0), (0.4, 30.0)])
    add(results, "image/b", [(0.2, 29.0)], noise=[0.2, -0.2, 0.2, -0.2])
    first, second = standing(results, "image", "psnr", 0.2).places
    assert (first.codec, second.gap) == ("image/a", pytest.approx(1.0))
    assert second.ci95 == pytest.approx(0.2 * (4 / 3) ** 0.5 / 2 * 3.182446, rel=1e-6)  # std / √n × t of 3 degrees
    assert results.records[0].metrics["psnr"].ci95 > 7
    assert not second.tie


def test_the_best_codec_is_compared_with_the_runner_up(results):
    add(results, "image/jpeg", [(0.1, 20.0), (0.4, 22.0)])
    add(results, "image/avif", [(0.1, 33.0), (0.4, 35.0)])
    add(results, "image/webp", [(0.1, 30.0), (0.4, 33.0)])
    add(results, "mine", [(0.2, 27.4)], learned=True, noise=[0.1, -0.1, 0.1, -0.1])
    assert lines(results) == [
        "At 0.2 bpp, image/avif has the best PSNR: 34.00 dB, 2.50 ± 0.00 dB better than the runner-up, image/webp; "
        "mine is number 3 of 4: 27.40 dB, 6.60 ± 0.18 dB worse than image/avif.",
        "Best PSNR by rate, in bpp: image/avif around 0.1 to 0.4.",
    ]


def test_a_difference_inside_its_interval_is_a_tie(results):
    add(results, "image/avif", [(0.1, 30.0), (0.4, 34.0)])
    add(results, "mine", [(0.1, 30.5), (0.4, 32.0)], learned=True, noise=[2.0, -2.0, 2.0, -2.0])
    add(results, "image/jpeg", [(0.1, 25.0), (0.4, 27.0)])
    first, second = lines(results)
    assert first == (
        "At 0.1 bpp, mine and image/avif tie for the best PSNR, 30.50 and 30.00 dB: "
        "no difference to mine exceeds its 95 % interval."
    )
    assert second == "Best PSNR by rate, in bpp: image/avif and mine (tie) around 0.1 to 0.4."
    (table,) = [best_table(results, "image")]
    assert [row["cells"][0]["lead"] for row in table["rows"]] == ["tie", "tie"]


def test_a_low_rate_without_rivals_is_not_a_win(results):
    """A codec of 8 kHz below the lowest rate of Opus: nothing was measured there to win against."""
    add(results, "digits", [(1.5, 0.385)], modality="audio", metric="mel", learned=True, spread=[-0.1, 0.1])
    add(results, "audio/opus", [(6.1, 0.435), (12.0, 0.2)], modality="audio", metric="mel", spread=[-0.1, 0.1])
    results.records[0].narrowed = ["sounds of 24 kHz at 8 kHz"]
    assert lines(results) == [
        "At 1.5 kbit/s, digits has no rival: its mel distance is 0.385. At 6.1 kbit/s, the nearest rate of another "
        "codec, audio/opus has 0.435.",
        "Best mel distance by rate, in kbit/s: digits (no rival) around 1.5; audio/opus (no rival) around 6 to 12.",
        "digits codes sounds of 24 kHz at 8 kHz; its figures include that loss.",
    ]


def test_the_smaller_value_is_better_where_the_metric_says_so(results):
    add(results, "image/a", [(0.2, 0.3)], metric="lpips")
    add(results, "image/b", [(0.2, 0.1)], metric="lpips")
    assert [place.codec for place in standing(results, "image", "lpips", 0.2).places] == ["image/b", "image/a"]


def test_one_item_has_no_interval(results):
    add(results, "image/a", [(0.2, 30.0)], spread=[0.0])
    add(results, "image/b", [(0.2, 29.0)], spread=[0.0])
    assert lines(results)[0] == (
        "At 0.2 bpp, image/a has the best PSNR: 30.00 dB, 1.00 dB (one item, no interval) better than the runner-up, "
        "image/b."
    )


def test_bands_are_compared_where_most_codecs_reach(results):
    add(results, "image/a", [(0.05, 20.0), (0.4, 30.0)])
    add(results, "mine", [(0.167, 25.0)], learned=True)
    found = {s.center: s for s in standings(results)}
    assert list(found) == [0.05, 0.2, 0.4]
    assert [found[c].rate for c in found] == [0.05, 0.167, 0.4]
    assert [len(found[c].places) for c in found] == [1, 2, 1]


def test_perfect_values_take_no_part(results):
    add(results, "image/png", [(12.0, 40.0)])
    results.records[0].metrics["psnr"] = Summary(perfect=4)
    add(results, "image/jpeg", [(1.0, 40.0)])
    assert [[p.codec for p in s.places] for s in standings(results)] == [["image/jpeg"]]
    assert lines(results)


def test_texts_are_compared_by_their_bits(results):
    add(results, "text/bpe", [(2.0, 1.0)], modality="text", metric="exact", spread=[0.0, 0.0])
    add(results, "text/bytes", [(8.0, 1.0)], modality="text", metric="exact", spread=[0.0, 0.0])
    assert lines(results) == [
        "text/bpe codes text at 2.00 bits per byte (100% come back exactly), 6.00 fewer than the runner-up, text/bytes."
    ]


@pytest.mark.parametrize(
    ("channels", "rate", "expected"),
    [(1, 8000, ""), (2, 8000, "2 channels as 1"), (1, 24000, "sounds of 24 kHz at 8 kHz"),
     (2, 44100, "sounds of 44.1 kHz at 8 kHz and 2 channels as 1")],
)  # fmt: skip
def test_a_band_below_that_of_the_data_is_named(channels, rate, expected):
    item = Item("tone", Modality.AUDIO, torch.zeros(channels, 100), rate)
    assert trial.narrowed(item, codecs.load("digits-rvq")) == expected
