"""The doctor: every planted fault is found by the check that it is meant for, and healthy codecs are not accused."""

from __future__ import annotations

import copy
import math
import sys

import plants
import pytest
import torch
from support import second_device
from support.codecs import tiny

from tokenloom import codecs, own_code
from tokenloom.eval import doctor
from tokenloom.eval.doctor import difference, signals
from tokenloom.eval.doctor.check import THEMES
from tokenloom.eval.doctor.checks import cost, usage

FAULTS = {
    plants.Dropout: "repetition",
    plants.BatchNorm: "batch_size",
    plants.RunningMean: "weights",
    plants.Carry: "order",
    plants.PaddingLeak: "padding",
    plants.ThreadBlocks: "thread_count",
    plants.RawMemory: "memory_format",
    plants.Autocast: "autocast",
    plants.DefaultType: "default_type",
    plants.InferenceMode: "inference_mode",
    plants.WrongOverlap: "seams",
    plants.WrongDecodedOverlap: "decoded_seams",
    plants.LookAhead: "look_ahead",
    plants.Forgetful: "stream",
    plants.LateStream: "stream",
    plants.OneSampleLate: "alignment",
    plants.OnePixelLow: "alignment",
    plants.Fading: "idempotence",
    plants.WholeStrides: "lengths",
    plants.Unclamped: "value_range",
    plants.SilenceIsNan: "flat_signals",
    plants.Unvalidated: "invalid_signals",
    plants.SomeCodesFail: "random_codes",
    plants.DeadHalf: "dead_codes",
    plants.Collapsed: "perplexity",
    plants.HiddenPeak: "hidden_information",
    plants.UndeclaredScale: "side_information",
    plants.Wasteful: "coded_bits",
    plants.NoGradient: "gradient",
    plants.AnotherPath: "gradient",
    plants.Quadratic: "memory_by_length",
}
"""Planted fault → the check that must find it."""
SECONDS = 0.2
ALL = tuple(name for name in doctor.CHECKS if name != "time_by_length")  # a busy machine decides it
QUICK = tuple(name for name in ALL if name != "exported")
DITHER = """
import torch
from tokenloom.codecs import Codec, Codes, CodeSpec, Modality

class Dither(Codec):
    spec = CodeSpec(Modality.IMAGE, (64,), (8, 8), 3)

    def _encode(self, x, setting):
        rows, columns = self.spec.grid(tuple(x.shape[2:]))
        near = torch.nn.functional.interpolate(x.mean(1, keepdim=True), (rows, columns))
        indices = (near * 58 + OFFSET % 10007 / 2500).long()
        return Codes(indices, torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def _decode(self, codes):
        signal = (codes.indices / 63).repeat_interleave(8, -1).repeat_interleave(8, -2).repeat(1, 3, 1, 1)
        height, width = codes.sizes[0].tolist()
        return signal[..., :height, :width].contiguous()
"""


def verdicts(codec, only=ALL, **options) -> dict[str, str]:
    """Return the verdict and the figure of each check."""
    checkup = doctor.examine(codec, only=only, seconds=SECONDS, **options)
    return {finding.check: f"{finding.verdict}: {finding.measured}" for finding in checkup.findings}


def accused(found: dict[str, str]) -> dict[str, str]:
    return {check: line for check, line in found.items() if line.startswith("fail")}


# -- planted faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant):
    check = FAULTS[plant]
    assert accused(verdicts(plant().eval(), [check])).keys() == {check}


def test_a_codec_of_the_whole_picture_is_a_warning():
    found = verdicts(plants.GlobalNorm().eval(), ["encoder_field", "seams", "shift"])
    assert all(line.startswith("warn") for line in found.values())


def test_a_codec_that_follows_the_hash_seed_is_found_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_loaded", {})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mine, sound = tmp_path / "my_dither.py", tmp_path / "my_sound.py"
    mine.write_text(DITHER.replace("OFFSET", "hash('dither')"))
    sound.write_text(DITHER.replace("OFFSET", "1"))
    assert not accused(verdicts(f"{sound}:Dither", ["another_process"]))
    assert accused(verdicts(f"{mine}:Dither", ["another_process"]))


def test_opus_is_early_where_it_codes_as_speech():
    """A finding: packets of SILK come back one sample early at 24 kHz; those of CELT are aligned."""
    codec = tiny("audio/opus")
    assert "a shift by -1 samples" in verdicts(codec, ["alignment"], setting=12)["alignment"]
    assert verdicts(codec, ["alignment"], setting=64)["alignment"].startswith("pass")


# -- healthy codecs -------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", plants.HEALTHY, ids=lambda plant: plant.__name__)
def test_a_healthy_codec_of_blocks_has_no_fault(plant):
    assert not accused(verdicts(plant().eval(), QUICK))


@pytest.mark.parametrize(
    "name", ["image/fsq", "image/rvq", "image/flex", "image/ntc", "audio/rvq", "image/jpeg", "image/png", "text/bytes",
             "text/bpe"],
)  # fmt: skip
def test_a_healthy_codec_does_not_fail(name):
    assert not accused(verdicts(tiny(name), ALL if name == "image/fsq" else QUICK))


def test_opus_does_not_fail():
    assert not accused(verdicts(codecs.build("audio/opus", sample_rate=16000)))


def test_two_functions_without_a_version_have_no_containers():
    plant = plants.Mosaic().eval()
    functions = (lambda x: plant.encode(x).indices, lambda indices: plant.signal(codecs.Codes(indices, indices)))
    found = verdicts(codecs.wrap(*functions, plant.spec, name="image/mine"), QUICK)
    assert not accused(found)
    assert found["coded_bits"] == "skipped: the codec has no fingerprint, which containers need"
    assert found["lengths"].startswith("pass")


