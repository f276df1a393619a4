"""Evaluation of a diffusion decoder: values, claims, files and page."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support.codecs import one_line, tiny

from tokenloom import codecs, models
from tokenloom.cli.main import main
from tokenloom.codecs import Modality, checkpoint
from tokenloom.data import Item, Source, open_source
from tokenloom.eval.classifiers import image_words, realfake, spoken_words
from tokenloom.eval.decoder import claims, distance, figure, measures, per_setting, references, setup, speed, tables
from tokenloom.eval.decoder import evaluate as decoders
from tokenloom.eval.decoder.records import Claim, DecoderResults, DistanceRecord
from tokenloom.eval.metric import Summary
from tokenloom.eval.serialize import to_plain

VARIANTS = ["plain", "unsharp", "noise", "diffusion 1", "diffusion 2", "diffusion 16"]


def shorten(patch: pytest.MonkeyPatch, cache: Path) -> None:
    for module, name, value in ((realfake, "STEPS", 3), (image_words, "EPOCHS", 1), (spoken_words, "EPOCHS", 1),
                                (speed, "REPEATS", 1)):  # fmt: skip
        patch.setattr(module, name, value)
    patch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """Train for a few steps only, with a cache of the test."""
    shorten(monkeypatch, tmp_path / "cache")


def behind(name: str, folder: Path) -> str:
    """Make a decoder with random weights for a tiny codec."""
    codecs.save(tiny(name), folder / "codec")
    torch.manual_seed(0)
    decoder = models.build_decoder({"codec": str(folder / "codec"), "widths": [8], "depths": [1]})
    models.save(decoder, folder / "decoder")
    return str(folder / "decoder")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    return behind("image/flex", tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> str:
    return behind("audio/rvq", tmp_path_factory.mktemp("sounds"))


def scenes(count: int, seed: int = 0) -> Source:
    return open_source("scenes", count=count, size=32, seed=seed)


class Words(Source):
    """Short tones of several lengths with two names, at a sample rate that no codec here has."""

    name = "words"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Item:
        t = torch.arange(1800 + 300 * (i % 2)) / 12000
        wave = 0.4 * torch.sin(6.28 * (300 + 500 * (i % 2) + 7 * i) * t) * (t < 0.12)
        noise = 0.02 * torch.randn(len(t), generator=torch.Generator().manual_seed(i))
        return Item(f"{i}", Modality.AUDIO, (wave + noise)[None], 12000, ("low", "high")[i % 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder of the files of `found`."""
    return tmp_path_factory.mktemp("found")


