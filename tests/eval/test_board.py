"""The board: what merges and what is refused, fronts and recommendations by hand, and a page that trusts no file."""

from __future__ import annotations

import copy
import csv
import json
import math
import random
import re
from pathlib import Path

import pytest
from support.cli import refuse, succeed
from support.reports import ODD, Page, on_a_phone

from tokenloom import codecs
from tokenloom.eval import board as boards
from tokenloom.eval import pareto
from tokenloom.eval.board.loading import load
from tokenloom.eval.board.merging import merge
from tokenloom.eval.board.recommendation import reachable, recommend
from tokenloom.eval.compare.records import KINDS, ModelledRecord, Record, Timing
from tokenloom.eval.compare.results import Results
from tokenloom.eval.metric import ItemValues, MetricDescription, ProtocolDescription, Summary

METRICS = {
    "image": {"psnr": MetricDescription("PSNR", "dB", "higher"), "lpips": MetricDescription("LPIPS", "", "lower")},
    "audio": {"mel": MetricDescription("Mel distance", "", "lower")},
    "text": {"exact": MetricDescription("Exact round trips", "", "higher")},
}
UNITS = {
    "image": ("bpp", "megapixels per second"),
    "audio": ("kbit/s", "seconds of audio per second"),
    "text": ("bits per byte", "megabytes per second"),
}


def record(codec, rate, metrics, *, modality="image", setting=1, title="photographs", modelled=None, **more):
    """Return a record whose items have the given values of each metric."""
    values = {name: list(found) for name, found in metrics.items()}
    count = len(next(iter(values.values())))
    rates = {kind: Summary() for kind in KINDS} | {"coded": Summary(rate), "nominal": Summary(rate / 2)}
    rows = [
        {"key": f"item{i}", "digest": f"{i:016x}", "coded": rate, **{name: found[i] for name, found in values.items()}}
        for i in range(count)
    ]
    if modelled is not None:
        rates["modelled"] = Summary(modelled)
        more["modelled"] = ModelledRecord(where="elsewhere", tokens_seen=1000)
    return Record(
        codec=codec, modality=modality, set=title, n=count, protocol=f"{modality}-v1", setting_name="quality",
        setting=setting, rate_unit=UNITS[modality][0], rates=rates, bits_per_token=dict.fromkeys(KINDS, Summary(8.0)),
        metrics={name: ItemValues(found).summary() for name, found in values.items()}, items=rows,
        time=Timing(encode_speed=2.0, decode_speed=3.0, speed_unit=UNITS[modality][1], device="cpu (Z80)"), **more,
    )  # fmt: skip


def write(folder: Path, *records: Record, date="2026-11-30 08:00 UTC", metrics=METRICS) -> Path:
    """Write results.json with these records and return its folder."""
    folder.mkdir()
    results = Results(folder, "hand-made", list(records))
    for modality in dict.fromkeys(r.modality for r in records):
        name = f"{modality}-v1"
        results.protocols[name] = ProtocolDescription(name, modality, "by hand", {"range": "[0, 1]"}, metrics[modality])
    results.environment.date = date
    results.write()
    return folder


@pytest.fixture
def two(tmp_path) -> list[Path]:
    """Return two folders that measure the same photographs, and one codec at the same setting."""
    jpeg = record("image/jpeg", 0.2, {"psnr": [24.0, 26.0], "lpips": [0.4, 0.3]})
    first = write(tmp_path / "first", jpeg, record("image/avif", 0.1, {"psnr": [25.0, 27.0], "lpips": [0.3, 0.2]}))
    mine = record("mine", 0.09, {"psnr": [25.5, 27.0], "lpips": [0.2, 0.2]}, learned=True, license="CC-BY-4.0")
    return [first, write(tmp_path / "second", jpeg, mine, date="2026-12-01 08:00 UTC")]


# -- fronts and recommendations ---------------------------------------------------------------------