def test_a_codec_that_cuts_sounds_into_chunks_and_scales_them():
    given = {"kind": "48khz", "channels": 2, "sample_rate": 8000, "ratios": [5, 4, 2], "filters": 4, "dim": 8}
    torch.manual_seed(0)
    codec = codecs.build("audio/encodec", **given, codebook_size=32, bandwidths=[1, 2, 3])
    names = ("padding", "seams", "decoded_seams", "lengths", "coded_bits", "side_information", "hidden_information")
    found = verdicts(codec, (*names, "gradient"))
    assert not accused(found)
    assert found["side_information"].startswith(("pass", "warn")) and "0 numbers" not in found["side_information"]
    assert found["seams"] == "skipped: the codec cuts sounds into chunks of its own"


def test_a_codec_on_another_device():
    with second_device.active() as second:
        moved = copy.deepcopy(tiny("image/fsq")).to(second)
        checkup = doctor.examine(moved, only=[n for n in QUICK if n != "autocast"], seconds=SECONDS)  # it has none
    assert checkup.device == str(second) and checkup.healthy


# -- findings -------------------------------------------------------------------------------------


def test_every_check_says_what_it_measures_and_its_limit():
    checkup = doctor.examine(plants.Mosaic().eval(), seconds=SECONDS, only=QUICK)
    assert sorted(finding.check for finding in checkup.findings) == sorted(QUICK)
    assert list(dict.fromkeys(f.theme for f in checkup.findings)) == [*checkup.themes] == [*THEMES]
    for finding in checkup.findings:
        assert finding.about.endswith(".") and finding.limit and finding.measured
    by_name = {finding.check: finding for finding in checkup.findings}
    assert by_name["another_process"].verdict == by_name["look_ahead"].verdict == "skipped"
    assert "object" in by_name["another_process"].measured
    field = by_name["encoder_field"].figures
    assert field["codes before"] == field["codes after"] == [0, 0]
    assert by_name["perplexity"].figures["quantizers"][0]["entries"] == plants.LEVELS


def test_the_measured_look_ahead_and_reach_are_those_of_the_filters():
    late = doctor.examine(plants.LookAhead().eval(), seconds=SECONDS, only=["look_ahead"]).findings[0]
    assert 9 <= late.figures["samples"] <= 12  # the filter takes 12 more samples
    overlap = doctor.examine(plants.WrongDecodedOverlap().eval(), seconds=SECONDS, only=["decoder_field"]).findings[0]
    assert overlap.figures["samples before"] == [0] and 24 <= overlap.figures["samples after"][0] <= 31


def test_differing_codes_are_counted_token_by_token():
    a = codecs.Codes(torch.arange(6).reshape(1, 2, 3), torch.tensor([[3]]))
    b = codecs.Codes(torch.tensor([[[0, 1, 9], [3, 4, 5]]]), torch.tensor([[3]]))
    short = codecs.Codes(b.indices[..., :2], torch.tensor([[3]]))
    counted = difference.Difference()
    assert counted.add(a, a) == 0 and str(counted) == "0 of 6 codes differ" and counted.verdict == "pass"
    assert counted.add(a, b) == 1 and counted.verdict == "fail" and counted.share == pytest.approx(1 / 12)
    assert counted.add(a, short) == 2
    assert difference.Difference(1, 100_000).verdict == "warn" and difference.Difference(2, 100_000).verdict == "fail"
    assert [difference.signal_verdict(d) for d in (0.0, 1e-3, 0.1, math.inf)] == ["pass", "warn", "fail", "fail"]


def test_adaptive_bits_are_those_of_a_hand_made_example():
    """Order 0 of a, a, b over two entries: 1/2, 3/4 and 1/6 (KT). A cycle is nearly free after the one before."""
    alone, _, count = usage.adaptive_bits([[0, 0, 1]], 2)
    assert count == 3 and alone == pytest.approx(-math.log2(1 / 2 * 3 / 4 * 1 / 6))
    alone, after, count = usage.adaptive_bits([[0, 1, 2, 3] * 200], 4)
    assert alone / count > 1.9 and after / count < 0.1
    noise = torch.randint(64, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    alone, after, _ = usage.adaptive_bits([noise], 64)
    assert after > 0.99 * alone


def test_growth_is_an_exponent_of_the_length():
    lengths = [1.0, 2.0, 4.0, 8.0]
    assert cost.exponent(lengths, lengths) == pytest.approx(1) and cost.exponent([1, 4, 16, 64], lengths) == 2
    (found,) = doctor.examine(tiny("image/png"), only=["time_by_length"], seconds=SECONDS).findings
    assert found.figures["speeds"].keys() == {"encode", "decode"} and min(found.figures["seconds of decode"]) > 0


def test_signals_fit_any_size():
    x = torch.arange(5.0).reshape(1, 5)
    assert signals.fitted(x, (3,)).tolist() == [[1, 2, 3]]
    assert signals.fitted(x, (12,)).tolist() == [[0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1]]


def test_a_folder_of_the_user_and_its_mistakes(tmp_path):
    codecs.write(torch.rand(3, 40, 30), tmp_path / "a.png")
    checkup = doctor.examine(plants.Mosaic().eval(), folder=tmp_path, only=["reconstruction"], seconds=SECONDS)
    assert checkup.signals == f"1 signals: the folder {tmp_path.name}"
    with pytest.raises(ValueError, match="holds no"):
        doctor.examine(plants.Steps().eval(), folder=tmp_path)
    with pytest.raises(ValueError, match=r"unknown check 'seam' \(did you mean seams"):
        doctor.examine(plants.Mosaic().eval(), only=["seam"])
    with pytest.raises(ValueError, match="has no setting"):
        doctor.examine(plants.Mosaic().eval(), setting=3)
