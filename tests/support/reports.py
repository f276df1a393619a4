"""Results of a comparison made by hand, with odd names, and a strict reader of HTML."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.eval.compare.records import KINDS, BDRow, Record
from tokenloom.eval.compare.results import Results
from tokenloom.eval.gallery.files import save, save_for_display
from tokenloom.eval.gallery.records import Exhibit, ExhibitTile
from tokenloom.eval.metric import MetricDescription, ProtocolDescription, Summary

ODD = "</script><script>alert('x')</script> & \"more\" $x$"
CODECS = ("image/jpeg", "image/jpeg+diffusion", ODD, "_hidden")
METRICS = {
    "image": {"psnr": MetricDescription("PSNR", "dB", "higher"), "lpips": MetricDescription("LPIPS", "", "lower"),
              "kid": MetricDescription("KID", "", "lower")},
    "audio": {"mel": MetricDescription("Mel distance", "", "lower"),
              "si_sdr": MetricDescription("SI-SDR", "dB", "higher")},
}  # fmt: skip
SETTINGS = 3


def comparison(folder: Path, *, size: int = 150, exhibits: int = 1) -> Results:
    """Return results of images and sounds whose exhibits are in `folder`. The last codec is lossless."""
    results = Results(folder, f"odd {ODD}", takeaways=[f"{ODD} is best."])
    (folder / "exhibits").mkdir(parents=True)
    for modality, unit in (("image", "bpp"), ("audio", "kbit/s")):
        results.protocols[modality] = ProtocolDescription(modality, modality, ODD, {}, METRICS[modality])
        for number, codec in enumerate(CODECS):
            for i in range(SETTINGS):
                values = {name: Summary(mean=30.0 - number - 10 * i - j, ci95=0.5, n=9) for j, name in
                          enumerate(METRICS[modality])}  # fmt: skip
                if codec == CODECS[-1] and modality == "image":
                    values["psnr"] = Summary(perfect=9)
                rates = {kind: Summary(mean=0.25 * 2**i if kind in ("nominal", "coded") else None) for kind in KINDS}
                results.records.append(
                    Record(codec=codec, modality=modality, n=9, protocol=modality, setting_name="quality", setting=i,
                           default=i == 1, rate_unit=unit, rates=rates, bits_per_token=dict.fromkeys(KINDS, Summary()),
                           metrics=values, reasons={ODD: 1})
                )  # fmt: skip
        for number in range(exhibits):
            results.exhibits.append(_exhibit(folder, modality, unit, number, size))
    results.bd_rates = [BDRow(modality="image", anchor=CODECS[0], codec=ODD, metric="psnr", label="PSNR", percent=-3.0,
                              overlap=0.5, reason=None)]  # fmt: skip
    return results


def signal(modality: str, size: int, seed: int) -> torch.Tensor:
    """Return a noisy picture (3, size, size + 10), or a second of a noisy tone at 8 kHz."""
    g = torch.Generator().manual_seed(seed)
    if modality == "audio":
        return 0.3 * torch.sin(torch.arange(8000) * 0.2)[None] + 0.01 * torch.randn(1, 8000, generator=g)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=g), (size, size + 10), mode="bilinear")[0]
    return ((smooth + 0.03 * torch.randn(smooth.shape, generator=g)).clamp(0, 1) * 255).round() / 255


def _exhibit(folder: Path, modality: str, unit: str, number: int, size: int) -> Exhibit:
    name = f"{modality}{number}"
    item = Item(name, Modality(modality), signal(modality, size, number), 8000 if modality == "audio" else None, ODD)
    exhibit = Exhibit(modality=modality, key=name, caption=ODD, sample_rate=item.sample_rate, unit=unit, rate=0.3,
                      rate_of=ODD, original=save(item.signal, item, folder, f"{name}-original"))  # fmt: skip
    for place, codec in enumerate(CODECS):
        if place == len(CODECS) - 1:
            exhibit.tiles.append(ExhibitTile(codec=codec, learned=False, note=f"failed: {ODD}"))
            continue
        file = save(item.signal, item, folder, f"{name}-{place}")
        exhibit.tiles.append(ExhibitTile(codec=codec, learned=False, rate=0.3, bytes=9, figures={"psnr": "inf"}
                                         if modality == "image" else {"mel": 0.5}, file=file))  # fmt: skip
        for i in range(SETTINGS):
            file, psnr = save_for_display(
                signal(modality, size, 100 + 10 * place + i), item, folder, f"{name}-{place}-{i}"
            )
            exhibit.settings.append(
                ExhibitTile(codec=codec, learned=False, rate=0.25 * 2**i, bytes=8 * 2**i, file=file, figures={},
                            setting=f"quality {i}", display_psnr=psnr)
            )  # fmt: skip
    return exhibit


class Page(HTMLParser):
    """Elements of a page: (tag, attributes, text). Raises AssertionError for tags that do not match."""

    VOID = ("meta", "input", "img", "br", "hr", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"{self.open[-1][:2]} is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        element = (tag, {key: value or "" for key, value in attrs}, [])
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}, []))

    def handle_endtag(self, tag):
        last, attributes, _ = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last} {attributes}>"

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        """Return attributes and text of every element with a tag."""
        return [(attributes, "".join(texts).strip()) for name, attributes, texts in self.elements if name == tag]


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def on_a_phone(html: str, driver: str, folder: Path) -> Any:
    """Return what a script posts as JSON from a page of 360 pixels in Chromium. Skip the test without a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        pytest.skip("no Chromium")
    (folder / "page.html").write_text(html.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    (folder / "phone.html").write_text(
        '<iframe src="page.html" style="width: 360px; height: 640px; border: 0"></iframe><pre></pre><script>'
        'addEventListener("message", (event) => { document.querySelector("pre").textContent = event.data; })</script>'
    )
    command = [browser, "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu",
               f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
               f"file://{folder / 'phone.html'}"]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    ((_, text),) = Page(shown.replace("<!DOCTYPE html>", "")).all("pre")
    return json.loads(text)
