"""Comparison end to end: rates against bytes, self-contained files, counted failures."""

import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from support.codecs import tiny

from tokenloom import codecs, progress
from tokenloom.codecs import registry
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, CodeSpec, Modality, Settings
from tokenloom.data import BrokenItem, Item, Source, open_source
from tokenloom.eval import charts, protocols, trial
from tokenloom.eval.compare import compare
from tokenloom.eval.compare.command import compare_command
from tokenloom.eval.compare.entries import CodecEntry
from tokenloom.eval.compare.exhibits import Example, make_exhibits, make_tile
from tokenloom.eval.compare.measurement import CodecMeasurement
from tokenloom.eval.compare.records import Record
from tokenloom.eval.compare.report import page, plots
from tokenloom.eval.compare.results import Results
from tokenloom.eval.drawing import draw
from tokenloom.eval.metric import MetricDescription, ProtocolDescription, Summary
from tokenloom.eval.selection import Selection
from tokenloom.eval.serialize import to_plain
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics import features


class Blocks(Codec):
    """Toy codec: the mean of each 4×4 block of luma in a number of levels, so that all its values are known."""

    spec = CodeSpec(Modality.IMAGE, (16,), (4, 4), 3, None, total=True, ordered=False, causal=False)
    settings = Settings("levels", "", 16, (2, 16))

    def _encode(self, x, setting):
        if x.shape[-1] == 33:
            raise RuntimeError("33 columns\nare too many")
        if x.shape[-1] == 34:
            raise KeyboardInterrupt
        height, width = x.shape[-2:]
        padded = torch.nn.functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        mean = torch.nn.functional.avg_pool2d(padded.mean(1, keepdim=True), 4)
        step = 15 // (setting - 1)
        return Codes((mean * (setting - 1)).round().long() * step, torch.tensor([[height, width]]).expand(len(x), 2))

    def _decode(self, codes):
        height, width = codes.sizes[0].tolist()
        big = (codes.indices.float() / 15).repeat_interleave(4, -2).repeat_interleave(4, -1)
        return big[..., :height, :width].expand(-1, 3, -1, -1).contiguous()


class Few(Source):
    """Source of given items. A text stands for a broken item."""

    def __init__(self, *items, name="few"):
        self.all, self.name = items, name

    def __len__(self):
        return len(self.all)

    def __getitem__(self, i):
        if isinstance(self.all[i], str):
            raise BrokenItem(self.all[i])
        return self.all[i]


def picture(height, width, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6, generator=g), (height, width), mode="bilinear")[0]
    x = ((x + 0.02 * torch.randn(x.shape, generator=g)).clamp(0, 1) * 255).round() / 255
    return Item(f"picture{seed}", Modality.IMAGE, x, None, **more)


@pytest.fixture(scope="module", autouse=True)
def toy():
    """Register `image/blocks` for these tests only."""
    codecs.register("image/blocks")(Blocks)
    yield
    registry._classes.pop("image/blocks")


