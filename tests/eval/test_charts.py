"""Charts: styles that differ without color, axes, and the drawing for papers."""

import itertools
import re

import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from support.tree import ROOT

from tokenloom.eval import charts
from tokenloom.eval.charts import Axis, Chart, Point, Series, styles
from tokenloom.eval.drawing import SYMBOLS, draw, save

NAMES = ["image/jpeg", "$\\alpha_1$ & $x", "_日本", "<script>alert(1)</script>", "a long name " * 12]


@pytest.fixture(scope="module")
def crowd():
    """Chart of curves that lie on each other."""
    x = [Axis("psnr", "PSNR", "dB", "higher is better"), Axis("mel", "mel", reversed=True)]
    y = [charts.distance_axis("kid", "KID", [30.0, 0.2, -0.1]), Axis("ssim", "SSIM")]
    series = [
        Series(name, [Point("", {"psnr": 20.0 + i + 0.02 * s, "mel": 1.0, "kid": 30 / 3**i - 0.1, "ssim": 0.5,
                                 "bpp": 0.1234 * 2**i}, {"kid": 0.1}) for i in range(6)], style)
        for s, (name, style) in enumerate(styles(NAMES).items())
    ]  # fmt: skip
    links = [((0, i), (1, i)) for i in range(6)]
    return Chart("crowd $x$", x, y, series, label=Axis("bpp", "coded rate", "bpp"), links=links)


def test_seventy_series_differ_and_neighbors_differ_without_color():
    every = list(styles(map(str, range(70))).values())
    assert len({(s.color, s.marker) for s in every}) == 70
    for a, b in itertools.pairwise(every):
        assert a.marker != b.marker and a.dash != b.dash
    assert set(SYMBOLS) == set(charts.MARKERS)
    assert styles(["b", "a", "b"]) == dict(zip("ba", every, strict=False))


def test_the_axis_of_a_distance_is_linear_below_the_smallest_positive_value():
    assert charts.distance_axis("kid", "KID", [300.0, 2.0, -0.01, None]).linear == 1.0
    assert charts.distance_axis("kid", "KID", [5.0, 1e-12]).linear == charts.NEAR
    assert charts.distance_axis("kid", "KID", [-1.0, None, float("inf")]).linear == charts.NEAR


def test_labels_of_a_crowd_never_touch(crowd):
    figure = draw(crowd, "psnr", "kid")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 5 < len(boxes) <= 30
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    spots = axes.transData.transform([(p.values["psnr"], p.values["kid"]) for s in crowd.series for p in s.points])
    assert not any(box.contains(*spot) for box in boxes for spot in spots)
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)
    legend = figure.legends[0].get_window_extent()
    assert not legend.overlaps(axes.get_tightbbox()) and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


def test_names_are_drawn_as_they_are(crowd, tmp_path):
    figure = draw(crowd, "psnr", "kid", "ssim")
    texts = figure.legends[0].get_texts()
    assert [text.get_text() for text in texts[:4]] == NAMES[:4]
    assert texts[4].get_text().replace("\n", " ") == NAMES[4].strip()
    assert not any(text.get_parse_math() for text in texts)
    save(figure, tmp_path / "plots" / "a.b")  # a formula that does not parse would raise an error here
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"a.b.png", "a.b.svg"}


def test_papers_and_pages_have_the_same_styles(crowd):
    lines = [line for line in draw(crowd, "mel", "kid").axes[0].lines if line.get_marker() != "None"]
    for line, series in zip(lines, crowd.series, strict=True):
        assert isinstance(line, Line2D) and to_hex(line.get_color()) == series.style.color
        assert line.get_marker() == SYMBOLS[series.style.marker]
        assert line.is_dashed() == bool(series.style.dash)


def test_no_plot_changes_the_backend_of_its_caller():
    for path in (ROOT / "eval").rglob("*.py"):
        assert not re.search(r"pyplot|matplotlib\.use|rcParams", path.read_text(encoding="utf-8")), path
