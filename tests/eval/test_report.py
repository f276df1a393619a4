"""The page of a report: accessible without a mouse and without colors, and alone on a machine without a network."""

import json
import re

import pytest
from support.reports import CODECS, ODD, SETTINGS, Page, comparison, on_a_phone

from tokenloom.eval.charts import COLORS
from tokenloom.eval.compare.report import page as report
from tokenloom.eval.render import FOLDER

CSS = (FOLDER / "report.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return comparison(tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def page(results):
    return Page(report.write(results).read_text(encoding="utf-8"))


# -- without a browser -----------------------------------------------------------------------------


def test_nothing_is_loaded_and_no_name_becomes_a_tag(results, page):
    html = results.report.read_text(encoding="utf-8")
    addresses = [value for _, attributes, _ in page.elements for key, value in attributes.items()
                 if key.split(":")[-1] in ("src", "href", "srcset", "poster", "action")]  # fmt: skip
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|@import|url\((?![\"'`]?\$)", html)
    scripts = [attributes for attributes, _ in page.all("script")]
    assert scripts.count({}) == 2 and all(s in ({}, {"type": "application/json"}) for s in scripts)
    assert not any(key.startswith("on") for _, attributes, _ in page.elements for key in attributes)
    assert any(text == ODD for _, text in page.all("span")) and f"odd {ODD}" in page.all("b")[0][1]


def test_the_page_has_its_landmarks_and_unique_ids(page):
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for attributes, _ in page.all("a")]
    assert links[0] == "main" and set(links) <= set(ids)
    assert page.all("html")[0][0]["lang"] == "en" and ODD in page.all("title")[0][1]
    assert all(len(page.all(tag)) == 1 for tag in ("header", "nav", "main", "footer", "h1"))
    assert page.all("nav")[0][0]["aria-label"]


def test_everything_has_a_name_that_says_what_it_is(page):
    for tag in ("audio", "select", "section", "dialog"):
        for attributes, _ in page.all(tag):
            assert attributes.get("aria-label") or attributes.get("aria-labelledby") or tag == "section", attributes
    pictures = page.all("img")
    assert all("alt" in attributes for attributes, _ in pictures)
    assert all(a["alt"] for a, _ in pictures if a.get("class") not in ("left", "right"))  # of the viewer, empty yet
    assert all(text or a.get("aria-label") or "frame" in a["class"].split() for a, text in page.all("button"))
    for attributes, _ in page.all("input"):
        if attributes["type"] in ("range", "search"):
            assert attributes["aria-label"]
    choices = sum(attributes["type"] in ("radio", "checkbox") for attributes, _ in page.all("input"))
    assert choices == len(page.all("label")) and all(text for _, text in page.all("label"))
    assert all(text for _, text in page.all("legend"))
    players = [attributes["aria-label"] for attributes, _ in page.all("audio")]
    assert players == [f"original, {ODD}", *(f"{codec}, 0.300 kbit/s, {ODD}" for codec in CODECS[:3])]


def test_tables_have_captions_scopes_and_sort_by_buttons(page):
    assert len(page.all("table")) == len(page.all("caption")) == 3
    assert all(attributes["scope"] in ("col", "row") for attributes, _ in page.all("th"))
    sortable = [text for attributes, text in page.all("th") if attributes.get("aria-sort") == "none"]
    assert sortable and all(any(text == label for _, label in page.all("button")) for text in sortable)
    scrolls = [attributes for attributes, _ in page.all("div") if "scroll" in attributes.get("class", "").split()]
    assert len(scrolls) == 3
    assert all((a["tabindex"], a["role"]) == ("0", "region") and a["aria-label"] for a in scrolls)


def test_charts_hold_the_values_of_the_results(results, page):
    charts = {a["id"]: a for a, _ in page.all("figure") if "chart" in a.get("class", "").split()}
    assert list(charts) == ["image-curves", "audio-curves", "image-perception"]
    data = [json.loads(text) for a, text in page.all("script") if text.startswith("{")]
    plain = json.loads(json.dumps([chart for chart in data if "series" in chart]))
    for modality, chart in zip(("image", "audio"), plain, strict=False):
        assert [axis["name"] for axis in chart["x"]] == ["coded", "nominal"]
        for series in chart["series"]:
            mine = [r for r in results.records if (r.codec, r.modality) == (series["name"], modality)]
            assert len(mine) == len(series["points"]) == SETTINGS
            for record, point in zip(mine, series["points"], strict=True):
                means = {name: s.mean for name, s in (record.metrics | record.rates).items() if s.mean is not None}
                assert point["values"] == means
                assert point["ci"] == {name: s.ci95 for name, s in record.metrics.items() if s.ci95}
    lossless = plain[0]["series"][-1]
    assert lossless["perfect"] == ["psnr"] and "psnr" not in lossless["points"][0]["values"]
    fronts = {(front["x"], front["y"]): front["points"] for front in plain[0]["fronts"]}
    assert fronts["coded", "lpips"] == [[len(CODECS) - 1, i] for i in range(SETTINGS)]
    assert ("coded", "psnr") not in fronts  # the lossless codec is cheaper than all others, and has no place
    stars = [attributes for attributes, _ in page.all("span") if attributes.get("class") == "star"]
    assert len(stars) == 3 * SETTINGS + 2  # LPIPS, KID and mel fall with the rate, PSNR and SI-SDR do, too
    assert plain[2]["links"] == [[[0, i], [1, i]] for i in range(SETTINGS)]
    assert plain[2]["x"][0]["name"] == "psnr" and plain[2]["x"][1]["reversed"]


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_a_contrast_of_at_least_4_5(scheme):
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme == "dark"]))
    used = set(re.findall(r"[^-]color: (.+?)[;}]", CSS)) | set(re.findall(r"text \{ fill: (.+?);", CSS))
    texts = {match[1] for value in used if (match := re.fullmatch(r"var\(--(\w+)\)", value))}
    assert used - {f"var(--{name})" for name in texts} <= {"inherit", "light dark", "currentColor"}
    assert {"ink", "soft", "accent", "good", "bad", "warn"} == texts
    for ground in ("paper", "card"):
        for name in texts:
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for color in COLORS:  # marks and lines, not text
            assert contrast(color, colors[ground]) >= 3 or ground == "paper", color