@pytest.fixture(scope="module")
def found(pictures, folder) -> DecoderResults:
    """Evaluation of pictures at two settings."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, folder / "cache")
        arguments = {"training": scenes(64, 1), "train_items": 5, "settings": [8, 2], "steps": [16, 2, 1]}
        return decoders.evaluate(pictures, scenes(5), folder, title="shapes", **arguments)


# -- what comes out --------------------------------------------------------------------------------


def test_every_variant_has_every_figure_at_every_setting(found):
    assert [(r.setting, r.variant) for r in found.records] == [(s, v) for s in (8, 2) for v in VARIANTS]
    assert found.absent == {} and not found.interrupted
    for r in found.records:
        assert r.n == r.distortion["psnr"].n == 5
        assert set(r.kid) == {"labels", "block DCT"} and 0 <= r.accuracy.accuracy <= 1
        assert (r.same is None) == (r.variant in ("unsharp", "noise"))
        assert r.tokens == r.setting
    plain = found.records[0]
    assert plain.against_plain.mean == 0 and plain.steps is None
    sharp = found.records[1]
    gap = sharp.distortion["psnr"].mean - plain.distortion["psnr"].mean
    assert sharp.against_plain.mean == pytest.approx(gap)
    assert [r.sampler for r in found.records[3:6]] == ["shortcut", "shortcut", "euler"]
    assert set(found.records[3].kid["labels"].below) == {"plain", "unsharp", "noise"}
    assert {(c.setting, c.control) for c in found.controls} == {(s, c) for s in (8, 2) for c in VARIANTS[1:3]}
    assert set(found.floor) == {"labels", "block DCT"}
    assert [row.of for row in found.seconds] == ["first item", "64x64"]
    assert set(found.seconds[1].steps) == {"1", "2"}


def test_the_plain_figures_are_those_of_the_codec(found):
    codec = tiny("image/flex")
    seen = measures.measures_of(codec)
    values = [seen.psnr(x, codec.decode(codec.encode(x[None], 2))[0]) for x in
              (measures.signal(item, codec) for item in scenes(5).items())]  # fmt: skip
    assert found.record(2, "plain").distortion["psnr"].mean == pytest.approx(sum(values) / 5)


def test_files_and_page_hold_what_was_found(found, folder):
    kept = json.loads((folder / "decoder.json").read_text())
    assert kept == json.loads(json.dumps(to_plain(found)))
    rows = list(csv.DictReader((folder / "decoder.csv").open()))
    assert len(rows) == 12 and {"psnr", "kid_labels_low", "kid_block_dct", "accuracy", "codes_back"} <= set(rows[0])
    page = (folder / "report.html").read_text()
    for said in ("plain decoder", "diffusion, 1 step", "unsharp", "Goals and results", "A quarter of the tokens",
                 "shapes", "high-pass energy", "data:image/webp;base64", 'id="tokens"'):  # fmt: skip
        assert said in page, said
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    with Image.open(folder / "exhibits" / "decoder.png") as figure:
        assert figure.width > 4 * 160 and figure.height > 2 * 3 * 160  # 4 columns, 2 blocks of 3 rows, pixels enlarged


def test_the_same_seed_gives_the_same_figures(found, pictures, tmp_path):
    again = decoders.evaluate(pictures, scenes(5), tmp_path, training=scenes(64, 1), train_items=5, settings=[2],
                              steps=[1, 2, 16])  # fmt: skip
    assert again.records == [r for r in found.records if r.setting == 2]


def test_sounds_have_the_same_figures_and_can_be_heard(sounds, tmp_path):
    found = decoders.evaluate(sounds, Words(4), tmp_path, training=Words(18), train_items=4, settings=[1, 3],
                              steps=[1])  # fmt: skip
    assert found.absent == {} and found.modality == "audio"
    for r in found.records:
        assert set(r.distortion) == {"psnr", "mel"} and set(r.kid) == {"labels", "mel statistics"}
        assert r.accuracy.patches > 0
    assert [row.of for row in found.seconds] == ["first item"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<audio") == 3 * 3 and page.count('type="range"') == 3 * 2  # clips, variants
    assert page.count("data:audio/flac") == 3 * (1 + 2 * 2) and "mel PSNR" in page  # the original has one setting
    assert (tmp_path / "exhibits" / "decoder-0-0-plain.flac").is_file()


def test_without_training_data_what_needs_it_is_absent(pictures, tmp_path):
    found = decoders.evaluate(pictures, scenes(3), tmp_path, settings=[8], steps=[1])
    assert [r.variant for r in found.records] == ["plain", "diffusion 1"]
    assert set(found.absent) == {"controls", "real or decoded", "floor", "KID in labels"}
    assert all("training={name: tar" in reason for reason in found.absent.values())
    assert all(r.accuracy is None and set(r.kid) == {"block DCT"} for r in found.records)
    reached = {v.title: v.reached for v in found.verdicts}
    assert reached["Real or decoded, diffusion 1"] is reached["KID in block DCT, diffusion 1"] is None
    assert "Absent: needs tokens 8 and about 2" in (tmp_path / "report.html").read_text()


def test_few_labels_leave_only_their_space_out(pictures, tmp_path):
    found = decoders.evaluate(pictures, scenes(3), tmp_path, training=scenes(4), settings=[8], steps=[1])
    assert list(found.absent) == ["KID in labels"] and "4 training captions" in found.absent["KID in labels"]
    assert found.records[0].accuracy and found.train_items == 4


def test_an_interruption_leaves_the_settings_done(pictures, tmp_path, monkeypatch):
    run = per_setting.SettingMeasurement.run

    def twice(self):
        if self.setting == 4:
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(per_setting.SettingMeasurement, "run", twice)
    found = decoders.evaluate(pictures, scenes(3), tmp_path, steps=[1])
    assert found.interrupted and {r.setting for r in found.records} == {8, 2}  # all and a quarter come first
    assert "interrupted" in (tmp_path / "report.html").read_text()

    monkeypatch.setattr(references, "read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert decoders.evaluate(pictures, scenes(3), tmp_path / "none").records == []
    assert (tmp_path / "none" / "report.html").is_file()


def test_large_pictures_go_in_small_batches(monkeypatch):
    monkeypatch.setattr(per_setting, "SAMPLES", 3000)
    shapes = [(3, 30, 30), (3, 100, 100), (3, 30, 30), (3, 30, 30), (3, 30, 30), (3, 100, 100)]
    assert list(per_setting.batches(shapes)) == [[0, 2, 3], [4], [1], [5]]


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"settings": [9]}, "got 9"),
        ({"settings": []}, "settings must not be empty"),
        ({"steps": [0]}, "steps must be an integer from 1 to 1000, got 0"),
        ({"steps": ["two"]}, "got 'two'"),
        ({"steps": []}, "steps must not be empty"),
        ({"items": 1}, "data must have at least 2 image items"),
        ({"items": 0}, "items must be an integer of at least 1, got 0"),
        ({"train_items": 1}, "train_items must be an integer of at least 2, got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_mistakes_are_one_line(pictures, tmp_path, arguments, said):
    with pytest.raises(ValueError) as error:
        decoders.evaluate(pictures, scenes(3), tmp_path, **arguments)
    assert said in str(error.value) and one_line(error) and not list(tmp_path.iterdir())


def test_data_of_another_modality_and_codecs_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"data must have at least 2 image items.*got 0") as error:
        decoders.evaluate(pictures, Words(3), tmp_path)
    assert one_line(error)
    codecs.save(tiny("image/flex"), tmp_path / "codec")
    with pytest.raises(ValueError) as error:
        decoders.evaluate(str(tmp_path / "codec"), scenes(3), tmp_path)
    assert one_line(error)


def test_the_command_knows_a_decoder(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.describes(str(pictures), "decoder")
    for other in ("image/jpeg", "emoji-fsq", "omni-small", "no-such-thing", str(tmp_path)):
        assert not checkpoint.describes(str(other), "decoder")
    data = ["data=scenes", "data.count=3", "data.size=32", "out=here"]
    assert main(["evaluate", pictures, *data, "settings=2", "steps=1"]) == 0
    out = capsys.readouterr().out
    assert "here/report.html" in out and "Real or decoded" in out and "is absent" in out
    assert json.loads(Path("here/decoder.json").read_text())["settings"] == [2]
    for arguments, said in (
        (["training=tar"], "training must name a data source"),
        (["train_item=3"], "unknown key 'train_item' (did you mean train_items?)"),
        (["items=many"], "items=many is wrong: it must be a whole number"),
        (["--modelled"], "--modelled needs a codec"),
    ):
        assert main(["evaluate", pictures, *data, *arguments]) == 2
        complaint = capsys.readouterr().err
        assert said in complaint and complaint.count("\n") == 1


# -- claims ----------------------------------------------------------------------------------------


def claim_of(found: DecoderResults, title: str) -> Claim:
    return next(v for v in claims.claims(found) if v.title.startswith(title))


def altered(found: DecoderResults, variant: str, **values: Any) -> DecoderResults:
    """Return the evaluation with other values of a variant at both settings: kid, accuracy or loss."""
    found = copy.deepcopy(found)
    for record in found.records:
        if record.variant == variant:
            for kid in record.kid.values():
                kid.value = values.get("kid", kid.value)
            accuracy = values.get("accuracy", record.accuracy.accuracy)
            record.accuracy = replace(record.accuracy, accuracy=accuracy)
            record.against_plain.mean = values.get("loss", record.against_plain.mean)
    return found


def with_values(found: DecoderResults, **mine: Any) -> DecoderResults:
    """Return results with baselines at a KID of 1 and 90 %, and these values for few steps."""
    found = replace(found, usual=2)
    for variant in ("plain", "unsharp", "noise", "diffusion 16"):
        found = altered(found, variant, kid=1.0, accuracy=0.9)
    return altered(found, "diffusion 2", **mine)


def test_claims_follow_from_the_figures(found):
    good = with_values(found, kid=0.5, accuracy=0.4, loss=-0.5)
    assert all(claim_of(good, title).reached for title in ("KID in labels", "KID in block", "Real or", "Loss"))
    quarter = claim_of(good, "Diffusion from a quarter")
    assert quarter.reached and "diffusion 2 at tokens 2 against plain at 8" in quarter.found
    assert "KID in labels 0.5 against 1" in quarter.found and "real or decoded 40.0 % against 90.0 %" in quarter.found
    assert claim_of(good, "2 steps against 16: KID in labels").reached

    bad = with_values(found, kid=1.2, accuracy=0.05, loss=-1.5)  # far below chance is as bad as far above
    for title in ("KID in labels", "KID in block", "Real or", "Loss", "Diffusion from", "2 steps against 16: KID"):
        assert claim_of(bad, title).reached is False, title
    assert "+1.50 dB at most" in claim_of(bad, "Loss").found
    assert "+20 %" in claim_of(bad, "2 steps against 16: KID in labels").found


def test_one_setting_that_fails_is_named(found):
    mixed = with_values(found, kid=0.5, accuracy=0.5)
    mixed.record(2, "unsharp").kid["labels"].value = 0.1
    claim = claim_of(mixed, "KID in labels")
    assert not claim.reached and claim.found.startswith("at 1 of 2 settings, not at 2")


def test_a_quarter_is_near_a_quarter():
    sweep = [1, 2, 4, 8, 16, 32, 64]
    assert setup.nearest_quarter(sweep, 64) == 16
    assert setup.nearest_quarter([1, 2, 3, 4, 5, 6], 6) == 1  # of two as near the lower
    assert setup.nearest_quarter([32, 64], 64) is None
    assert setup.nearest_quarter([None], None) is None


def test_relative_differences_of_distances_about_zero():
    assert claims.increase(1.1, 1.0) == pytest.approx(0.1)
    assert claims.increase(-0.1, -0.2) == 0 and claims.increase(0.1, 0.0) == 10


def test_differences_beyond_chance_follow_from_the_draws():
    record = SimpleNamespace(steps=4, variant="diffusion 4", kid={"labels": DistanceRecord(0.0, 0.0, 0.0, 2)})
    rivals = {"plain": torch.ones(100), "unsharp": torch.linspace(-1, 1, 100)}
    draws = {"diffusion 4": {"labels": torch.zeros(100)}, **{k: {"labels": v} for k, v in rivals.items()}}
    distance.compare_draws(record, draws)
    assert record.kid["labels"].below == {"plain": True, "unsharp": False}


# -- the figure ------------------------------------------------------------------------------------


def test_the_figure_shows_few_settings_and_enlarges_small_pictures():
    assert figure.shown_settings([1, 2, 4, 8, 16, 32, 64]) == [64, 16, 4, 1]
    assert figure.shown_settings([None]) == [None]
    small = figure.image_tile(torch.rand(3, 64, 48))
    assert small.size == (144, 192)
    assert small.getpixel((0, 0)) == small.getpixel((2, 2))
    assert figure.image_tile(torch.rand(3, 300, 500)).size == (192, 192)


def test_figures_are_written_as_people_read_them(found):
    ((title, rows), _) = tables.setting_tables(found).items()
    assert title.startswith("tokens 8: 8 tokens per image")
    assert all(len(row.cells) + 1 == len(tables.header(found)) for row in rows)
    assert tables._mean(Summary(perfect=2)) == "∞"
    assert tables._mean(Summary(-1.234, ci95=0.5), "+.2f") == "−1.23 ± 0.50"
