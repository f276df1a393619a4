"""The kernel distance and its features against loops and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from support.codecs import one_line, structured, tiny

from tokenloom.eval.protocols import PROTOCOLS
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics import features
from tokenloom.metrics.errors import Unmeasurable


def sets(n: int = 9, m: int = 7, d: int = 4, seed: int = 0, shift: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) * 3 + 2, torch.randn(m, d, generator=g) * 2 + shift


def k(x: np.ndarray, y: np.ndarray) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def slow(real: torch.Tensor, fake: torch.Tensor, *, paired: bool) -> float:
    """The estimator of the papers, pair by pair."""
    x, y = real.double().numpy(), fake.double().numpy()
    x, y = (x - x.mean(0)) / x.std(0), (y - x.mean(0)) / x.std(0)
    within = [mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    crossed = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if not (paired and i == j)]
    return sum(within) - 2 * mean(crossed)


@pytest.mark.parametrize("paired", [False, True])
def test_it_is_the_mean_over_pairs(paired, monkeypatch):
    real, fake = sets(m=9 if paired else 7)
    assert kernel.kid(real, fake, paired=paired) == pytest.approx(slow(real, fake, paired=paired), rel=1e-10)
    whole = kernel.kid(real, fake, paired=paired)
    monkeypatch.setattr(kernel, "ROWS", 2)
    assert kernel.kid(real, fake, paired=paired) == pytest.approx(whole, rel=1e-12)


def test_two_points_by_hand():
    real, fake = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    # already standardized; k(-1, 1) = 0, k(0, 2) = 1, k(-1, 0) = k(1, 0) = 1, k(-1, 2) = -1, k(1, 2) = 27
    assert kernel.kid(real, fake) == pytest.approx(0 + 1 - 2 * (1 + 1 - 1 + 27) / 4, rel=1e-12)
    assert kernel.kid(real, fake, paired=True) == pytest.approx(0 + 1 - 2 * (-1 + 1) / 2, rel=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_it_is_unbiased_and_may_be_negative(paired, monkeypatch):
    """For one distribution, the mean is 0 if the scales are known. Paired rows are correlated."""
    monkeypatch.setattr(kernel, "standardize", lambda real, fake, _: (real, fake))
    g, found, naive = torch.Generator().manual_seed(0), [], []
    for _ in range(600):
        x, e = torch.randn(2, 40, 6, generator=g, dtype=torch.float64)
        y = 0.8 * x + 0.6 * e if paired else e
        found.append(kernel.kid(x, y, paired=paired))
        naive.append(kernel.kid(x, y))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error and min(found) < 0 < max(found)
    if paired:
        assert np.mean(naive) < -10 * error  # comparing a signal with its own reconstruction flatters


def test_a_set_is_at_no_distance_from_itself():
    real, _ = sets()
    assert kernel.kid(real, real, paired=True) == pytest.approx(0, abs=1e-9)
    assert kernel.kid(real, real + 3) > 5


def test_constant_features_are_not_scaled_up():
    real = torch.zeros(8, 2, dtype=torch.float64)
    fake = torch.full((8, 2), kernel.FLOOR, dtype=torch.float64)
    assert kernel.kid(real, fake, paired=True) == pytest.approx(1 + 8 - 2)


@pytest.mark.parametrize("paired", [False, True])
def test_a_draw_never_compares_a_row_with_itself(paired):
    real, fake = sets(n=5, m=5)
    x, y = (z.numpy() for z in kernel.standardize(real, fake, paired))
    generator = torch.Generator().manual_seed(7)
    u = [torch.randint(5, (3, 5), generator=generator)]
    u += u if paired else [torch.randint(5, (3, 5), generator=generator)]
    samples = kernel.bootstrap(real, fake, paired=paired, resamples=3, seed=7)
    for row, sample in enumerate(samples.tolist()):
        a, b = (drawn[row].tolist() for drawn in u)
        within = [mean([k(z[i], z[j]) for i in drawn for j in drawn if i != j]) for z, drawn in ((x, a), (y, b))]
        crossed = mean([k(x[i], y[j]) for i in a for j in b if not (paired and i == j)])
        assert sample == pytest.approx(sum(within) - 2 * crossed, rel=1e-9)


def test_the_interval_holds_the_value_and_says_when_there_is_none():
    real, fake = sets(60, 60)
    samples = kernel.bootstrap(real, fake, seed=1)
    low, high = kernel.interval(samples)
    assert low < kernel.kid(real, fake) < high
    assert torch.equal(samples, kernel.bootstrap(real, fake, seed=1))
    wide = kernel.interval(kernel.bootstrap(*sets(2, 2), paired=True))  # half of the draws are one row, twice
    assert all(map(math.isfinite, wide))
    with pytest.raises(Unmeasurable):
        kernel.interval(torch.tensor([math.nan]))


def test_invalid_sets_are_one_line():
    real, fake = sets()
    for arguments, error in (
        ((real, fake[:, :2]), ValueError),
        ((real[0], fake), ValueError),
        ((real[:1], fake), Unmeasurable),
        ((real, fake[:0]), Unmeasurable),
    ):
        with pytest.raises(error) as refused:
            kernel.kid(*arguments)
        assert one_line(refused)
    with pytest.raises(ValueError, match="equal in number, got 9 real and 7 decoded signals"):
        kernel.kid(real, fake, paired=True)


# -- features ---------------------------------------------------------------------------------------


def picture(height: int = 64, width: int = 48, seed: int = 0) -> torch.Tensor:
    return structured(tiny("image/fsq"), (height, width), seed)[0]


def test_block_dct_is_that_of_scipy():
    x = picture(19, 30)
    levels = np.round(x[:, :16, :24].permute(1, 2, 0).double().numpy() * 255)
    r, g, b = np.moveaxis(levels, 2, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    blue = 0.564 * (b - luma)
    logs = {
        name: np.array([np.log(abs(dctn(plane[i : i + 8, j : j + 8], norm="ortho")) + 1)
                        for i in (0, 8) for j in (0, 8, 16)])
        for name, plane in (("luma", luma - 128), ("blue", blue))
    }  # fmt: skip
    found = features.block_dct(x).numpy()
    assert found.shape == (148,) and found.dtype == np.float64
    assert found[:64] == pytest.approx(logs["luma"].mean(0).ravel(), abs=1e-6)
    assert found[64:128] == pytest.approx(logs["luma"].std(0).ravel(), abs=1e-6)
    assert found[128] == pytest.approx(logs["blue"][:, 0, 0].mean(), abs=1e-3)
    assert found[129] == pytest.approx(logs["blue"][:, [0, 1], [1, 0]].mean(), abs=1e-3)
    assert found[138] == pytest.approx(logs["blue"][:, 0, 0].std(), abs=1e-3)


def test_block_dct_sees_what_8_bits_hold():
    flat = torch.full((3, 8, 8), 200 / 255)
    found = features.block_dct(flat)
    assert found[0] == pytest.approx(math.log(8 * 72 + 1)) and found[1:].abs().max() < 1e-9
    assert torch.equal(found, features.block_dct(flat + 0.4 / 255))
    with pytest.raises(Unmeasurable, match="shorter than a block"):
        features.block_dct(torch.zeros(3, 7, 100))


def test_blur_noise_and_sharpening_are_each_further_from_real():
    real = [picture(seed=seed) for seed in range(12)]

    def distance(change) -> float:
        fake = torch.stack([features.block_dct(change(x).clamp(0, 1)) for x in real])
        return kernel.kid(torch.stack([features.block_dct(x) for x in real]), fake, paired=True)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x[None], 3, 1, 1)[0]

    noise = torch.randn(real[0].shape, generator=torch.Generator().manual_seed(0))
    little = [distance(lambda x: x + 0.01 * noise), distance(lambda x: x + 0.2 * (blur(x) - x))]
    much = [distance(lambda x: x + 0.1 * noise), distance(blur)]
    assert all(0 < a < b for a, b in zip(little, much, strict=True))
    assert distance(lambda x: 2 * x - blur(x)) > 0 == distance(lambda x: x)


def wave(samples: int = 4000, seed: int = 0) -> torch.Tensor:
    return structured(tiny("audio/rvq"), (samples,), seed)[0]


def test_mel_statistics_are_those_of_the_spectrogram():
    x, n = wave(), features.MEL_BANDS
    mel = features.log_mel(x, 8000)[0].numpy()
    found = features.mel_statistics(x, 8000).numpy()
    assert found.shape == (4 * n - 1,)
    assert found[:n] == pytest.approx(mel.mean(1)) and found[n : 2 * n] == pytest.approx(mel.std(1))
    assert found[2 * n : 3 * n] == pytest.approx(np.sqrt((np.diff(mel, axis=1) ** 2).mean(1)))
    assert found[3 * n :] == pytest.approx(np.sqrt((np.diff(mel, axis=0) ** 2).mean(1)))
    assert features.mel_statistics(x.expand(2, -1), 8000).numpy() == pytest.approx(found)
    one = features.mel_statistics(x[:, :1], 8000)
    assert one.isfinite().all() and not one[n : 3 * n].any()  # a single frame neither varies nor changes


# -- as a metric of a set ---------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "label"), [("rgb8", "KID (block DCT)"), ("waveform", "KID (mel statistics)")])
def test_protocols_have_it_with_its_definition(protocol, label):
    (metric,) = [m for m in PROTOCOLS[protocol].metrics if m.name == "kid"]
    assert metric.set_level and metric.label == label and not metric.higher and metric.missing() is None
    assert kernel.DISTANCE in metric.definition and metric.settings["minimum"] == 8
    state, make = metric.function(**metric.settings), picture if protocol == "rgb8" else wave
    rate = {} if protocol == "rgb8" else {"sample_rate": 8000}
    for seed in range(7):
        state.add(state.features(make(seed=seed), make(seed=seed) * 0.5, **rate))
    with pytest.raises(Unmeasurable, match="7 items; a distance between sets needs 8"):
        state.value()
    state.add(state.features(make(seed=7), make(seed=7) * 0.5, **rate))
    assert state.value() > 0


def test_an_item_without_the_features_says_why():
    state = kernel.KernelDistance(features="block DCT", minimum=2)
    with pytest.raises(Unmeasurable, match="a side is shorter than a block"):
        state.features(torch.zeros(3, 5, 5), torch.zeros(3, 5, 5))
    sounds = kernel.KernelDistance(features="mel statistics", minimum=2)
    with pytest.raises(Unmeasurable, match="not finite"):
        sounds.features(wave(), wave() * math.nan, sample_rate=8000)
    with pytest.raises(Unmeasurable, match="0 items; a distance between sets needs 2"):
        state.value()
