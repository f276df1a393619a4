"""`tokenloom doctor`: the table, the page, the JSON file, and the exit status."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.cli import refuse, succeed
from support.reports import Page, on_a_phone

from tokenloom import own_code
from tokenloom.cli.commands.doctor import table
from tokenloom.cli.main import main
from tokenloom.eval import doctor

FEW = ("--seconds", "0.2", "--only", "lengths", "--only", "seams", "--only", "settings", "--only", "reconstruction")
FAULTY = '''
"""A codec that rounds sizes down, and says so with <b>odd</b> words."""
import torch
from tokenloom.codecs import Codec, Codes, CodeSpec, Modality

class Cut(Codec):
    spec = CodeSpec(Modality.IMAGE, (64,), (8, 8), 3)

    def _encode(self, x, setting):
        return Codes(torch.zeros(len(x), 1, *self.spec.grid(tuple(x.shape[2:])), dtype=torch.int64),
                     torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def _decode(self, codes):
        raise ValueError("<script>alert('x')</script> & more")
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_loaded", {})
    return tmp_path


def test_a_healthy_codec_gives_a_page_a_json_file_and_status_0(place, capsys):
    said = succeed(capsys, "doctor", "image/jpeg", *FEW, "--setting", "40")
    lines = said.splitlines()
    assert lines[-1] == "doctor.html: 4 checks: 3 passed, 1 skipped"
    assert re.search(r"^pass     Exact lengths   +all of \d+ sizes come back exactly$", said, re.MULTILINE)
    assert re.search(r"^skipped  Seams between coded parts  the codec has no stride", said, re.MULTILINE)
    found = json.loads(Path("doctor.json").read_text("utf-8"))
    assert (found["codec"], found["setting"], found["modality"]) == ("image/jpeg", "quality 40", "image")
    assert {one["check"]: one["verdict"] for one in found["findings"]} == {
        "seams": "skipped", "reconstruction": "pass", "settings": "pass", "lengths": "pass",
    }  # fmt: skip
    assert all(one["limit"] and one["about"] and one["seconds"] >= 0 for one in found["findings"])
    assert "doctor.html exists" in refuse(capsys, "doctor", "image/jpeg", *FEW)
    Path("doctor.html").unlink()
    assert "doctor.json exists" in refuse(capsys, "doctor", "image/jpeg", *FEW)
    succeed(capsys, "doctor", "image/jpeg", *FEW, "--force")
    assert json.loads(Path("doctor.json").read_text("utf-8"))["setting"] == "quality 75"


def test_a_faulty_codec_of_a_file_gives_status_1_and_a_page_that_trusts_it_in_nothing(place, capsys):
    Path("my_cut.py").write_text(FAULTY)
    assert main(["doctor", "my_cut.py:Cut", "-o", "cut.html", *FEW]) == 1
    out = capsys.readouterr().out
    assert "fail     Exact lengths" in out and out.splitlines()[-1].startswith("cut.html: 4 checks: ")
    html = Path("cut.html").read_text("utf-8")
    page = Page(html.replace("<!doctype html>", ""))
    assert [attributes["href"] for attributes, _ in page.all("a") if attributes["href"] == "#check-lengths"]
    assert "alert('x')" not in html and "&lt;script&gt;alert(" in html
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html), "the page loads nothing"
    assert not [text for _, text in page.all("script") if "alert" in text]


def test_the_table_wraps_its_last_column(place):
    checkup = doctor.examine("image/png", only=["lengths", "seams", "invalid_signals"], seconds=0.2)
    lines = table(checkup, 60)
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(" " * 20) for line in lines)
    assert "\033[32mpass   \033[0m" in "\n".join(table(checkup, 60, colored=True))


def test_the_page_fits_on_a_phone(place, capsys):
    succeed(capsys, "doctor", "image/jpeg", *FEW)
    driver = """
    addEventListener("load", () => parent.postMessage(JSON.stringify({
      wide: document.documentElement.scrollWidth, ids: document.querySelectorAll("li[id^=check-]").length,
      sideways: [...document.querySelectorAll(".finding")].filter((one) => one.scrollWidth > one.clientWidth).length,
    }), "*"));
    """
    shown = on_a_phone(Path("doctor.html").read_text("utf-8"), driver, place)
    assert shown == {"wide": 360, "ids": 4, "sideways": 0}
