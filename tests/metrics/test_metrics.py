"""Metrics against values by hand or of another library; absent and failed metrics; BD-rate."""

import math

import numpy as np
import pytest
import torch

from tokenloom.codecs.types import Codes
from tokenloom.eval import protocols
from tokenloom.eval.metric import ItemValues
from tokenloom.metrics import audio as sounds
from tokenloom.metrics import bd_rate, errors, image, tokens
from tokenloom.metrics import lpips as perceptual
from tokenloom.metrics.errors import Unmeasurable


def metric(protocol: str, name: str):
    return next(m for m in protocols.protocol(protocol).metrics if m.name == name)


def value(protocol: str, name: str, *signals, **more) -> float:
    found = metric(protocol, name)
    return found.function(*signals, **more, **found.settings)


def picture(height: int = 181, width: int = 203, seed: int = 0) -> torch.Tensor:
    """Smooth structure with a little noise, rounded to 8 bits."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 13, generator=g), (height, width), mode="bicubic")[0]
    noisy = (coarse * 0.8 + 0.1 + 0.02 * torch.randn(coarse.shape, generator=g)).clamp(0, 1)
    return (noisy * 255).round() / 255


def voice(seconds: float = 2.0, rate: int = 16000, seed: int = 0) -> torch.Tensor:
    """Harmonics with a syllable-like envelope."""
    t = torch.arange(int(seconds * rate)) / rate
    tone = sum(torch.sin(2 * torch.pi * 140 * k * t + k) / k for k in range(1, 18))
    noise = 0.02 * torch.randn(t.shape, generator=torch.Generator().manual_seed(seed))
    return ((tone * (0.55 + 0.45 * torch.sin(2 * torch.pi * 4 * t)) + noise) * 0.2)[None]


# -- images ------------------------------------------------------------------------------------


def test_psnr_of_a_known_offset():
    x = torch.full((3, 5, 7), 100 / 255)
    assert value("rgb8", "psnr", x, x + 2 / 255) == pytest.approx(10 * math.log10(255**2 / 4), abs=1e-6)


def test_psnr_rounds_both_pictures_first():
    x = torch.full((3, 4, 4), 100 / 255)
    nearly = x + 0.4 / 255
    assert value("rgb8", "psnr", x, nearly) == value("rgb8", "psnr", nearly, x) == math.inf
    assert value("rgb-float", "psnr", x, nearly) == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-3)


def test_psnr_of_luma_weighs_channels():
    x = torch.full((3, 4, 4), 100 / 255)
    y = x.clone()
    y[1] += 10 / 255  # green by 10: luma by 5.87, rounded to 6
    assert value("luma8", "psnr", x, y) == pytest.approx(20 * math.log10(255 / 6), abs=1e-4)


@pytest.mark.parametrize(("channel", "weight"), enumerate((0.299, 0.587, 0.114)))
def test_luma_is_that_of_bt_601(channel, weight):
    x = torch.zeros(3, 4, 4)
    y = x.clone()
    y[channel] = 1
    assert image.psnr(x, y, rounding="none", space="Y") == pytest.approx(-20 * math.log10(weight), abs=1e-4)


def test_ssim_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    x, y = picture(), (picture() + 0.05 * torch.randn(3, 181, 203)).clamp(0, 1)
    y = (y * 255).round() / 255
    _, full = structural_similarity(
        x.permute(1, 2, 0).double().numpy(), y.permute(1, 2, 0).double().numpy(), channel_axis=2, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip
    valid = full[5:-5, 5:-5].mean()  # border 'valid': the 11-pixel window lies inside the picture
    assert value("rgb8", "ssim", x, y) == pytest.approx(valid, abs=2e-5)
    assert value("rgb8", "ssim", x, x) == pytest.approx(1.0, abs=1e-6)


def test_ms_ssim_is_defined_from_161_pixels_on():
    x = picture(161, 170)
    assert value("rgb8", "ms_ssim", x, x) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(Unmeasurable, match="160 pixels"):
        value("rgb8", "ms_ssim", picture(160, 400), picture(160, 400))
    with pytest.raises(Unmeasurable, match="11-pixel window"):
        value("rgb8", "ssim", picture(10, 50), picture(10, 50))


def test_lpips_and_rfid_without_weights_are_absent_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path / "hub"))
    try:
        assert "alexnet" in metric("rgb8", "lpips").missing()
        assert metric("rgb8", "rfid").missing()
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        (tmp_path / "hub" / "checkpoints" / perceptual.FILES["alex"]).touch()
        assert metric("rgb8", "lpips").missing() is None
    finally:
        torch.hub._hub_dir = None


# -- audio -------------------------------------------------------------------------------------


def test_si_sdr_of_orthogonal_noise():
    t = torch.arange(8000) / 8000
    x = torch.sin(2 * torch.pi * 200 * t)[None]
    noise = 0.1 * torch.sin(2 * torch.pi * 300 * t)[None]
    assert value("waveform", "si_sdr", x, x + noise, sample_rate=8000) == pytest.approx(20.0, abs=1e-3)
    assert value("waveform", "si_sdr", x, 0.5 * (x + noise), sample_rate=8000) == pytest.approx(20.0, abs=1e-3)
    assert value("waveform", "si_sdr", x, x, sample_rate=8000) == math.inf


@pytest.mark.parametrize("silent", ["original", "reconstruction"])
def test_si_sdr_of_silence_is_no_number(silent):
    x, zero = voice(0.3), torch.zeros(1, 4800)
    pair = (zero, x) if silent == "original" else (x, zero)
    with pytest.raises(Unmeasurable, match=f"the {silent} is silent"):
        value("waveform", "si_sdr", *pair, sample_rate=16000)


@pytest.mark.parametrize("name", ["mel", "stft"])
@pytest.mark.parametrize("samples", [1, 100, 8000])
def test_spectral_distances_are_zero_for_identical_sound_of_any_length(name, samples):
    x = torch.full((2, samples), 0.3)
    assert value("waveform", name, x, x, sample_rate=8000) == 0


def test_mel_distance_of_a_gain_is_its_logarithm():
    noise = 0.2 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    found = value("waveform", "mel", noise, noise / 2, sample_rate=16000)
    assert found == pytest.approx(math.log(2), abs=1e-3)  # every band is far above the floor
    assert value("waveform", "stft", noise, noise / 2, sample_rate=16000) == pytest.approx(0.5 + math.log(2), abs=0.01)


def test_mel_frames_last_32_milliseconds_or_more():
    assert [sounds.frame_length(rate, 0.032) for rate in (8000, 16000, 24000, 44100, 48000)] == [
        256,
        512,
        1024,
        2048,
        2048,
    ]


def test_a_sine_of_full_scale_has_magnitude_one():
    t = torch.arange(16000) / 16000
    magnitude = sounds.magnitude(torch.sin(2 * torch.pi * 1000 * t)[None], 512, 128, 512)
    assert magnitude[:, :, 20:-20].max().item() == pytest.approx(1.0, abs=0.01)


def test_stoi_falls_with_noise_and_refuses_a_moment():
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    x = voice()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    clean, little, much = (value("waveform", "stoi", x, x + a * noise, sample_rate=16000) for a in (0, 0.02, 0.5))
    assert clean == pytest.approx(1.0, abs=1e-4)
    assert clean > little > much
    with pytest.raises(Unmeasurable, match="too little speech"):
        value("waveform", "stoi", voice(0.2), voice(0.2), sample_rate=16000)


def test_pesq_modes_follow_the_rate_of_the_data():
    pytest.importorskip("pesq", reason="pesq is not installed")
    wide, narrow = voice(rate=16000), voice(rate=8000)
    assert value("waveform", "pesq_wb", wide, wide, sample_rate=16000) == pytest.approx(4.64, abs=0.01)
    assert value("waveform", "pesq_nb", narrow, narrow, sample_rate=8000) == pytest.approx(4.55, abs=0.01)
    for name, x, rate in (("pesq_wb", narrow, 8000), ("pesq_nb", wide, 16000)):
        with pytest.raises(Unmeasurable, match=f"data at {rate} Hz"):
            value("waveform", name, x, x, sample_rate=rate)
    with pytest.raises(Unmeasurable, match="quarter of a second"):
        value("waveform", "pesq_wb", wide[:, :3999], wide[:, :3999], sample_rate=16000)
    with pytest.raises(Unmeasurable, match="silent"):
        value("waveform", "pesq_wb", wide, torch.zeros_like(wide), sample_rate=16000)


# -- tokens ------------------------------------------------------------------------------------


def test_usage_and_perplexity_over_a_whole_set():
    counts = tokens.CodeCounts((4, 8))
    counts.update(Codes(torch.tensor([[[0, 1], [5, 5]]]), torch.tensor([[2]])))
    counts.update(Codes(torch.tensor([[[0, 1], [-1, -1]]]), torch.tensor([[2]])))  # one quantizer only
    first, second = counts.summary()
    assert (first.used, first.usage, first.tokens) == (2, 0.5, 4)
    assert first.perplexity == pytest.approx(2.0)
    assert (second.used, second.usage, second.tokens) == (1, 1 / 8, 2)
    assert second.perplexity == pytest.approx(1.0)


def test_padding_counts_neither_for_usage_nor_for_idempotence():
    sizes, lengths = torch.tensor([[4]]), torch.tensor([2])
    a = Codes(torch.tensor([[[3, 3, 0, 0]]]), sizes, lengths)
    b = Codes(torch.tensor([[[3, 1, 1, 1]]]), sizes, torch.tensor([4]))
    counts = tokens.CodeCounts((4,))
    counts.update(a)
    assert counts.summary()[0].used == 1
    assert tokens.same_share(a, a) == 1.0
    assert tokens.same_share(a, b) == 1 / 4  # one equal position of the longer four


# -- values over a set -------------------------------------------------------------------------


def test_a_series_counts_failures_and_perfect_scores_apart_from_the_mean():
    series = ItemValues()
    for x in (1.0, 2.0, 3.0, math.inf):
        series.add(x)
    series.fail("too short")
    series.add(math.nan)
    summary = series.summary()
    assert (summary.mean, summary.std, summary.n) == (2.0, 1.0, 3)
    assert summary.ci95 == pytest.approx(4.302652730 / math.sqrt(3))  # Student's t, 2 degrees of freedom
    assert (summary.perfect, summary.failed) == (1, 2)
    assert summary.reasons == {"too short": 1, "the metric gave no number": 1}


def test_one_value_has_no_spread():
    series = ItemValues()
    series.add(7.0)
    assert (series.summary().mean, series.summary().std, series.summary().ci95) == (7.0, None, None)


# -- protocols ---------------------------------------------------------------------------------


def test_protocols_print_every_setting_and_cannot_be_changed():
    for protocol in protocols.PROTOCOLS.values():
        text = str(protocol)
        for m in protocol.metrics:
            assert m.label in text
            for key, setting in m.settings.items():
                assert f"{key}={setting}" in text
            with pytest.raises(TypeError):
                m.settings["window"] = 7
    with pytest.raises(ValueError, match=r"unknown protocol 'rgb9' .did you mean rgb8"):
        protocols.protocol("rgb9")


# -- BD-rate -----------------------------------------------------------------------------------


def test_bd_rate_of_curves_a_factor_apart():
    pytest.importorskip("bjontegaard", reason="bjontegaard is not installed")
    anchor = [(r, 20 + 6 * np.log2(r / 0.1)) for r in (0.1, 0.2, 0.4, 0.8)]
    half = [(r / 2, q) for r, q in anchor]
    percent, overlap = bd_rate.bd_rate(anchor, half)
    assert percent == pytest.approx(-50.0, abs=1e-6)
    assert overlap == pytest.approx(1.0)
    assert bd_rate.bd_rate(half, anchor)[0] == pytest.approx(100.0, abs=1e-6)
    assert bd_rate.bd_rate(anchor, list(reversed(half)))[0] == pytest.approx(-50.0, abs=1e-6)


def test_bd_rate_of_a_partial_overlap_and_a_dominated_point():
    pytest.importorskip("bjontegaard", reason="bjontegaard is not installed")
    anchor = [(0.1, 20.0), (0.2, 26.0), (0.4, 32.0)]
    test = [(0.1, 26.0), (0.15, 25.0), (0.2, 32.0), (0.4, 38.0)]  # half the bits; one point worse than a cheaper one
    percent, overlap = bd_rate.bd_rate(anchor, test)
    assert percent == pytest.approx(-50.0, abs=1e-6)
    assert overlap == pytest.approx(6 / 18)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ([(0.2, 25.0)], "the codec has 1 usable point, a curve needs 2"),
        ([(0.2, 45.0), (0.4, 50.0)], "no quality in common"),
        ([(0.2, 32.0), (0.4, 50.0)], "no quality in common"),
        ([(0.2, 10.0), (0.4, 20.0)], "no quality in common"),
        ([(0.05, 14.0), (0.1, 22.0)], "share 11.1% of their quality range, less than 25%"),
        ([(0.2, 29.01), (0.4, 32.0)], "share 24.9% of their quality range, less than 25%"),
        ([(0.2, math.nan), (0.4, math.inf), (0.5, 30.0)], "the codec has 1 usable point,"),
        ([(0.0, 20.0), (0.4, 32.0)], "divide by zero"),
        ([], "the codec has 0 usable points"),
    ],
)
def test_bd_rate_that_does_not_exist_says_why(test, reason):
    pytest.importorskip("bjontegaard", reason="bjontegaard is not installed")
    with pytest.raises(ValueError, match=reason):
        bd_rate.bd_rate([(0.1, 20.0), (0.4, 32.0)], test)


def test_bd_rate_at_the_least_overlap():
    pytest.importorskip("bjontegaard", reason="bjontegaard is not installed")
    percent, overlap = bd_rate.bd_rate([(0.1, 20.0), (0.4, 32.0)], [(0.1 * 2**-0.5, 20.0), (0.1, 23.0)])
    assert overlap == 0.25 and percent == pytest.approx(100 * (2**-0.5 - 1), abs=1e-6)  # 6 dB per doubling, 3 dB better


def test_a_bd_rate_that_is_no_number_is_refused():
    pytest.importorskip("bjontegaard", reason="bjontegaard is not installed")
    wide = [(0.1, 0.0), (0.4, 1e160)]  # cubes of the qualities overflow without a warning
    with pytest.raises(ValueError, match="the fit gave no number"):
        bd_rate.bd_rate(wide, wide)


def test_bd_rate_without_its_package_says_which(monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the package bjontegaard is not installed"):
        bd_rate.bd_rate([(0.1, 20.0), (0.4, 32.0)], [(0.1, 20.0), (0.4, 32.0)])


@pytest.mark.parametrize("order", [1, -1])
def test_the_frontier_keeps_the_better_of_two_points_and_the_cheaper_of_equals(order):
    points = [(0.1, 20.0), (0.1, 22.0), (0.2, 22.0), (0.3, 25.0), (0.4, math.nan), (0.5, math.inf), (0.6, 24.0)]
    assert bd_rate.frontier(points[::order]) == [(0.1, 22.0), (0.3, 25.0)]


def test_counts_take_prefixes_of_the_quantizers():
    """At some settings, a residual codec uses fewer quantizers than it has. The others count nothing."""
    counts = tokens.CodeCounts((4, 4, 4))
    counts.update(Codes(torch.tensor([[[0, 0, 3]], [[0, 1, 3]]]), torch.tensor([[3], [3]])))
    first, second, _ = counts.summary()
    assert (first.tokens, first.used, second.tokens, second.usage) == (6, 3, 0, None)