NAUGHTY = "<script>alert('x')</script> & \"more\""
PICTURES = (picture(50, 37, 0, caption=NAUGHTY), picture(41, 64, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("compare")
    names = ["image/jpeg", "image/png", "image/blocks"]
    return compare(names, Few(PICTURES[0], "torn.png: cut short", PICTURES[1]), out, title="two <b>pictures</b>")


def rows_of(results, codec):
    with (results.folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["codec"] == codec]


def test_coded_is_the_bytes_of_the_containers(run):
    for name in ("image/jpeg", "image/png", "image/blocks"):
        codec = codecs.load(name)
        rows = rows_of(run, name)
        assert len(rows) == len(codec.settings.sweep)
        for row, setting in zip(rows, codec.settings.sweep, strict=True):
            sizes = [8 * len(codec.compress(p.signal[None], setting)[0]) / p.signal[0].numel() for p in PICTURES]
            assert float(row["coded"]) == pytest.approx(np.mean(sizes), rel=1e-12)
            assert float(row["coded_std"]) == pytest.approx(np.std(sizes, ddof=1), rel=1e-9)
            assert row["n"] == "2"


def test_nominal_and_psnr_of_jpeg_are_those_of_pillow_alone(run):
    codec = codecs.load("image/jpeg")
    for row, setting in zip(rows_of(run, "image/jpeg"), codec.settings.sweep, strict=True):
        rates, psnrs = [], []
        for item in PICTURES:
            pixels = (item.signal * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, **codec.options(setting))
            back = np.asarray(Image.open(io.BytesIO(file.getvalue())))
            rates.append(8 * len(file.getvalue()) / pixels[..., 0].size)
            psnrs.append(10 * math.log10(255**2 / ((back.astype(float) - pixels) ** 2).mean()))
        assert float(row["nominal"]) == pytest.approx(np.mean(rates), rel=1e-12)
        assert float(row["psnr"]) == pytest.approx(np.mean(psnrs), abs=1e-4)


def test_a_toy_codec_needs_no_other_change(run):
    low, high = (r for r in run.records if r.codec == "image/blocks")
    tokens = [13 * 10, 11 * 16]
    pixels = [50 * 37, 41 * 64]
    assert high.rates["nominal"].mean == pytest.approx(
        np.mean([4 * t / p for t, p in zip(tokens, pixels, strict=True)])
    )
    assert high.tokens.mean == np.mean(tokens)
    assert high.bits_per_token["nominal"].mean == pytest.approx(4)
    assert high.rates["entropy"].mean is None  # it has no counts of a training split
    assert (low.codebooks[0].used, low.codebooks[0].tokens) == (2, sum(tokens))
    assert high.idempotence.mean == 1.0
    assert high.metrics["psnr"].mean > low.metrics["psnr"].mean
    assert (high.default, low.default) == (True, False)


def test_lossless_is_perfect_and_not_a_number_in_the_mean(run):
    (record,) = (r for r in run.records if r.codec == "image/png")
    psnr = record.metrics["psnr"]
    assert (psnr.mean, psnr.perfect, psnr.failed) == (None, 2, 0)
    assert float(rows_of(run, "image/png")[0]["psnr"]) == math.inf
    assert [item["psnr"] for item in record.items] == ["inf", "inf"]


def test_what_cannot_be_measured_is_counted_with_its_reason(run):
    for record in run.records:
        summary = record.metrics["ms_ssim"]
        assert (summary.mean, summary.n, summary.failed) == (None, 0, 2)
        assert "160 pixels" in next(iter(summary.reasons))
    assert run.skipped == 1
    absent = {m for m in ("lpips", "rfid") if m in run.absent}
    assert absent.isdisjoint(run.records[0].metrics)


def test_json_holds_everything_and_reads_back(run):
    text = (run.folder / "results.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = Results.read(run.folder)
    assert again.records == run.records
    assert again.protocols["rgb8"].metrics["ssim"].settings["window"] == 11
    assert all(record.protocol in again.protocols for record in again.records)
    assert [item["key"] for item in again.records[0].items] == ["picture0", "picture1"]
    assert again.environment.versions["torch"] == torch.__version__.split("+")[0]


class Links(HTMLParser):
    """Collect every address that a page would load, and every script."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts = [], 0

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for key, value in attributes if key.split(":")[-1] in ("src", "href", "srcset", "poster", "data")
        ]
        self.scripts += tag == "script" and ("type", "application/json") not in attributes


def test_the_report_stands_alone_and_escapes(run):
    html = run.report.read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert len(links.found) > 8
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not re.search(r"https?://|@import", html)
    assert links.scripts == 2  # ours, none of the caption's
    assert "<b>pictures</b>" not in html
    assert html.count('aria-haspopup="dialog"') == 2 * 4  # original and three codecs, twice


def test_plots_and_exhibits_are_files(run):
    for stem in ("image-psnr", "image-ssim"):
        assert (run.folder / "plots" / f"{stem}.png").stat().st_size > 1000
        assert "<svg" in (run.folder / "plots" / f"{stem}.svg").read_text(encoding="utf-8")
    back = codecs.read(run.folder / run.exhibits[0].original)
    assert torch.equal(back, PICTURES[0].signal)


def test_every_setting_is_kept_as_it_was_measured(run):
    for exhibit, item in zip(run.exhibits, PICTURES, strict=True):
        kept = {(tile.codec, tile.setting): tile for tile in exhibit.settings}
        assert len(kept) == len(run.records) - 1  # all but image/png, which has no settings
        for record in run.records[:-1]:
            if record.codec != "image/png":
                tile, row = kept[record.codec, record.setting_text], record.items[run.exhibits.index(exhibit)]
                assert (tile.rate, tile.bytes, tile.figures["psnr"]) == (row["coded"], row["bytes"], row["psnr"])
        output = trial.run(codecs.load("image/blocks"), item, 2).output
        assert torch.equal(
            codecs.read(run.folder / kept["image/blocks", "levels 2"].file), (output * 255).round() / 255
        )


def test_codecs_with_like_names_have_files_of_their_own(tmp_path):
    item, protocol = picture(20, 24), protocols.protocol("rgb8")
    entries = [CodecEntry(label, Blocks()) for label in ("runs/a b", "runs/a-b", "runs/a:b")]
    measured = [CodecMeasurement(entry, 16, protocol, dict.fromkeys(("lpips", "rfid"), "slow")) for entry in entries]
    tiles = [make_tile(0, item, str(i), m, m.attempt(item), tmp_path) for i, m in enumerate(measured)]
    (exhibit,) = make_exhibits(entries, [Example(item, tiles)], tmp_path, rates={Modality.IMAGE: 9.0},
                               anchors={}, protocols={Modality.IMAGE: protocol})  # fmt: skip
    assert len({tile.file for tile in (*exhibit.tiles, *exhibit.settings)}) == 6


def test_exhibits_are_at_equal_rates_or_say_why_not(tmp_path):
    item = picture(120, 100, 3)
    results = compare(["image/jpeg", "image/png", "image/blocks"], Few(item), tmp_path, rate=1.5)
    jpeg, png, blocks = results.exhibits[0].tiles
    assert results.exhibits[0].rate == 1.5
    assert 1.35 <= jpeg.rate <= 1.5 and jpeg.note == ""
    assert png.note == "has one rate only"
    assert blocks.rate < 0.5 and blocks.note == "its nearest setting below"
    low = compare(["image/jpeg"], Few(item), tmp_path, rate=0.001).exhibits[0].tiles[0]
    assert low.note == "cannot go lower" and low.rate > 0.001


def test_a_learned_codec_from_a_folder_sets_the_rate(tmp_path):
    size = {"stride": 8, "patch": 4, "widths": [8, 16], "depths": [1, 1], "decoder_depths": [1, 1]}
    for name in ("one", "two"):
        codecs.save(codecs.build("image/fsq", levels=[8, 5, 4], **size), tmp_path / "runs" / name)
    results = compare(["image/jpeg", f"{tmp_path}/runs/*"], Few(picture(50, 37)), tmp_path / "out")
    one, two = (str(tmp_path / "runs" / name) for name in ("one", "two"))
    assert [r.codec for r in results.records][-2:] == [one, two]
    assert results.records[-1].learned and results.records[-1].parameters > 0
    assert results.records[-1].rates["nominal"].mean == pytest.approx(7 * 5 * math.log2(160) / (50 * 37))
    (exhibit,) = results.exhibits
    assert exhibit.rate_of == one
    assert exhibit.rate == pytest.approx(results.records[-2].rates["coded"].mean)
    assert exhibit.tiles[1].note == ""


def test_failures_are_counted_and_told(tmp_path):
    source = Few(picture(20, 33, 0), picture(20, 24, 1))
    results = compare(["image/jpeg", "image/blocks"], source, tmp_path / "some")
    for record in results.records:
        failed = 1 if record.codec == "image/blocks" else 0
        assert (record.n, record.failed) == (2 - failed, failed)
    assert results.records[-1].reasons == {"RuntimeError: 33 columns are too many": 1}
    nothing = compare(["image/blocks"], Few(picture(20, 33)), tmp_path / "none")
    assert [r.n for r in nothing.records] == [0, 0]
    assert "33 columns" in nothing.report.read_text(encoding="utf-8")
    assert rows_of(nothing, "image/blocks")[0]["coded"] == ""


def test_the_bar_names_the_codec_that_loads(tmp_path, monkeypatch):
    texts, loading, advance, adapt = [], [], progress.Bar.__call__, CodecEntry.adapt

    def recorded(bar, amount=1, text=None):
        advance(bar, amount, text)
        texts.append(bar.text)

    monkeypatch.setattr(progress.Bar, "__call__", recorded)
    monkeypatch.setattr(CodecEntry, "adapt", lambda entry, item: loading.append(texts[-1]) or adapt(entry, item))
    compare(["image/png", "image/webp"], Few(picture(20, 24)), tmp_path)
    assert loading == ["image/png", "image/webp"]


def test_an_interruption_keeps_complete_codecs(tmp_path):
    source = Few(picture(20, 24, 0), picture(20, 34, 1), picture(20, 28, 2))
    results = compare(["image/png", "image/blocks", "image/webp"], source, tmp_path)
    assert results.interrupted and results.pending == ["image/blocks", "image/webp"]
    assert [(r.codec, r.n) for r in results.records] == [("image/png", 3)]
    assert Results.read(tmp_path).pending == results.pending
    assert "partial results (interrupted), image/blocks, image/webp not measured yet" in results.report.read_text()


def test_an_interruption_of_the_first_codec_keeps_its_complete_items(tmp_path):
    results = compare(["image/blocks", "image/png"], Few(picture(20, 24, 0), picture(20, 34, 1)), tmp_path)
    assert results.interrupted and results.seen == 1
    assert [(r.codec, r.n) for r in Results.read(tmp_path).records] == [("image/blocks", 1)] * 2


def test_an_interruption_at_once_leaves_a_report_without_figures(tmp_path):
    results = compare(["image/blocks", "image/png"], Few(picture(20, 34)), tmp_path)
    assert results.interrupted
    assert [r.n for r in Results.read(tmp_path).records] == [0, 0]
    assert results.takeaways == []
    assert results.report.is_file()


def test_settings_are_those_of_the_data_s_rate(tmp_path):
    tone = 0.3 * torch.sin(torch.arange(4000) * 0.3)[None]
    results = compare(["audio/mp3"], Few(Item("tone", Modality.AUDIO, tone, 8000)), tmp_path)
    sweep = codecs.build("audio/mp3", sample_rate=8000, channels=1).settings.sweep
    assert [r.setting for r in results.records] == list(sweep)
    assert [r.n for r in results.records] == [1] * len(sweep)


def test_the_kernel_distance_of_sounds_knows_the_rate_of_each(tmp_path):
    t = torch.arange(1500)
    rates = [8000, 16000] * 4
    items = [
        Item(f"tone{i}", Modality.AUDIO, 0.3 * torch.sin(t * (0.2 + 0.05 * i))[None], rate)
        for i, rate in enumerate(rates)
    ]
    codecs.save(tiny("audio/rvq"), tmp_path / "mine")
    results = compare([str(tmp_path / "mine")], Few(*items), tmp_path)
    lowest = results.records[0]
    done = [trial.run(tiny("audio/rvq"), item, lowest.setting).output for item in items]

    def distance(rates):
        both = [[features.mel_statistics(x, rate) for x, rate in zip(xs, rates, strict=True)]
                for xs in ([item.signal for item in items], done)]  # fmt: skip
        return kernel.kid(*map(torch.stack, both), paired=True)

    assert lowest.metrics["kid"].mean == pytest.approx(distance(rates), rel=1e-6)
    assert distance(rates) != pytest.approx(distance([8000] * 8), rel=1e-2)
    assert (tmp_path / "plots" / "audio-perception.svg").is_file()


def test_few_items_have_no_kernel_distance_and_say_so(run):
    (summary,) = {json.dumps(to_plain(r.metrics["kid"])) for r in run.records}
    assert "2 items; a distance between sets needs 8" in summary and json.loads(summary)["mean"] is None
    html = run.report.read_text(encoding="utf-8")
    assert "KID (block DCT) has no value" in html and 'id="perception"' not in html
    assert not (run.folder / "plots" / "image-perception.svg").exists()


def test_a_distance_below_zero_is_drawn_and_written(tmp_path):
    results = Results(tmp_path, "two codecs")
    about = {
        "psnr": MetricDescription("PSNR", "dB", "higher"),
        "kid": MetricDescription("KID (block DCT)", "", "lower"),
    }
    results.protocols = {"p": ProtocolDescription("p", "image", "", {}, about)}
    for codec, kids in (("a", (300.0, 2.0, -0.01)), ("a+diffusion", (3.0, 0.0, -0.004)), ("b", (None, None, None))):
        for i, kid in enumerate(kids):
            metrics, rates = {"psnr": Summary(20.0 + i), "kid": Summary(kid)}, {"coded": Summary(0.1 * (i + 1))}
            results.records.append(
                Record(codec=codec, modality="image", n=9, protocol="p", setting=i, rate_unit="bpp", metrics=metrics,
                       rates=rates)
            )  # fmt: skip
    chart = plots.perception(results, "image")
    assert [[p.values.get("kid") for p in series.points] for series in chart.series] == [
        [300.0, 2.0, -0.01], [3.0, 0.0, -0.004], [None] * 3,
    ]  # fmt: skip
    assert chart.links == [((0, i), (1, i)) for i in range(3)]
    (axes,) = draw(chart, "psnr", "kid").axes
    links = [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == ":"]
    assert links == [[[20.0, 300.0], [20.0, 3.0]], [[21.0, 2.0], [21.0, 0.0]], [[22.0, -0.01], [22.0, -0.004]]]
    assert [text.get_text() for text in axes.texts] == ["0.1", "0.2", "0.3"] * 2
    assert axes.get_yscale() == "asinh" and axes.yaxis.get_transform().linear_width == 1.0
    results.records[4].metrics["kid"].mean = 1e-12  # a lossless codec, but for rounding
    assert plots.curves(results, "image").axis("kid").linear == charts.NEAR
    assert plots.perception(Results(tmp_path, "none"), "image") is None


def test_sound_is_coded_at_its_own_rate_and_text_exactly(tmp_path):
    t = torch.arange(22050) / 22050
    wave = torch.stack([0.3 * torch.sin(2 * torch.pi * 440 * t), 0.2 * torch.sin(2 * torch.pi * 660 * t)])
    source = Few(Item("chord", Modality.AUDIO, wave, 22050), Item("word", Modality.TEXT, "naïve"))
    results = compare(["audio/flac", "text/bytes"], source, tmp_path)
    flac, text = results.records
    codec = codecs.build("audio/flac", sample_rate=22050, channels=2)
    assert flac.rates["coded"].mean == pytest.approx(8 * len(codec.compress(wave[None])[0]) / 1000)
    assert flac.metrics["mel"].mean < 1e-3
    assert flac.tokens.mean == flac.items[0]["tokens"]  # one second
    assert (text.rates["nominal"].mean, text.metrics["exact"].mean) == (8.0, 1.0)
    assert text.items[0]["tokens"] == 6  # ï has two bytes
    html = results.report.read_text(encoding="utf-8")
    assert html.count("data:audio/flac") == html.count("<audio") == 2
    mono = codecs.build("audio/flac", sample_rate=8000, channels=1)
    back = trial.run(mono, source[0])
    assert back.output.shape == wave.shape  # reduced to 8 kHz mono inside, back at the data's form outside


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codec_names": []}, "codecs is empty"),
        ({"codec_names": ["image/jpeg", "image/jpeg"]}, "'image/jpeg' is listed twice"),
        ({"codec_names": ["image/jpg"]}, "unknown codec 'image/jpg'"),
        ({"codec_names": ["nowhere/*"]}, "matches no folder with a config.yaml or config.json"),
        ({"anchor": "image/webp"}, "unknown anchor 'image/webp'; known: image/png"),
        ({"items": 0}, "items must be an integer of at least 1, got 0"),
        ({"rate": -1}, "rate bits_per_pixel must be a positive number, got -1"),
        ({"rate": {"bpp": 1}}, "the unit of rate must be one of bits_per_pixel, kbps, got 'bpp'"),
        ({"protocols": ["rgb9"]}, "unknown protocol 'rgb9'"),
        ({"protocols": ["rgb8", "luma8"]}, "are both for image"),
        ({"protocols": ["waveform"]}, "has none for image"),
        ({"codec_names": ["text/bytes"]}, "few has no text, which text/bytes would need"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(arguments, message, tmp_path):
    names = arguments.pop("codec_names", ["image/png"])
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        compare(names, Few(picture(8, 8)), tmp_path, **arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_items_are_drawn_by_the_seed():
    source = Few(*(picture(8, 8, i) for i in range(30)))

    def drawn(count, seed):
        return [item.key for item in Selection(source, Modality.IMAGE, count, seed, strict=False)]

    assert drawn(None, 0) == [f"picture{i}" for i in range(30)]
    assert drawn(5, 1) == drawn(5, 1) != drawn(5, 2)
    assert len(set(drawn(5, 1))) == 5
    with pytest.raises(BrokenItem, match="torn"):
        list(Selection(Few("torn"), Modality.IMAGE, None, 0, strict=True))


def test_the_command_composes_and_ends_with_the_report(tmp_path, capsys):
    from hydra import compose, initialize_config_module

    folder = tmp_path / "photos"
    folder.mkdir()
    codecs.write(PICTURES[1].signal, folder / "one.png")
    overrides = ["data=folder", f"data.path={folder}", f"out={tmp_path / 'out'}", "codecs=[image/jpeg,image/webp]"]
    with initialize_config_module("tokenloom.conf", version_base=None):
        cfg = compose("compare", overrides)
    results = compare_command(cfg)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    assert results.title == "photos"
    assert results.takeaways
    assert all(f"• {line}\n" in printed for line in results.takeaways)


def test_a_report_is_made_again_from_its_folder(run):
    before = run.report.read_text(encoding="utf-8")
    again = Results.read(run.folder)
    assert page.write(again).read_text(encoding="utf-8") == before


def test_pictures_of_more_than_8_bits_are_named_as_such(tmp_path):
    """PNG is lossless for 8-bit pictures alone; PSNR compares after rounding, so it is infinite for the other, too."""
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name, pixels in (("deep", deep), ("plain", (deep // 257).astype(np.uint8))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    selection = Selection(open_source("folder", path=str(tmp_path)), Modality.IMAGE, None, 0, False)
    told = r"^folder: 1 of 2 items: .* between the 256 levels; .* rounded to 8 bits, first: deep$"
    with pytest.warns(UserWarning, match=told):
        assert len(list(selection)) == 2