def test_the_front_is_that_of_a_hand_made_example():
    points = [(0.4, 30.0), (0.1, 20.0), (0.2, 20.0), (0.3, 28.0), (0.3, 27.0), (0.5, 29.0), (0.1, 19.0)]
    assert pareto.front(points, higher=True) == [1, 3, 0]
    assert pareto.front(points, higher=False) == [6]
    assert pareto.front([(0.2, 5.0), (0.1, 5.0), (0.1, 5.0)], higher=True) == [1, 2]
    assert pareto.front([(0.1, None), (None, 9.0), (0.3, 1.0), (0.4, math.inf)], higher=True) == [2, 3]
    assert pareto.front([], higher=True) == []


def test_every_point_off_the_front_is_beaten_by_one_on_it():
    rng = random.Random(0)
    points = [(rng.choice([0.1, 0.2, 0.3, 0.4]), rng.choice([1.0, 2.0, 3.0, 4.0])) for _ in range(12)]

    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    slow = {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert set(pareto.front(points, higher=True)) == slow


def test_a_recommendation_has_the_interval_of_the_paired_difference(tmp_path):
    """The differences are 1, 2 and 3: their mean is 2, and t(2) · 1 / √3 = 4.302653 / 1.732051 = 2.484138."""
    better = record("better", 0.09, {"psnr": [31.0, 22.0, 43.0]})
    next_one = record("next", 0.1, {"psnr": [30.0, 20.0, 40.0]})
    cheap = record("next", 0.05, {"psnr": [10.0, 1.0, 22.0]}, setting=0)
    dear = record("better", 0.11, {"psnr": [90.0, 90.0, 90.0]}, setting=2)
    (merged,) = merge(load([write(tmp_path / "a", better, next_one, cheap, dear)]))
    found = recommend(merged.results, merged.records, "psnr", 0.1)
    assert [(p.codec, p.setting, p.rate) for p in found.picks] == [
        ("better", "quality 1", 0.09), ("next", "quality 1", 0.1),
    ]  # fmt: skip
    assert found.picks[1].gap == pytest.approx(2.0) and found.picks[1].ci95 == pytest.approx(2.484138, abs=1e-6)
    assert [p.codec for p in found.best] == ["better", "next"]  # 2 lies inside 2.48: a tie
    assert [p.codec for p in recommend(merged.results, merged.records, "psnr", 0.09).best] == ["better"]
    assert recommend(merged.results, merged.records, "psnr", 0.04).best == []


def test_a_lower_value_is_better_where_the_metric_says_so_and_lossless_is_best(tmp_path):
    near = record("near", 0.1, {"psnr": [20.0, 20.0], "lpips": [0.1, 0.2]})
    exact = record("exact", 0.1, {"psnr": [math.inf, math.inf], "lpips": [0.3, 0.5]})
    for row in exact.items:
        row["psnr"] = "inf"
    folder = write(tmp_path / "a", near, exact)
    (merged,) = merge(load([folder]))
    lpips, psnr = (recommend(merged.results, merged.records, name, 0.25) for name in ("lpips", "psnr"))
    assert [p.codec for p in lpips.picks] == ["near", "exact"] and lpips.picks[1].gap == pytest.approx(0.25)
    assert [(p.codec, p.gap) for p in psnr.picks] == [("exact", 0.0), ("near", math.inf)]
    assert [p.codec for p in psnr.best] == ["exact"]
    boards.make([folder], tmp_path / "board.html", figures=False)
    assert (
        '"value": "inf"' in (tmp_path / "board.json").read_text()
        and "<small>lossless</small>" in (tmp_path / "board.html").read_text()
    )


# -- what merges ----------------------------------------------------------------------------------


def test_two_real_runs_become_one_board(tmp_path, capsys):
    pytest.importorskip("skimage")
    for name, chosen in (("a", "image/jpeg,image/webp"), ("b", "image/webp,emoji-fsq")):
        succeed(capsys, "compare", "data=images", "items=2", f"codecs=[{chosen}]", f"out={tmp_path / name}")
    output = tmp_path / "board.html"
    said = succeed(capsys, "board", str(tmp_path / "a"), str(tmp_path / "b" / "results.json"), "-o", str(output))
    merged = {r.codec: r for folder in ("a", "b") for r in Results.read(tmp_path / folder).records}
    assert "3 codecs" in said and said.splitlines()[-1] == f"{output}: 1 sets of 2 results files"

    found = json.loads((tmp_path / "board.json").read_text(encoding="utf-8"))
    (photographs,) = found["sets"]
    assert (photographs["modality"], photographs["protocol"], photographs["items"]) == ("image", "rgb8", 2)
    rows = {(row["codec"], row["setting"]): row for row in photographs["rows"]}
    assert len(rows) == len(photographs["rows"]) == 17 and {codec for codec, _ in rows} == set(merged)
    fsq = rows["emoji-fsq", None]
    assert fsq["license"] == codecs.load("emoji-fsq").license and "license" not in rows["image/jpeg", 28]
    assert fsq["rates"]["coded"]["mean"] == merged["emoji-fsq"].rate() and fsq["run"] == 1
    assert [r["metric"] for r in photographs["recommendations"]].count("psnr") == 2

    with (tmp_path / "board.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 17 and {row["file"] for row in table} == {run["file"] for run in found["runs"]}
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert f"board-{photographs['title']}-image-psnr.svg" in drawn
    assert refuse(capsys, "board", str(tmp_path / "a"), "-o", str(output)).startswith(f"{output} exists; replace it")


def test_a_codec_that_both_measured_is_merged_with_the_times_of_the_newer_file(two):
    later = json.loads((two[1] / "results.json").read_text())
    jpeg = later["records"][0]
    jpeg["metrics"]["psnr"]["mean"] *= 1 + 1e-5  # another processor
    jpeg["time"]["encode_speed"] = 7.0
    del jpeg["metrics"]["lpips"]
    for row in jpeg["items"]:
        del row["lpips"]
    (two[1] / "results.json").write_text(json.dumps(later))
    for order in (two, two[::-1]):
        (merged,) = merge(load(order))
        held = {r.codec: (r, run) for r, run in zip(merged.records, merged.runs, strict=True)}
        both, run = held["image/jpeg"]
        assert len(merged.records) == 3 and both.time.encode_speed == 7.0 and run == order.index(two[1])
        assert both.value("lpips") == pytest.approx(0.35) and [row["lpips"] for row in both.items] == [0.4, 0.3]


@pytest.mark.parametrize(("shift", "same"), [(0.5e-3, True), (2e-3, False)])
def test_a_figure_near_zero_may_differ_by_a_share_of_its_spread(tmp_path, shift, same):
    """The values −1 and 1 have the mean 0 and the standard deviation √2."""
    folders = []
    for name, by in (("a", 0.0), ("b", shift)):
        folders.append(write(tmp_path / name, record("mine", 0.1, {"psnr": [-1.0 + by, 1.0 + by]})))
    if same:
        assert len(merge(load(folders))[0].records) == 1
    else:
        with pytest.raises(ValueError, match=r"mine at quality 1 has psnr 0.002 on photographs, in .* 0; leave"):
            merge(load(folders))


def test_sets_and_modalities_stay_apart(two, tmp_path):
    speech = [record("audio/opus", r, {"mel": [m, m]}, modality="audio", title="speech", setting=i)
              for i, (r, m) in enumerate([(2.9, 0.5), (5.0, 0.4), (11.0, 0.3)])]  # fmt: skip
    words = record("text/bytes", 8.0, {"exact": [1.0]}, modality="text", title="words")
    other = write(tmp_path / "third", *speech, words)
    board = boards.make([*two, other, two[0] / "results.json"], tmp_path / "b.html", title="All", figures=False)
    assert [(s.title, s.modality, len(s.rows)) for s in board.sets] == [
        ("photographs", "image", 3), ("speech", "audio", 3), ("words", "text", 1),
    ]  # fmt: skip
    assert len(board.runs) == 3  # a file that is named twice is read once
    limits = [(r.limit, r.picks[0].setting) for r in board.sets[1].recommendations]
    assert limits == [(3.0, "quality 0"), (6.0, "quality 1"), (12.0, "quality 2")]
    assert board.sets[2].recommendations == []
    assert reachable((3, 6, 12), [13.1, 40]) == [24, 48, 96] and reachable((3, 6, 12), [11]) == [3, 6, 12]
    front = {row.codec: row.front for row in board.sets[0].rows}
    assert front == {"mine": ["psnr", "lpips"], "image/avif": [], "image/jpeg": []}


def test_learnability_is_the_modelled_share_and_unequal_budgets_are_told(tmp_path):
    a = record("a", 0.2, {"psnr": [20.0, 21.0]}, modelled=0.08)
    b = record("b", 0.2, {"psnr": [20.0, 21.0]}, modelled=0.05)
    b.modelled.tokens_seen = 500
    b.rates["entropy"] = Summary(0.0625)
    board = boards.make([write(tmp_path / "x", a, b)], tmp_path / "b.html", figures=False)
    shares = [row.learnability for row in board.sets[0].rows]
    assert shares == [pytest.approx({"nominal": 0.8}), pytest.approx({"nominal": 0.5, "entropy": 0.8})]
    assert "50% (80% of the entropy)" in (tmp_path / "b.html").read_text(encoding="utf-8")
    assert any("500 to 1,000 tokens" in line for line in board.sets[0].problems)


# -- what is refused ------------------------------------------------------------------------------


def changed(folder: Path, change) -> None:
    """Apply a function to the content of results.json."""
    path = folder / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def of_all(key, value):
    def change(content):
        for one in content["records"]:
            one[key] = value

    return change


def rename_protocol(content):
    content["protocols"]["float"] = content["protocols"].pop("image-v1")
    of_all("protocol", "float")(content)


def fewer_items(content):
    for one in content["records"]:
        one["items"].pop()
        one["n"] = 1
        for summary in one["metrics"].values():
            summary["n"] = 1


REFUSED = {
    "the protocol": (rename_protocol, "it measures photographs with protocol float, {first} with image-v1"),
    "the definition of the protocol": (
        lambda content: content["protocols"]["image-v1"]["common"].update(range="[0, 255]"),
        "its protocol image-v1 differs from that of {first}"),
    "the definition of a metric": (
        lambda content: content["protocols"]["image-v1"]["metrics"]["psnr"]["settings"].update(space="Y"),
        "its protocol image-v1 defines PSNR otherwise than {first}"),
    "the number of items": (fewer_items, "the items of photographs differ from those of {first}, 1 of them against 2"),
    "the items": (lambda content: content["records"][1]["items"][1].update(key="other"), "it has 'other'"),
    "the signals": (lambda content: content["records"][1]["items"][1].update(digest="f"), "'item1' has another signal"),
    "a figure": (
        lambda content: content["records"][0]["metrics"]["psnr"].update(mean=25.5),
        "image/jpeg at quality 1 has psnr 25.5 on photographs, in {first} 25; leave one of the files out"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_do_not_fit_are_refused_by_name(two, what, capsys):
    change, line = REFUSED[what]
    changed(two[1], change)
    first, second = (str(folder / "results.json") for folder in two)
    said = refuse(capsys, "board", *map(str, two), "-o", str(two[0].parent / "board.html"))
    assert said.startswith(f"{second} cannot be merged: ") and line.format(first=first) in said
    assert not (two[0].parent / "board.html").exists()


def test_files_without_hashes_are_compared_by_the_sizes_of_their_items(two):
    for folder in two:
        changed(folder, lambda content: [row.pop("digest") for one in content["records"] for row in one["items"]])
        changed(folder, lambda content: [row.update(bytes=100) for one in content["records"] for row in one["items"]])
    with pytest.raises(ValueError, match="'item0' has another size"):  # equal bytes at other rates
        merge(load(two))


MISTAKES = [
    (["first", "-o", "no/board.html"], "there is no folder no"),
    (["first", "-f", "-o", "first/results.html"], "results.json is merged into the board; name another output"),
    (["first", "speech=1"], "there is no file speech=1"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[line for _, line in MISTAKES])
def test_mistakes_are_one_line(two, monkeypatch, capsys, words, line):
    monkeypatch.chdir(two[0].parent)
    assert line in refuse(capsys, "board", *words)


# -- files of strangers ---------------------------------------------------------------------------

STRANGE = {
    "not JSON": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "NaN": lambda text: text.replace("0.2", "NaN", 1),
    "a huge number": lambda text: text.replace("0.2", "1e999", 1),
    "a huge integer": lambda text: text.replace('"n": 2', '"n": ' + "9" * 5000, 1),
    "a count that would fill the memory": lambda text: text.replace('"failed": 0', '"failed": 900000000000', 1),
    "a null": lambda text: text.replace('"codec": "image/jpeg"', '"codec": null', 1),
    "no codec": lambda text: text.replace('"codec": "image/jpeg",', "", 1),
    "a long name": lambda text: text.replace("image/jpeg", "x" * 1000, 1),
    "an unknown field": lambda text: text.replace('"codec"', '"codex": 1, "codec"', 1),
    "an unknown modality": lambda text: text.replace('"modality": "image"', '"modality": "smell"', 1),
    "an unknown metric": lambda text: text.replace('"metrics": {\n    "psnr"', '"metrics": {\n    "fame"', 1),
    "another unit": lambda text: text.replace('"bpp"', '"bits"', 1),
    "a setting twice": lambda text: text.replace('"image/avif"', '"image/jpeg"', 1),
    "a spread below 0": lambda text: text.replace('"ci95": ', '"ci95": -', 1).replace("-null", "-1.0", 1),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_file_is_refused_in_one_line(two, what, capsys):
    path = two[0] / "results.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(STRANGE[what](text), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    said = refuse(capsys, "board", *map(str, two), "-o", str(two[0].parent / "board.html"))
    assert str(path) in said and len(said) < 400


def test_edits_at_random_end_in_a_board_or_in_one_line(two, tmp_path):
    """Each edit replaces a value anywhere in the file by one of another kind, or removes it."""
    content = json.loads((two[0] / "results.json").read_text(encoding="utf-8"))
    values = [None, True, -1, 0, 10**15, -1e99, 1e-300, 1e99, "", "x", "\ud800", ODD, [], [1], {}, {"key": {}}]
    rng, ended = random.Random(17), {"made": 0, "refused": 0}
    for _ in range(120):
        strange = copy.deepcopy(content)
        for _ in range(rng.choice([1, 1, 3])):
            place = strange
            while True:
                keys = list(place) if isinstance(place, dict) else range(len(place))
                key = rng.choice(list(keys))
                if not (isinstance(place[key], dict | list) and place[key]) or rng.random() < 0.15:
                    break
                place = place[key]
            if rng.random() < 0.2:
                del place[key]
            else:
                place[key] = rng.choice(values)
            if not strange:
                break
        (two[0] / "results.json").write_text(json.dumps(strange), encoding="utf-8")
        try:
            boards.make(two, tmp_path / "board.html", figures=rng.random() < 0.05)
            ended["made"] += 1
        except ValueError as error:
            assert "\n" not in str(error) and str(two[0]) in str(error)
            ended["refused"] += 1
    assert min(ended.values()) > 10, ended


# -- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    rows = [record(codec, 0.05 * 2**i, {"psnr": [20.0 + 3 * i + k, 22.0 + 3 * i], "lpips": [0.4 - 0.1 * i, 0.3]},
                   setting=i, title=ODD, learned=k == 0, license=ODD if k == 0 else None, modelled=0.01)
            for k, codec in enumerate(("<script>alert(1)</script>", "image/jpeg")) for i in range(3)]  # fmt: skip
    speech = record(ODD, 3.0, {"mel": [0.5, 0.6]}, modality="audio", title="speech")
    boards.make([write(folder / "a", *rows, speech)], folder / "board.html", title=f"title {ODD}", figures=False)
    return (folder / "board.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_and_no_name_becomes_a_tag(html):
    page = Page(html)
    addresses = [value for _, attributes, _ in page.elements for key, value in attributes.items()
                 if key.split(":")[-1] in ("src", "href", "srcset", "poster", "action")]  # fmt: skip
    assert addresses and all(address.startswith("#") for address in addresses)
    assert not re.search(r"https?://|@import|url\((?![\"'`]?\$)", html)
    assert [a for a, _ in page.all("script")].count({}) == 2
    assert all(a in ({}, {"type": "application/json"}) for a, _ in page.all("script"))
    assert not any(key.startswith("on") for _, attributes, _ in page.elements for key in attributes)
    assert any(text.startswith("<script>alert(1)</script>") for _, text in page.all("th"))
    assert page.all("h1")[0][1] == f"title {ODD}"


def test_everything_has_a_name(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a, _ in page.all("a")} <= set(ids)
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(a["scope"] in ("col", "row") for a, _ in page.all("th"))
    scrolls = [a for a, _ in page.all("div") if "scroll" in a.get("class", "").split()]
    assert scrolls and all((a["tabindex"], a["role"]) == ("0", "region") and a["aria-label"] for a in scrolls)
    assert all(a["aria-label"] for a, _ in page.all("input") if a["type"] == "search")
    assert all(text for _, text in page.all("label")) and all(text for _, text in page.all("legend"))
    stars = [text for a, text in page.all("span") if a.get("class") == "star"]
    assert stars and all(text.endswith("on the Pareto front:") for text in stars)


def test_the_chart_has_the_front(html):
    data = next(json.loads(text) for a, text in Page(html).all("script") if '"fronts"' in text)
    front = next(f for f in data["fronts"] if (f["x"], f["y"]) == ("coded", "psnr"))
    assert front["points"] == [[1, 0], [1, 1], [1, 2]]  # image/jpeg is a half decibel better at each rate


DRIVER = """
const done = {}, $ = (selector) => document.querySelector(selector), all = (s) => [...document.querySelectorAll(s)];
const set = (name, value) => {
  const field = $(`#set-0 .filters [name="${name}"]`);
  if (field.type === "checkbox") field.checked = value; else field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
const shown = () => all("#set-0 .sortable tbody tr").filter((row) => !row.hidden).length;
addEventListener("error", (event) => { done.error = event.message; });
addEventListener("load", () => setTimeout(() => {
  done.width = [innerWidth, document.documentElement.scrollWidth];
  done.counts = [shown()];
  for (const [name, value, off] of [["text", "jpeg 1", ""], ["kind", "learned", ""], ["license", "none stated", ""],
    ["least", "0.1", ""], ["most", "0.1", ""], ["front", true, false]]) {
    set(name, value);
    done.counts.push(shown());
    if (name === "most") done.said = $("#set-0 .filters output").textContent;
    set(name, off);
  }
  const head = all("#set-0 .sortable th button").find((button) => button.textContent.startsWith("coded rate"));
  head.click();
  head.click();
  done.sorted = [head.parentElement.getAttribute("aria-sort"), $("#set-0 .sortable tbody tr").cells[2].textContent];
  done.front = all("#set-0-curves .plot path.front").length;
  const plot = $("#set-0-curves .plot");
  const key = (name) => plot.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  key("ArrowRight");
  done.first = $("#set-0-curves .tip").textContent;
  key("ArrowDown");
  done.second = $("#set-0-curves .tip").textContent;
  parent.postMessage(JSON.stringify(done), "*");
}, 100));
"""


def test_a_browser_filters_and_sorts_on_a_phone(html, tmp_path):
    found = on_a_phone(html, DRIVER, tmp_path)
    assert "error" not in found and found["width"] == [360, 360]
    assert found["counts"] == [6, 1, 3, 3, 4, 4, 6] and found["said"] == "4 of 6 rows"
    assert found["sorted"] == ["descending", "0.200"] and found["front"] == 1
    assert "on the Pareto front" not in found["first"] and "on the Pareto front" in found["second"]


def test_a_board_in_python_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="a board needs results: name folders of tokenloom compare"):
        boards.make([], tmp_path / "board.html")
