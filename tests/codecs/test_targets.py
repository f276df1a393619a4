"""The parts of a target: PSNR, the choice among candidates, and bisection against a slow search."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from support.codecs import TINY, signals, structured, tiny

from tokenloom import codecs
from tokenloom.codecs import Settings, Target, TargetError, batches, rate, targets
from tokenloom.codecs.targets import Curve, SettingCodes, _search, decibel, psnr


def test_psnr_rounds_both_images_to_8_bits():
    levels = torch.full((1, 3, 4, 4), 100 / 255)
    nearly = levels + 0.4 / 255
    assert psnr(levels, nearly) == psnr(nearly, levels) == psnr(nearly, nearly + 0.05 / 255) == math.inf
    assert (
        psnr(nearly, levels + 5.6 / 255) == psnr(levels + 5.6 / 255, nearly) == pytest.approx(20 * math.log10(255 / 6))
    )


def test_psnr_is_that_of_the_mean_squared_error():
    x = torch.zeros(1, 3, 2, 2)
    y = x.clone()
    y[0, 1, 0, 1] = 12 / 255  # one of 12 values: a mean squared error of 12
    assert psnr(x, y) == pytest.approx(10 * math.log10(255**2 / 12)) == pytest.approx(decibel(12))
    assert decibel(255**2) == 0 and decibel(0) == math.inf


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_of_equally_good_candidates_the_one_with_fewer_tokens_is_chosen(order):
    """At a slope of 1, candidates of 2, 4 and 6 tokens are equally good, and the others are worse."""
    points = [(2, 22.0), (4, 24.0), (6, 26.0), (8, 27.0)]
    candidates = Curve([points[i][0] for i in order], [points[i][1] for i in order], None)
    assert candidates.tokens[candidates.steepest(1.0)] == 2
    assert candidates.tokens[candidates.steepest(0.5)] in (6, 8)  # 23 both
    assert candidates.tokens[candidates.steepest(0.5)] == 6
    assert candidates.tokens[candidates.steepest(0.0)] == 8
    assert candidates.tokens[candidates.cheapest(24.0)] == 4 and candidates.tokens[candidates.cheapest(24.5)] == 6
    assert candidates.cheapest(27.5) is None


def test_two_settings_are_enough_for_a_target():
    codec = codecs.build("audio/rvq", **(TINY["audio/rvq"] | {"quantizers": 2}))
    x = structured(codec, (4000,))
    low, high = (rate.kbps(rate.coded(codec.compress(x, n)), codec.encode(x, n), codec.spec).item() for n in (1, 2))
    assert len(codec.settings) == 2
    for wanted, used in ((low, 1), ((low + high) / 2, 1), (high, 2)):
        assert codec.encode(x, Target(kbps=wanted)).quantizers().tolist() == [used]


def found(values: list[float], target: Target, sweep: tuple[int, ...] = ()) -> tuple[int, int]:
    """Return the setting that a search finds for these measured values, and the number of values it measures."""
    settings = Settings("level", "", 0, sweep or (0, len(values) - 1), tuple(range(len(values))))
    search = _search(SimpleNamespace(name="toy", settings=settings), target, 0)
    measured = [next(search)]
    while True:
        try:
            measured.append(search.send(values[measured[-1]]))
        except StopIteration as stop:
            assert len(set(measured)) == len(measured), "no setting is measured twice"
            assert min(measured) >= 0
            return stop.value, len(measured)


@pytest.mark.parametrize("count", [2, 3, 7, 8, 33])
def test_bisection_equals_a_slow_search(count):
    """The first setting that reaches the PSNR; the last that does not exceed the rate. Few are measured."""
    draw = random.Random(count)
    values = sorted(draw.choices(range(10, 40), k=count))  # some are equal
    for wanted in (*values, *(v + 0.5 for v in values), values[0] - 1):
        first = next((i for i, value in enumerate(values) if value >= wanted), None)
        last = max((i for i, value in enumerate(values) if value <= wanted), default=None)
        for target, best in ((Target(psnr=wanted), first), (Target(bits_per_pixel=wanted), last)):
            if best is None:
                worst = values[-1] if target.name == "psnr" else values[0]
                level = count - 1 if target.name == "psnr" else 0
                with pytest.raises(TargetError, match=f"out of reach for toy on item 0: level={level} gives {worst}$"):
                    found(values, target)
            else:
                index, measured = found(values, target)
                assert index == best and measured <= math.log2(count) + 3


def test_a_setting_of_the_sweep_is_found_where_bisection_fails():
    """The middle setting points bisection away from the only settings that meet the target, 2 and 3, or 6 and 7."""
    quality, rates = [10.0, 10, 30, 30, 10, 10, 10, 10, 10], [20.0, 20, 20, 20, 20, 20, 10, 10, 20]
    assert found(quality, Target(psnr=30), (0, 3, 8))[0] == 2
    assert found(rates, Target(bits_per_pixel=10), (0, 6, 8))[0] == 7
    assert found([10.0, 30, 10, 10, 10, 30, 10, 10, 10], Target(psnr=30), (0, 1, 5, 8))[0] == 1  # the cheaper one
    assert found([20.0, 20, 20, 10, 20, 20, 20, 10, 20], Target(kbps=10), (0, 3, 7, 8))[0] == 7  # the better one
    assert found([30.0] * 4 + [10.0] * 5, Target(psnr=30), (3, 8))[0] == 0  # the first of all
    for values, target in ((quality, Target(psnr=30)), (rates, Target(bits_per_pixel=10))):
        with pytest.raises(TargetError):
            found(values, target, (0, 4, 8))


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "target"),
    [
        ("image/rvq", (21, 30), Target(bits_per_pixel=1.0)),
        ("image/jpeg", (21, 30), Target(psnr=28)),
        ("image/flex", (45, 38), Target(slope=0.02)),
        ("image/flex", (45, 60), Target(psnr=5)),
        ("audio/rvq", (900,), Target(kbps=30)),
    ],
)
def test_each_item_of_a_batch_gets_what_it_gets_alone(name, size, target):
    codec, x = tiny(name), signals(tiny(name), size, 3)
    assert codec.encode(x, target) == batches.collate([codec.encode(x[i : i + 1], target) for i in range(3)])


@pytest.mark.parametrize("name", ["image/rvq", "image/flex", "image/jpeg"])
def test_codes_at_a_setting_are_those_that_encode_gives(name):
    codec, x = tiny(name), signals(tiny(name), (21, 30))
    for i, item in enumerate(SettingCodes.split(codec, x)):
        for index in {0, len(codec.settings) // 2, len(codec.settings) - 1}:
            assert item.at(index) == codec.encode(x[i : i + 1], codec.settings.values[index])
            assert item.at(index) is item.at(index)


@pytest.mark.parametrize(
    ("size", "decoded"), [((21, 30), [3]), ((512, 256), [2, 1]), ((512, 257), [1, 1, 1]), ((513, 512), [1, 1, 1])]
)
def test_settings_of_an_image_are_decoded_in_batches_of_bounded_size(size, decoded, monkeypatch):
    """A batch has at most 2^18 pixels, or one image."""
    codec, x = tiny("image/rvq"), structured(tiny("image/rvq"), size)
    wanted = [psnr(x, codec.decode(codec.encode(x, n))) for n in (1, 2, 3)]
    seen, decode = [], codec.decode
    monkeypatch.setattr(codec, "decode", lambda codes: seen.append(len(codes)) or decode(codes))
    curve = targets.curve(codec, x)
    positions = math.prod(codec.spec.grid(size))
    assert seen == decoded and curve.psnr == pytest.approx(wanted)
    assert curve.tokens == [positions, 2 * positions, 3 * positions] and curve.codes(1) == codec.encode(x, 2)


def test_two_tiles_get_unequal_numbers_of_tokens_for_a_psnr():
    codec = tiny("image/flex")
    x = structured(codec, (45, 90))
    x[..., :48] = 0.6
    curve = codec.curve(x)
    assert codec.pieces((45, 90)) == 2 and codec.pieces((45, 48)) == 1
    uneven = range(len(codec.settings), len(curve.tokens))
    cheaper = [i for i in uneven if curve.cheapest(curve.psnr[i]) == i]
    assert cheaper, "some are cheaper than equal numbers of tokens"
    for i in cheaper:
        assert codec.encode(x, Target(psnr=curve.psnr[i])) == curve.codes(i)


def test_targets_that_no_setting_meets_are_refused():
    x = structured(tiny("image/png"), (20, 20))
    for name, target, told in (
        ("image/png", Target(psnr=1), r"image/png has no setting, so it cannot meet Target\(psnr=1\)"),
        ("image/rvq", Target(kbps=1), r"Target\(kbps=1\) is for audio codecs; image/rvq codes image"),
    ):
        with pytest.raises(ValueError, match=told):
            targets.meet(tiny(name), x, target)
    pair, codec = signals(tiny("image/flex"), (20, 50)), tiny("image/flex")
    best = max(codec.curve(pair[:1]).psnr)
    with pytest.raises(TargetError, match=f"out of reach for image/flex on item 0: the highest PSNR is {best:.4g}$"):
        targets.meet(codec, pair, Target(psnr=99))
