"""Gallery of a report: what is shown of each setting, how exactly, and within how many bytes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.reports import CODECS, METRICS, SETTINGS, comparison, signal

from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.eval.compare.report import page
from tokenloom.eval.gallery import files, views

ALL = METRICS["image"] | METRICS["audio"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return comparison(tmp_path_factory.mktemp("gallery") / "out", exhibits=2)


def shown(results):
    pictures, sounds = views.views(results.folder, results.exhibits, ALL)
    return pictures, sounds, sum(s.size for v in (*pictures, *sounds) for tile in v.tiles for s in tile.stops)


def test_each_setting_has_a_stop_in_the_order_of_the_rate(results):
    pictures, sounds, _ = shown(results)
    assert len(pictures) == len(sounds) == 2
    for view in (*pictures, *sounds):
        assert [tile.codec for tile in view.tiles] == ["original", *CODECS] and view.left_out == 0
        for tile in view.tiles[1:-1]:
            assert [stop.rate for stop in tile.stops] == [0.25, 0.3, 0.5, 1.0]
            assert (tile.start, tile.first.setting) == (1, "")
            assert [stop.setting for stop in tile.stops] == ["quality 0", "", "quality 1", "quality 2"]
            assert all(stop.uri for stop in tile.stops) and len({stop.uri for stop in tile.stops}) == SETTINGS + 1
        assert view.tiles[-1].first is None  # it failed
    assert pictures[0].tiles[1].first.lines == ["PSNR ∞"] and sounds[0].tiles[1].first.lines == ["Mel distance 0.500"]


def test_a_setting_at_the_equal_rate_has_no_second_stop(results):
    exhibit = results.exhibits[0]
    for record in exhibit.settings[:1]:
        record.rate, record.bytes, kept = 0.3, 9, (record.rate, record.bytes)
        tile = views.views(results.folder, [exhibit], ALL)[0][0].tiles[1]
        record.rate, record.bytes = kept
        assert [stop.rate for stop in tile.stops] == [0.3, 0.5, 1.0]


@pytest.mark.parametrize("budget", [400_000, 30_000])
def test_the_budget_holds_and_the_equal_rates_come_first(results, monkeypatch, budget):
    _, _, everything = shown(results)
    monkeypatch.setattr(views, "BUDGET", budget)
    pictures, sounds, total = shown(results)
    assert total < max(budget, 0.2 * everything)
    assert all(tile.first.uri for view in pictures for tile in view.tiles[:-1])
    assert sum(view.left_out for view in pictures) > 0
    html = page.write(results).read_text(encoding="utf-8")
    assert f"{sum(v.left_out for v in pictures)} pictures of other settings do not fit here" in html
    if budget == 30_000:
        assert len(sounds) == 1 and pictures[0].cropped and "cropped to their center" in html


def test_small_pictures_are_exact_and_large_ones_say_how_near_they_are(tmp_path):
    (tmp_path / "exhibits").mkdir()
    for size, exact in ((64, True), (150, False)):
        x = signal("image", size, 0)
        path, psnr = files.save_for_display(x, Item("x", Modality.IMAGE, x, None), tmp_path, str(size))
        with Image.open(tmp_path / path) as image:
            back = np.asarray(image.convert("RGB"), float)
        error = np.square(back - np.asarray(files.to_image(x), float)).mean()
        assert (psnr is None) == exact == (error == 0)
        assert exact or (psnr == pytest.approx(10 * np.log10(255**2 / error)) and psnr > 34)


def test_large_pictures_keep_their_pixels(tmp_path):
    image = files.to_image(torch.rand(3, 20, 1000, generator=torch.Generator().manual_seed(0)))
    part = files.crop(image)
    assert part.size == (files.SIDE, 20)
    assert part.getpixel((0, 7)) == image.getpixel(((1000 - files.SIDE) // 2, 7))
    data, psnr = files.encode(part, exact=True)
    assert psnr is None and files.suffix(data) == ".webp"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), np.asarray(part))


def test_sounds_are_exact_and_cut(tmp_path):
    (tmp_path / "exhibits").mkdir()
    x = (torch.rand(1, 8000 * 7, generator=torch.Generator().manual_seed(0)) * 2**15).round() / 2**16
    path, psnr = files.save_for_display(x, Item("x", Modality.AUDIO, x, 8000), tmp_path, "x")
    back = files.media.read(tmp_path / path)
    assert psnr is None and back.shape == (1, 8000 * files.SECONDS)
    assert torch.allclose(back, x[:, : back.shape[1]], atol=2**-15)
