"""A codec that decodes through a diffusion decoder: codes, names and comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.codecs import one_line, signals, structured, tiny

from tokenloom import codecs, models
from tokenloom.codecs import LatentCodec, Modality, Target, bitstream, rate
from tokenloom.data import Item, Source
from tokenloom.eval import trial
from tokenloom.eval.compare import Results, compare
from tokenloom.eval.compare.entries import load_entries
from tokenloom.eval.compare.targets import targets_of
from tokenloom.models import DiffusionDecoder
from tokenloom.models.diffusion import codec as diffusion_codec


def behind(codec: LatentCodec, folder: Path, seed: int = 0) -> DiffusionDecoder:
    """Write a codec to `folder` and return an untrained decoder for it."""
    if not folder.exists():
        codecs.save(codec, folder)
    torch.manual_seed(seed)
    return models.build_decoder({"codec": str(folder), "widths": [8, 16], "depths": [1, 1]})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a codec, of its decoders `one` and `two`, and of `other`, the decoder of another codec."""
    root = tmp_path_factory.mktemp("decoders")
    for seed, name in enumerate(("one", "two")):
        models.save(behind(tiny("image/fsq"), root / "codec", seed), root / name)
    models.save(behind(tiny("image/bsq"), root / "bsq"), root / "other")
    return root


@pytest.fixture(autouse=True)
def here(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)


class Pictures(Source):
    name = "pictures"

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Item:
        return Item(f"picture{i}", Modality.IMAGE, structured(tiny("image/fsq"), (24, 33), i)[0], None)


@pytest.mark.parametrize("name", ["image/fsq", "image/rvq", "image/flex", "image/ntc", "audio/rvq"])
def test_codes_rates_and_containers_are_the_codecs_own(name, tmp_path):
    decoder = behind(tiny(name), tmp_path / "codec")
    codec, both = decoder.codec, diffusion_codec.DiffusionCodec(decoder, 2, seed=3)
    x = signals(codec, (24, 33) if codec.spec.modality is Modality.IMAGE else (1500,))
    codes = both.encode(x)
    data = both.compress(x)
    assert torch.equal(codes.indices, codec.encode(x).indices) and data == codec.compress(x)
    assert both.fingerprint == codec.fingerprint and both.settings == codec.settings and both.spec == codec.spec
    plain, painted = codec.decompress(data), both.decompress(data)
    assert torch.equal(painted, decoder.decode(codes, steps=2, seed=3)) and torch.equal(painted, both.decode(codes))
    assert painted.shape == plain.shape and not torch.equal(painted, plain)
    assert torch.equal(rate.nominal(both.spec, codes), rate.nominal(codec.spec, codes))
    codec.counts.fill_(3)
    assert torch.equal(rate.entropy(both, codes), rate.entropy(codec, codes))
    if len(codec.settings) > 1:
        target = Target(**({"bits_per_pixel": 3} if codec.spec.modality is Modality.IMAGE else {"kbps": 60}))
        assert torch.equal(both.encode(x, target).indices, codec.encode(x, target).indices)


def test_the_license_is_that_of_the_codec_and_of_the_decoder(tmp_path):
    decoder = behind(tiny("image/fsq"), tmp_path / "codec")
    assert diffusion_codec.DiffusionCodec(decoder).license is None
    decoder.codec.license = "CC-BY-4.0"
    assert diffusion_codec.DiffusionCodec(decoder).license == "CC-BY-4.0"
    decoder.license = "MIT"
    assert diffusion_codec.DiffusionCodec(decoder).license == "CC-BY-4.0 AND MIT"
    decoder.license = "CC-BY-4.0"
    assert diffusion_codec.DiffusionCodec(decoder).license == "CC-BY-4.0"


