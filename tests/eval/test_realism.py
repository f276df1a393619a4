"""Measures of realism: controls, real-or-decoded classifier, label features, distances between sets."""

from __future__ import annotations

import math

import pytest
import torch
from support.codecs import one_line, signals, structured, tiny

from tokenloom import codecs, models
from tokenloom.codecs.types import Modality
from tokenloom.data import Item, open_source
from tokenloom.eval.classifiers import image_words, labels, realfake, spoken_words
from tokenloom.eval.decoder import controls, measures, variants
from tokenloom.eval.decoder.distance import distance
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics import image as images
from tokenloom.metrics.errors import Unmeasurable

PICTURES, SOUNDS = measures.ImageMeasures(), measures.AudioMeasures(8000)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> models.DiffusionDecoder:
    """Decoder with random weights for a tiny codec of variable length."""
    folder = tmp_path_factory.mktemp("codec")
    codecs.save(tiny("image/flex"), folder)
    torch.manual_seed(0)
    return models.build_decoder({"codec": str(folder), "widths": [8], "depths": [1]})


# -- controls --------------------------------------------------------------------------------------


def test_the_high_pass_leaves_nothing_of_slopes_and_all_of_the_fastest_change():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32)
    assert controls.high_pass(ramp)[..., 1:-1].abs().max() < 1e-6
    fastest = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32)
    assert torch.allclose(controls.high_pass(fastest)[..., 1:-1], fastest[..., 1:-1])
    board = fastest[0, 0] * fastest[0, 0, :, None]
    assert torch.allclose(controls.high_pass(board[None, None])[..., 1:-1, 1:-1], board[1:-1, 1:-1])
    slope = torch.linspace(0, 1, 9)[:, None] + torch.linspace(0, 2, 7)
    assert controls.high_pass(slope[None, None])[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_the_noise_has_its_strength_and_follows_an_items_own_seed():
    x = signals(tiny("image/fsq"), (40, 40))
    added = controls.noise(x, 0.1, [3, 4]) - x
    assert torch.allclose(added.square().mean((1, 2, 3)).sqrt(), torch.tensor(0.1), rtol=1e-4)
    assert torch.equal(controls.noise(x[1:], 0.1, [4]), controls.noise(x, 0.1, [3, 4])[1:])
    half_flat = torch.full((1, 1, 40, 40), 0.5)
    half_flat[..., 20:] = torch.rand(40, 20, generator=torch.Generator().manual_seed(0))
    there = (controls.noise(half_flat, 0.1, [0]) - half_flat).square().mean((0, 1, 2))
    assert there[:12].max() < 1e-6 and there[24:].min() > 0.01


@pytest.mark.parametrize("seen", [PICTURES, SOUNDS], ids=lambda seen: type(seen).__name__)
def test_a_fitted_control_has_the_energy_of_real_signals_or_costs_a_decibel(seen):
    codec = tiny("image/fsq" if seen is PICTURES else "audio/rvq")
    real = [seen.quantize(structured(codec, (40, 40) if seen is PICTURES else (3000,), seed))[0] for seed in range(3)]
    plain = [seen.quantize(x - 0.7 * controls.high_pass(x[None])[0]) for x in real]
    for name in controls.CONTROLS:
        found = controls.fit(name, real, plain, seen.psnr, seen.quantize)
        assert found.plain < 0.8 and found.value > 0
        if found.capped:
            assert found.loss == pytest.approx(1, abs=0.05) and found.energy < 1
        else:
            assert found.energy == pytest.approx(1, abs=0.02) and found.loss <= 1.001
    sharpened = controls.fit("unsharp", real, plain, lambda a, b: 0.0, seen.quantize)
    assert sharpened.energy == pytest.approx(1, abs=0.02) and not sharpened.capped
    assert controls.fit("unsharp", plain, real, seen.psnr, seen.quantize).value == 0  # sharp enough as it is


def test_bisection_finds_where_a_condition_ends():
    assert controls.bisect(lambda s: s * s <= 2, 8) == pytest.approx(math.sqrt(2), abs=1e-3)
    assert controls.bisect(lambda s: True, 8) == 8
    assert controls.bisect(lambda s: s <= 0, 8) == 0


# -- variants --------------------------------------------------------------------------------------


def test_variants_are_what_decoders_and_controls_give_rounded_as_in_a_file(decoder):
    x = signals(decoder.codec, (40, 40), 3)
    codes = decoder.codec.encode(x, 4)
    strengths = variants.fit_controls(decoder.codec, list(x), 4)
    made = variants.decode(decoder, codes, steps=(1, 2, 16), strengths=strengths, seed=5, first=7)
    assert list(made) == ["plain", "unsharp", "noise", "diffusion 1", "diffusion 2", "diffusion 16"]
    seed = 5 * variants.SEED_STRIDE + 7
    rounded = PICTURES.quantize
    assert torch.equal(made["plain"], rounded(decoder.codec.decode(codes)))
    assert torch.equal(made["diffusion 2"], rounded(decoder.decode(codes, steps=2, seed=seed)))
    assert torch.equal(made["diffusion 16"], rounded(decoder.decode(codes, steps=16, seed=seed, sampler="euler")))
    for y in made.values():
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
        assert torch.equal(y, (y * 255).round() / 255)
    assert list(variants.decode(decoder, codes, steps=())) == ["plain"]


def test_texts_have_no_realism():
    with pytest.raises(ValueError, match="text/bytes is for text") as error:
        measures.measures_of(codecs.build("text/bytes"))
    assert one_line(error)


# -- distortion ------------------------------------------------------------------------------------


def test_the_psnr_of_a_spectrogram_is_that_of_a_known_difference():
    x = 0.2 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    gain = 0.5  # every band falls by ln 2
    wanted = 20 * math.log10(math.log(1e4) / math.log(2))
    assert SOUNDS.psnr(x, gain * x) == pytest.approx(wanted, abs=0.05)
    assert SOUNDS.psnr(x, x) == math.inf
    assert SOUNDS.distortion(x, gain * x)["mel"] == pytest.approx(math.log(2), abs=0.01)
    a, b = signals(tiny("image/fsq"), (20, 20))
    assert PICTURES.distortion(a, b) == {"psnr": images.psnr(a, b, rounding="8 bit", space="RGB")}


# -- patches ---------------------------------------------------------------------------------------


def test_patches_lie_where_the_original_is_not_flat():
    x = torch.full((3, 40, 50), 0.5)
    x[:, 20:, 30:] = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    found = measures.patch_corners(PICTURES, x, 1000, 0)
    slow = {
        (row, column)
        for row in range(33)
        for column in range(43)
        if any((p.max() - p.min()) >= PICTURES.flat for p in x[:, row : row + 8, column : column + 8])
    }
    assert {tuple(place) for place in found.tolist()} == slow
    some = measures.patch_corners(PICTURES, x, 5, 1)
    assert len(some) == 5 and torch.equal(some, measures.patch_corners(PICTURES, x, 5, 1))
    cut = measures.cut_patches(PICTURES, x, some)
    row, column = some[2].tolist()
    assert cut.shape == (5, 3, 8, 8) and torch.equal(cut[2], x[:, row : row + 8, column : column + 8])
    for nothing in (torch.full((3, 40, 50), 0.5), torch.rand(3, 40, 7)):
        assert measures.cut_patches(PICTURES, nothing, measures.patch_corners(PICTURES, nothing, 5, 0)).shape == (
            0,
            3,
            8,
            8,
        )


def test_patches_of_a_sound_lie_where_it_is_loud():
    t = torch.arange(8000) / 8000
    x = (torch.sin(2 * math.pi * 1000 * t) * (t > 0.5) * 0.5)[None] + 1e-3 * torch.sin(2 * math.pi * 3000 * t)
    found = measures.patch_corners(SOUNDS, x, 10000, 0)
    assert len(found) and found[:, 1].min() * 64 / 8000 > 0.45  # hops of 8 ms
    assert measures.cut_patches(SOUNDS, x, found[:3]).shape == (3, 1, 10, 4)
    silent = torch.zeros(1, 4000)
    assert not len(measures.patch_corners(SOUNDS, silent, 10, 0)) and not len(
        measures.patch_corners(SOUNDS, silent[:, :1], 10, 0)
    )


# -- real or decoded -------------------------------------------------------------------------------


def noises(items: int, seed: int, spread: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [spread * torch.randn(16, 3, 8, 8, generator=generator) for _ in range(items)]


def test_the_classifier_is_at_chance_for_equals_and_right_about_others(monkeypatch):
    monkeypatch.setattr(realfake, "STEPS", 30)
    real, test = noises(20, 0), noises(12, 1)
    same = realfake.accuracy(real, noises(20, 2), test, noises(12, 3))
    assert same.from_chance < 0.1 and same.low < 0.5 < same.high
    assert (same.patches, same.items) == (12 * 16 * 2, 12)
    smooth = realfake.accuracy(real, noises(20, 2, 0.6), test, noises(12, 3, 0.6))
    assert smooth.accuracy > 0.95
    threads = torch.get_num_threads()
    assert smooth == realfake.accuracy(real, noises(20, 2, 0.6), test, noises(12, 3, 0.6))
    assert torch.get_num_threads() == threads


def test_the_classifier_needs_pairs_and_patches(monkeypatch):
    monkeypatch.setattr(realfake, "STEPS", 2)
    real = noises(3, 0)
    with pytest.raises(ValueError, match="training patches differ") as error:
        realfake.accuracy(real, real[:2], real, real)
    assert one_line(error)
    empty = [real[0][:0], *real[1:2]]
    with pytest.raises(Unmeasurable, match="1 of 2 test items"):
        realfake.accuracy(real, real, empty, empty)
    assert realfake.accuracy(real, real, [empty[0], *real], [empty[0], *real]).items == 3


def test_an_interval_over_items_is_wider_than_one_over_patches():
    hits, counts = torch.tensor([10.0, 10, 0, 0]), torch.full((4,), 10.0)
    uneven = realfake.over_items(hits.double(), counts.double())
    assert uneven.accuracy == 0.5 and (uneven.low, uneven.high) == (0.0, 1.0)
    even = realfake.over_items(torch.full((4,), 5.0).double(), counts.double())
    assert (even.low, even.high) == (0.5, 0.5)


# -- distances -------------------------------------------------------------------------------------


def test_a_distance_leaves_out_what_has_no_features_and_has_an_interval():
    real = list(torch.randn(30, 5, generator=torch.Generator().manual_seed(0)))
    fake = [x + 1 for x in real]
    found, _ = distance([*real, None], [*fake, fake[0]])
    assert found.n == 30 and found.low < found.value < found.high
    assert found.value == kernel.kid(torch.stack(real), torch.stack(fake), paired=True)
    assert distance(real, real)[0].value == pytest.approx(0, abs=1e-9)
    with pytest.raises(Unmeasurable, match="needs 2 items with features, got 1"):
        distance([real[0], None], fake[:2])


# -- labels ----------------------------------------------------------------------------------------


def test_labels_are_words_of_pictures_and_captions_of_sounds():
    captions = ["A red star"] * 9 + ["a blue star"] * 8 + ["a green star", "star: old moon"] * 4 + ["a moon"] * 4
    assert labels.frequent_labels(captions, Modality.IMAGE) == ["a", "blue", "moon", "red", "star"]
    assert labels.frequent_labels(["one"] * 8 + ["two"] * 9 + ["three"], Modality.AUDIO) == ["one", "two"]
    with pytest.raises(Unmeasurable, match="0 words occur in 8 or more of the 3 training captions") as error:
        labels.frequent_labels(["a", "b", "c"], Modality.IMAGE)
    assert one_line(error)
    with pytest.raises(Unmeasurable, match="1 captions"):
        labels.frequent_labels(["one"] * 8 + ["two", ""] * 7, Modality.AUDIO)


def test_a_network_of_labels_learns_them_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(image_words, "EPOCHS", 4)
    scenes = list(open_source("scenes", count=80, size=32, words=0.0).items())
    # what the mean over a picture can tell: its color
    items = [Item(str(i), s.modality, s.signal, caption="bright kind" if s.signal.mean() > 0.5 else "dark sort")
             for i, s in enumerate(scenes)]  # fmt: skip
    shares: list[float] = []
    learned = labels.learn(items, folder=tmp_path, progress=shares.append)
    assert shares[-1] == 1 and learned.labels == ["bright", "dark", "kind", "sort"]
    assert learned.accuracy([i.signal for i in items], [i.caption for i in items]) > 0.8
    assert learned.accuracy([items[0].signal], ["unheard of"]) is None
    features = learned.features(items[0].signal)
    assert features.shape == (image_words.WIDTHS[-1],)
    assert learned.features(torch.rand(3, 17, 90)).shape == features.shape
    (kept,) = tmp_path.iterdir()
    again = labels.learn(iter(items), folder=tmp_path, progress=lambda share: pytest.fail("trained again"))
    assert torch.equal(again.features(items[0].signal), features) and list(tmp_path.iterdir()) == [kept]


def test_sounds_have_the_classifiers_features_at_any_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_words, "EPOCHS", 1)
    t = torch.arange(1600) / 8000
    items = [Item(f"{pitch}-{i}", Modality.AUDIO, 0.3 * torch.sin(6.28 * (pitch + i) * t)[None], 8000, str(pitch))
             for pitch in (300, 900) for i in range(8)]  # fmt: skip
    learned = labels.learn(items, 16000, tmp_path)
    assert learned.labels == ["300", "900"] and "16 real training clips" in learned.definition
    assert learned.features(items[0].signal.repeat(1, 2)).shape == (192,)
    assert learned.classify(items[0].signal) in learned.labels