def test_motion_and_paper_are_cared_for():
    assert "prefers-reduced-motion: reduce" in CSS and "@media print" in CSS and ":focus-visible" in CSS
    assert "@media screen and (prefers-color-scheme: dark)" in CSS  # paper is white


# -- in a browser ----------------------------------------------------------------------------------

DRIVER = """
const done = {}, $ = (selector) => document.querySelector(selector), all = (s) => [...document.querySelectorAll(s)];
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
addEventListener("error", (event) => { done.error = event.message; });
addEventListener("load", () => setTimeout(() => {
  done.width = [innerWidth, document.documentElement.scrollWidth];
  done.marks = all("#image-curves .plot use").length;
  const boxes = all("#image-perception .plot text").map((text) => text.getBoundingClientRect());
  done.labels = boxes.length;
  const touch = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom - 4 && a.bottom > b.top + 4;
  done.touching = boxes.some((a, i) => boxes.some((b, j) => i < j && touch(a, b)));
  $('#image-curves [value="lpips"]').click();
  done.axis = $("#image-curves .axis.y").textContent;
  $("#image-curves .legend input").click();
  done.fewer = all("#image-curves .plot use").length;
  key($("#image-curves .plot"), "ArrowRight");
  key($("#image-curves .plot"), "ArrowRight");
  done.tip = $("#image-curves .tip").textContent;
  const tile = all("#images .tile")[1], slider = tile.querySelector("input");
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input"));
  done.rate = [tile.querySelector(".rate").textContent, slider.getAttribute("aria-valuetext")];
  tile.querySelector(".frame").click();
  done.open = $("#viewer").open;
  done.focus = document.activeElement.className;
  done.sides = all(".side select").map((select) => select.selectedOptions[0].textContent);
  const [left, right] = all(".stage img"), [original, first] = all("#images .tile img");
  done.shown = [left.src === original.src, right.src === first.src, left.src !== right.src];
  $(".swipe").value = 20;
  $(".swipe").dispatchEvent(new Event("input"));
  done.cut = getComputedStyle($(".stage .right")).clipPath;
  $("#viewer").close();
  const sound = all("#sounds .tile")[1];
  sound.querySelector("input").value = 0;
  sound.querySelector("input").dispatchEvent(new Event("input"));
  done.player = sound.querySelector("audio").getAttribute("aria-label");
  const head = all(".sortable th button")[2];
  head.click();
  head.click();
  done.sorted = [head.parentElement.getAttribute("aria-sort"), all(".sortable tbody tr")[0].cells[2].textContent];
  parent.postMessage(JSON.stringify(done), "*");
}, 100));
"""


def test_a_browser_drives_it_on_a_phone(results, page, tmp_path):
    html = results.report.read_text(encoding="utf-8")
    done = on_a_phone(html, DRIVER, tmp_path)
    assert "error" not in done and done["width"] == [360, 360]
    assert done["marks"] == SETTINGS * 3 and done["labels"] > 8 and not done["touching"]  # one codec is lossless
    assert done["axis"] == "LPIPS, lower is better" and done["fewer"] == SETTINGS * 3
    assert done["tip"].startswith(f"{CODECS[1]} quality 1, 9 items") and "0.5 bpp coded rate" in done["tip"]
    assert done["rate"] == ["1.000 bpp", "1.000 bpp, quality 2"]
    assert (done["open"], done["focus"], done["sides"]) == (True, "swipe", ["original", CODECS[0]])
    assert done["shown"] == [True, True, True] and done["cut"] == "inset(0px 0px 0px 20%)"
    assert done["player"] == f"{CODECS[0]}, 0.250 kbit/s, {ODD}"
    assert done["sorted"] == ["descending", "1.0000"]