def test_names_are_split_where_they_stand_for_nothing_else(folders):
    assert diffusion_codec.split("natural-fsq+diffusion@2") == ("natural-fsq", "+diffusion@2")
    assert diffusion_codec.split("runs/a+b+runs/c") == ("runs/a+b", "+runs/c")
    assert diffusion_codec.split("natural-fsq") is None
    (folders / "a+b").mkdir()
    assert diffusion_codec.split("a+b") == ("a", "+b"), "a folder without a checkpoint hides nothing"
    (folders / "a+b" / "config.yaml").touch()
    assert diffusion_codec.split("a+b") is None
    assert diffusion_codec.load("codec", "+one").steps == models.load("one").steps
    assert diffusion_codec.load("codec", "+two@3").steps == 3
    assert diffusion_codec.is_default("+diffusion@2") and not diffusion_codec.is_default("+diffusions")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("codec+other", "other decodes image/bsq ({other}), not codec ({codec})"),
        ("codec+one@0", "steps must be an integer from 1 to 1000, got 0"),
        ("codec+one@1001", "steps must be an integer from 1 to 1000, got 1001"),
        ("codec+one@two", "steps must be an integer, got 'two' in codec+one@two; the form is CODEC+DECODER"),
        ("codec+omni-small", "omni-small describes no decoder"),
        ("codec+nonsense", "nonsense"),
        ("nonsense+one", "nonsense"),
        ("image/jpeg+diffusion", "image/jpeg"),
        ("image/fsq+diffusion", "image/fsq must be trained first"),
        ("codec+", "'codec+' must be the name of a codec, CODEC+DECODER"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(name, said):
    fingerprints = {"codec": tiny("image/fsq").fingerprint.hex(), "other": tiny("image/bsq").fingerprint.hex()}
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_entries([name])
    assert one_line(refused) and said.format(**fingerprints) in str(refused.value)


def test_diffusion_is_the_one_that_belongs_whatever_else_takes_part():
    mine = models.load("one")
    entries = load_entries(["codec+two", "codec", "codec+diffusion@2", "codec+diffusion"])
    assert [c.label for c in entries] == ["codec+two", "codec", "codec+diffusion@2", "codec+diffusion"]
    assert [getattr(c.codec, "decoder", None) is mine for c in entries] == [False, False, True, True]
    with pytest.raises(ValueError, match=r"codec 'codec\+one' is listed twice"):
        load_entries(["codec+one", "codec+one"])


def test_a_glob_takes_a_decoder_behind_each_of_its_codecs():
    assert [c.label for c in load_entries(["code*+one@1"])] == ["codec+one@1"]


def test_targets_are_not_tried_with_a_decoder_behind(tmp_path):
    entry = load_entries(["image/jpeg"])[0]
    assert targets_of(entry, ("psnr",)) == ("psnr",)
    entry.codec = diffusion_codec.DiffusionCodec(behind(tiny("image/flex"), tmp_path / "codec"))
    assert targets_of(entry, None) == targets_of(entry, ("psnr",)) == ()


@pytest.fixture(scope="module")
def run(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders)
        return compare(["codec", "codec+one@1", "image/jpeg"], Pictures(), tmp_path_factory.mktemp("out"))


def test_a_comparison_sets_them_side_by_side(run):
    plain, painted = (next(r for r in run.records if r.codec == name) for name in ("codec", "codec+one@1"))
    assert plain.rates == painted.rates and plain.codebooks == painted.codebooks
    assert painted.n == 8 and not painted.failed and painted.learned
    decoder, codec = models.load("one"), codecs.load("codec")
    items = [Pictures()[i] for i in range(8)]
    found = [decoder.decode(codec.encode(item.signal[None]), steps=1, seed=0)[0] for item in items]
    metrics = {m.name: m for m in field_metrics(run)}
    values = [
        metrics["psnr"].function(i.signal, y, **metrics["psnr"].settings) for i, y in zip(items, found, strict=True)
    ]
    assert painted.metrics["psnr"].mean == pytest.approx(sum(values) / 8, rel=1e-6)
    state = metrics["kid"].function(**metrics["kid"].settings)
    for item, y in zip(items, found, strict=True):
        state.add(state.features(item.signal, y))
    assert painted.metrics["kid"].mean == pytest.approx(state.value(), rel=1e-6)
    assert painted.metrics["kid"].mean != plain.metrics["kid"].mean


def field_metrics(run: Results) -> tuple:
    from tokenloom.eval.protocols import protocol

    return protocol(run.records[0].protocol).metrics


def test_the_report_shows_distortion_and_perception_in_one_plot(run):
    html = run.report.read_text(encoding="utf-8")
    svg = (run.folder / "plots" / "image-perception.svg").read_text(encoding="utf-8")
    assert 'id="perception"' in html and "codec+one@1" in html
    for label in ("PSNR / dB", "KID (block DCT)", "codec+one@1", "image/jpeg"):
        assert f"<!-- {label}" in svg
    assert (run.folder / "plots" / "image-perception.png").stat().st_size > 10_000


def test_containers_written_before_and_after_are_one(folders):
    """A comparison measures the containers that the codec alone writes."""
    both = load_entries(["codec+two@1"])[0].codec
    x = structured(both, (24, 33))
    (data,) = both.compress(x)
    assert bitstream.fingerprint(data) == codecs.load("codec").fingerprint
    assert trial.run(both, Pictures()[0]).data == codecs.load("codec").compress(Pictures()[0].signal[None])[0]
