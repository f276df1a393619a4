"""Published curves: read in CompressAI's layout, drawn and compared beside a comparison, and written again."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from pytorch_msssim import ms_ssim
from support.cli import refuse, succeed

import tokenloom
from tokenloom import codecs
from tokenloom.codecs import CodeSpec, Modality
from tokenloom.data import Item, Source
from tokenloom.eval.compare.published import layout
from tokenloom.eval.compare.report import plots
from tokenloom.eval.compare.results import Results
from tokenloom.eval.protocols import protocol

SIDE = 176
"""Side of a picture that has an MS-SSIM."""


class Grays(Source):
    """Noise of dark and of light grays of 8 bits."""

    name = "grays"

    def __init__(self, side=SIDE):
        self.side = side

    def __len__(self):
        return 2

    def __getitem__(self, i):
        noise = torch.randint(0, 60, (1, self.side, self.side), generator=torch.Generator().manual_seed(self._check(i)))
        return Item(f"gray{i}", Modality.IMAGE, ((noise + (40, 160)[i]) / 255).expand(3, -1, -1).contiguous())


def off(indices):
    """Decode dark pixels 10 levels too light, and light ones 1 level."""
    return ((indices + torch.where(indices < 128, 10, 1)) / 255).expand(-1, 3, -1, -1)


def codec():
    """A codec with errors that are known: a code of 8 bits for each pixel."""
    spec = CodeSpec(Modality.IMAGE, (256,), (1, 1), 3)
    return codecs.wrap(lambda x: (x[:, :1] * 255).round().long(), off, spec, name="image/off", version="1")


def curve(path: Path, name: str = "VTM", **results) -> Path:
    content = {"name": name, "description": "made by hand", "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_file_is_read_with_ms_ssim_in_linear_units(tmp_path):
    curve(tmp_path / "a.json", "VTM", **{"bpp": [0.1, 0.2], "psnr-rgb": [30, 33.5], "ms-ssim-rgb": [0.9, 0.95]})
    curve(tmp_path / "b.json", "VTM", **{"bpp": [0.1, 0.2], "ms-ssim-db-rgb": [10, 20], "encoding_time": [1, 2]})
    (tmp_path / "c.json").write_text(json.dumps({
        "name": "elic", "meta": {"dataset": "kodak", "url": "https://arxiv.org/abs/2203.10886"},
        "results": {"bpp": [1], "psnr": [30], "ms-ssim": None},
    }))  # fmt: skip
    one, two, three = layout.read([tmp_path])
    assert (one.name, one.rates, one.metrics) == ("VTM (a)", [0.1, 0.2], {"psnr": [30, 33.5], "ms_ssim": [0.9, 0.95]})
    assert two.name == "VTM (b)" and two.metrics == {"ms_ssim": pytest.approx([0.9, 0.99])}
    assert (one.notes, two.notes) == ([], ["MS-SSIM was given in dB"])
    assert (three.name, three.about) == ("elic", "kodak, https://arxiv.org/abs/2203.10886")
    assert [c.name for c in layout.read([str(tmp_path / "[ab].json"), tmp_path / "a.json"])] == ["VTM (a)", "VTM (b)"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", 'must hold {"name"'),
        ('{"results": {"psnr-rgb": [1]}}', "bpp must be a list of 1 to 1000 numbers, got None"),
        ('{"results": {"bpp": []}}', "bpp must be a list of 1 to 1000 numbers"),
        ('{"results": {"bpp": [0], "psnr-rgb": [1]}}', "bpp must be positive"),
        ('{"results": {"bpp": [1, true], "psnr-rgb": [1, 2]}}', "bpp must hold numbers from 0 to 1e+06, got True"),
        ('{"results": {"bpp": [1, NaN], "psnr-rgb": [1, 2]}}', "a number must lie within ±1e+100, got NaN"),
        ('{"results": {"bpp": [1, 2], "psnr-rgb": [1]}}', "psnr-rgb must have 2 values, as bpp has, got 1"),
        ('{"results": {"bpp": [1, 2]}}', "results must hold one of psnr-rgb, psnr, ms-ssim-rgb"),
        ('{"results": {"bpp": [1], "ms-ssim-rgb": [500]}}', "ms-ssim-rgb in dB must be from 0 to 100, got 500"),
        (json.dumps({"results": {"bpp": [1] * 1001}}), "bpp must be a list of 1 to 1000 numbers"),
        (" " * (2**20 + 1), "must have at most 1,048,576 bytes"),
    ],
)
def test_a_damaged_file_is_one_line(capsys, tmp_path, text, says):
    (tmp_path / "bad.json").write_text(text)
    line = refuse(capsys, "compare", "codecs=[image/png]", "data=scenes", f"references={tmp_path}", "out=x")
    assert says in line and "bad.json" in line


def test_sources_without_files_are_refused(tmp_path):
    for source, says in ((tmp_path, "holds no JSON file"), (tmp_path / "*.json", "is neither a file nor a folder")):
        with pytest.raises(FileNotFoundError, match=says):
            layout.read([source])
    for number in range(201):
        curve(tmp_path / f"{number}.json", bpp=[1], psnr=[1])
    with pytest.raises(ValueError, match="must be at most 200 files, got 201"):
        layout.read([tmp_path])


def test_the_kodak_protocol_takes_the_mean_of_each_pictures_value():
    """Levels off by 10 and by 1: 28.13 dB and 48.13 dB. The PSNR of the mean error would be 31.10 dB."""
    result = tokenloom.compare(codec(), Grays(), protocols=["kodak"])
    (record,) = result.records
    each = [20 * math.log10(255 / error) for error in (10, 1)]
    assert record.value("psnr") == pytest.approx(sum(each) / 2, abs=1e-4) == pytest.approx(38.1308, abs=1e-4)
    signals = [item.signal[None] * 255 for item in Grays().items()]
    outputs = [signal + error for signal, error in zip(signals, (10, 1), strict=True)]
    linear = [ms_ssim(y, x, data_range=255).item() for x, y in zip(signals, outputs, strict=True)]
    assert record.value("ms_ssim") == pytest.approx(sum(linear) / 2, abs=1e-5)
    assert record.rate("nominal") == 8.0 and set(record.metrics) == {"psnr", "ms_ssim"}
    common = protocol("kodak").common
    assert common["colour"].startswith("RGB") and "mean over the pictures of the value of each" in common["averaging"]
    page = result.report().read_text(encoding="utf-8")
    assert "protocol kodak is for the 24 pictures of the Kodak set; this set has 2" in page


def test_curves_are_drawn_and_compared_and_enter_no_table(tmp_path):
    """A curve of twice the bits at equal quality: −50 %. One of the same bits: 0 %. One without overlap: a reason."""
    plain = tokenloom.compare("image/jpeg", Grays(), tmp_path / "plain")
    rates = [r.rate() for r in plain.records]
    quality, linear = ([r.value(name) for r in plain.records] for name in ("psnr", "ms_ssim"))
    db = [-10 * math.log10(1 - value) for value in linear]
    curves = tmp_path / "curves"
    curve(curves / "a.json", "double", **{"bpp": [2 * r for r in rates], "psnr-rgb": quality, "ms-ssim-db-rgb": db})
    curve(curves / "b.json", "image/jpeg", **{"bpp": rates, "psnr-rgb": quality})
    curve(curves / "c.json", "far", **{"bpp": [1, 2], "psnr-rgb": [90, 95]})
    result = tokenloom.compare(["image/jpeg", "image/webp"], Grays(), tmp_path / "beside", references=curves)
    found = Results.read(tmp_path / "beside")
    rows = {(r.anchor, r.codec, r.metric): r for r in found.reference_bd_rates}
    assert rows["double", "image/jpeg", "psnr"].percent == pytest.approx(-50, abs=1e-6)
    assert rows["double", "image/jpeg", "ms_ssim"].percent == pytest.approx(-50, abs=0.1)
    assert rows["image/jpeg (published)", "image/jpeg", "psnr"].percent == pytest.approx(0, abs=1e-6)
    assert rows["image/jpeg (published)", "image/jpeg", "psnr"].overlap == 1
    assert rows["far", "image/jpeg", "psnr"].reason == "the two curves have no quality in common"
    webp = rows["image/jpeg (published)", "image/webp", "psnr"].percent
    assert webp == pytest.approx(next(r.percent for r in found.bd_rates if r.metric == "psnr"), abs=1e-6)

    assert [c.name for c in found.references] == ["double", "image/jpeg (published)", "far"]
    assert {r.codec for r in found.records} == {"image/jpeg", "image/webp"}
    names = {place.codec for standing in found.standings for place in standing.places}
    assert names == {"image/jpeg", "image/webp"} and not any("double" in line for line in found.takeaways)
    assert "double" not in (tmp_path / "beside" / "results.csv").read_text()

    chart = plots.charts(found)["image-curves"]
    series = {s.name: s for s in chart.series}
    assert [p.values["psnr"] for p in series["double"].points] == pytest.approx(quality)
    assert series["double"].style.marker == "" and series["double"].style.dash and series["image/jpeg"].style.marker
    drawn, undrawn = ((tmp_path / name / "plots/image-psnr.svg").read_text() for name in ("beside", "plain"))
    assert "<!-- double -->" in drawn and "<!-- double -->" not in undrawn
    page = result.report().read_text(encoding="utf-8")
    shown = re.search(r'id="published".*?</section>', page, re.DOTALL)[0]
    assert "−50.0 %" in shown and "MS-SSIM in dB was converted to linear values for double" in shown
    assert "This comparison has 2 from grays" in shown and "rounding: both images rounded to 8 bits first" in shown
    assert page.count("Thin dashed lines are published figures.") == 1
    assert "Published curves" not in plain.report().read_text(encoding="utf-8")


def test_curves_are_exported_and_read_back_equal(capsys, tmp_path):
    listed = "codecs=[image/jpeg,image/png]"
    (tmp_path / "pictures").mkdir()
    for item in Grays().items():
        codecs.write(item.signal, tmp_path / "pictures" / f"{item.key}.png")
    data = ["data=folder", f"data.path={tmp_path / 'pictures'}", "protocols=[kodak]"]
    with pytest.warns(UserWarning, match="image/png has no finite PSNR, and so no curve in compressai/"):
        tokenloom.compare(["image/jpeg", "image/png"], Grays(), tmp_path / "a", export="compressai")
    succeed(capsys, "compare", listed, *data, "export=compressai", f"out={tmp_path / 'b'}")
    files = list((tmp_path / "b" / "compressai").iterdir())
    assert [file.name for file in files] == ["image-jpeg.json"]
    written = json.loads(files[0].read_text())
    assert set(written["results"]) == {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"}
    assert "protocol kodak, 2 images of" in written["description"] and written["name"] == "image/jpeg"
    (again,) = layout.read([tmp_path / "b" / "compressai"])
    records = [r for r in Results.read(tmp_path / "b").records if r.codec == "image/jpeg"]
    assert again.rates == [r.rate() for r in records]
    assert again.metrics == {name: [r.value(name) for r in records] for name in ("psnr", "ms_ssim")}
    references = f"references=[{tmp_path}/b/compressai,'{tmp_path}/b/compressai/*.json']"
    says = succeed(capsys, "compare", listed, *data, references, f"out={tmp_path / 'c'}")
    assert "BD-rate against published curves, PSNR" in says
    rows = Results.read(tmp_path / "c").reference_bd_rates
    percents = [r.percent for r in rows if r.codec == "image/jpeg"]
    assert percents == pytest.approx([0, 0], abs=1e-6), "PSNR and MS-SSIM of the one file, which is listed twice"
    assert not (tmp_path / "c" / "compressai").exists()


def test_small_pictures_have_no_ms_ssim_in_their_file(tmp_path):
    tokenloom.compare("image/jpeg", Grays(side=32), tmp_path, export="compressai")
    (read,) = layout.read([tmp_path / "compressai"])
    assert set(read.metrics) == {"psnr"} and len(read.rates) == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"export": "csv"}, "export must be compressai or null, got 'csv'"),
        ({"export": "compressai", "protocols": ["luma8"]}, r"protocol luma8 measures luma: use protocols=\[kodak\]"),
        ({"references": "curves", "protocols": ["luma8"]}, "published curves are of RGB, and protocol luma8"),
        ({"references": "curves", "codec": "text/bytes"}, "published curves are of images, and no codec"),
    ],
)
def test_comparisons_that_fit_no_published_curve(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    curve(Path("curves/a.json"), bpp=[1, 2], psnr=[30, 35])
    given = dict(options)
    with pytest.raises(ValueError, match=says):
        tokenloom.compare(given.pop("codec", "image/png"), Grays(), **given)
