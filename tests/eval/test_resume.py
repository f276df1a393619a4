"""A comparison keeps what it measured: after a kill, a crash, an interruption and a change of the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.codecs import registry
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, CodeSpec, Modality, Settings
from tokenloom.data import Item, Source
from tokenloom.eval.compare import compare
from tokenloom.eval.compare.journal import CRASH, MEDIA, NAME
from tokenloom.eval.compare.measurement import CodecMeasurement
from tokenloom.eval.compare.publishing import Publisher
from tokenloom.eval.compare.results import Results
from tokenloom.eval.metric import Metric
from tokenloom.eval.protocols import PROTOCOLS


class Mean(Codec):
    """Toy codec: one token, the mean in 16 levels. It stops where it is told to."""

    spec = CodeSpec(Modality.IMAGE, (16,), (64, 64), 3, None, total=True, ordered=False, causal=False)
    settings = Settings("levels", "", 16, (2, 16))
    stop: ClassVar[dict[tuple[float, int], BaseException]] = {}

    def _encode(self, x, setting):
        key = (round(x.mean().item(), 2), setting)
        if key in self.stop:
            raise self.stop[key]
        step = 15 // (setting - 1)
        index = (x.mean((1, 2, 3)) * (setting - 1)).round().long() * step
        return Codes(index[:, None, None, None], torch.tensor([[*x.shape[-2:]]]).expand(len(x), 2))

    def _decode(self, codes):
        height, width = codes.sizes[0].tolist()
        return (codes.indices.float() / 15).expand(-1, 3, height, width).contiguous()


class Gray(Source):
    """Pictures of one gray each, so that their mean names them."""

    name = "gray"

    def __init__(self, *levels):
        self.levels = levels

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, i):
        return Item(f"gray{i}", Modality.IMAGE, torch.full((3, 32, 40), self.levels[i]))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(Mean, "stop", {})
    codecs.register("image/mean")(Mean)
    yield
    registry._classes.pop("image/mean")


@pytest.fixture
def measured(monkeypatch):
    """Return a list of the trials that are measured."""
    found, attempt = [], CodecMeasurement.attempt
    monkeypatch.setattr(
        CodecMeasurement, "attempt", lambda self, item: found.append((self.name, item.key)) or attempt(self, item)
    )
    return found


LEVELS = (0.1, 0.4, 0.9)


def without_times(results: Results) -> list:
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for r in results.records for row in r.items]
    return [rows, [(r.codec, r.setting, r.metrics, r.codebooks, r.rates) for r in results.records]]


def test_an_unfinished_comparison_continues_with_what_it_had(tmp_path, measured):
    whole = compare(["image/mean", "image/png"], Gray(*LEVELS), tmp_path / "whole")
    assert not (tmp_path / "whole" / NAME).exists() and not (tmp_path / "whole" / CRASH).exists()
    Mean.stop[0.9, 16] = KeyboardInterrupt()
    out = tmp_path / "out"
    assert compare(["image/mean", "image/png"], Gray(*LEVELS), out).interrupted
    measured.clear()
    Mean.stop.clear()
    again = compare(["image/mean", "image/png"], Gray(*LEVELS), out)
    assert [name for name in measured if "mean" in name[0]] == 2 * [("image/mean at 16", "gray2")]  # a warm-up
    assert (again.interrupted, again.pending, again.seen) == (False, [], 3)
    assert without_times(again) == without_times(whole)
    assert [len(e.settings) for e in again.exhibits] == [len(e.settings) for e in whole.exhibits] == [2, 2, 2]
    assert not (out / NAME).exists()


@pytest.mark.parametrize(
    ("more", "levels", "said"),
    [
        ({"items": 2}, LEVELS, r"items \(None before, now 2\)"),
        ({"protocols": ["luma8"]}, LEVELS, r"protocols \(\['rgb8'\] before, now \['luma8'\]\)"),
        ({}, (*LEVELS, 0.5), r"data \(names, sizes or number of items\)"),
    ],
)
def test_another_comparison_starts_anew_and_says_what_differs(tmp_path, measured, more, levels, said):
    Mean.stop[0.4, 2] = KeyboardInterrupt()
    compare(["image/mean"], Gray(*LEVELS), tmp_path)
    measured.clear()
    Mean.stop.clear()
    with pytest.warns(UserWarning, match=f"holds an unfinished comparison with another {said}.*: starting anew"):
        results = compare(["image/mean"], Gray(*levels), tmp_path, **more)
    n = more.get("items", len(levels))
    assert results.records[0].n == n and len(measured) == 1 + 2 * n  # a warm-up, then two settings


def test_an_item_that_changed_is_refused(tmp_path):
    Mean.stop[0.9, 2] = KeyboardInterrupt()
    compare(["image/mean"], Gray(*LEVELS), tmp_path)
    Mean.stop.clear()
    with pytest.raises(ValueError, match="its item gray0 has changed since: name another out="):
        compare(["image/mean"], Gray(0.2, 0.4, 0.9), tmp_path)


def test_a_line_that_a_kill_cut_short_is_measured_again(tmp_path):
    Mean.stop[0.9, 2] = KeyboardInterrupt()
    compare(["image/mean"], Gray(*LEVELS), tmp_path)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-30])
    Mean.stop.clear()
    assert [r.n for r in compare(["image/mean"], Gray(*LEVELS), tmp_path).records] == [3, 3]


def test_whatever_a_codec_or_a_metric_raises_costs_its_trial(tmp_path, monkeypatch):
    Mean.stop = {(0.1, 2): SystemExit("bye"), (0.4, 16): MemoryError("no room")}

    def moody(reference, output):
        level = round(reference.mean().item(), 2)
        if level == 0.4:
            raise RuntimeError("out of\nmemory")
        return float("nan") if level == 0.9 else 1.0

    protocol = PROTOCOLS["rgb8"]
    metrics = (*protocol.metrics[:2], Metric("moody", "Moody", "", True, "a metric that fails", moody))
    monkeypatch.setitem(PROTOCOLS, "rgb8", type(protocol)("rgb8", protocol.modality, "", {}, metrics))
    results = compare(["image/mean"], Gray(*LEVELS), tmp_path)
    low, high = results.records
    assert (low.n, low.reasons) == (2, {"SystemExit: bye": 1})
    assert (high.n, high.reasons) == (2, {"MemoryError: no room": 1})
    assert low.metrics["moody"].reasons == {"RuntimeError: out of memory": 1, "the metric gave no number": 1}
    assert (high.metrics["moody"].mean, high.metrics["moody"].n, high.metrics["moody"].failed) == (1.0, 1, 1)
    html = results.report.read_text(encoding="utf-8")
    for named in ("SystemExit: bye", "MemoryError: no room", "out of memory", "gray1", "gray2"):
        assert named in html


def test_a_crash_costs_one_trial(tmp_path):
    Mean.stop[0.4, 2] = KeyboardInterrupt()
    compare(["image/mean"], Gray(*LEVELS), tmp_path)
    (tmp_path / CRASH).write_text("Fatal Python error: Segmentation fault")
    Mean.stop.clear()
    low, high = compare(["image/mean"], Gray(*LEVELS), tmp_path).records
    assert (low.n, low.reasons, high.n) == (2, {"the process crashed within this trial": 1}, 3)
    assert not (tmp_path / CRASH).exists()


def test_a_complete_comparison_stays_until_the_next_one_is_complete(tmp_path, monkeypatch):
    def visible():
        return {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*")
                if p.is_file() and p.name not in (NAME, CRASH) and MEDIA not in p.parts}  # fmt: skip

    def killed(_):
        raise GeneratorExit

    compare(["image/mean"], Gray(*LEVELS), tmp_path)
    first = visible()
    monkeypatch.setattr(Publisher, "final", killed)
    for _ in range(2):  # the second one continues
        with pytest.raises(GeneratorExit):
            compare(["image/png", "image/mean"], Gray(0.2), tmp_path)
        assert visible() == first and (tmp_path / MEDIA).is_dir()
    monkeypatch.undo()
    again = compare(["image/png", "image/mean"], Gray(0.2), tmp_path)
    assert not (tmp_path / MEDIA).exists() and Results.read(tmp_path).codecs("image") == ["image/png", "image/mean"]
    named = {tile.file for exhibit in again.exhibits for tile in (*exhibit.tiles, *exhibit.settings)}
    there = {f"exhibits/{path.name}" for path in (tmp_path / "exhibits").iterdir()}
    assert there == named | {exhibit.original for exhibit in again.exhibits}, "exhibits of two runs"


KILLED = """
import sys, time
from tokenloom import codecs
from tokenloom.cli.main import main
from test_resume import Mean

class Slow(Mean):
    def _encode(self, x, setting):
        if round(x.mean().item(), 2) == 0.4 and setting == 16:
            time.sleep(60)
        return super()._encode(x, setting)

codecs.register("image/mean")(Slow)
sys.exit(main(["compare", "codecs=[image/png,image/mean]", "data=folder", *sys.argv[1:]]))
"""


def test_kill_9_loses_one_trial(tmp_path, measured):
    for i, level in enumerate((102, 230)):
        (tmp_path / "data").mkdir(exist_ok=True)
        codecs.write(torch.full((3, 16, 16), level / 255), tmp_path / "data" / f"{i}.png")
    out, path = tmp_path / "out", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    keys = [f"data.path={tmp_path / 'data'}", f"out={out}"]
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, *keys], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while '{"begin": ["image/mean", 1, 0]}' not in ((out / NAME).read_text() if (out / NAME).is_file() else ""):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    said = killed.communicate()[1].splitlines()
    assert said[0].startswith("comparing, image/png: 0 of 6 trials") and said[1].startswith("image/png: ")
    partial = Results.read(out)
    assert [r.codec for r in partial.records] == ["image/png"] and partial.pending == ["image/mean"]
    assert "image/mean not measured yet" in (out / "report.html").read_text(encoding="utf-8")
    assert main(["compare", "codecs=[image/png,image/mean]", "data=folder", *keys]) == 0
    assert measured == [("image/mean at 16", "0"), ("image/mean at 16", "0"), ("image/mean at 2", "1"),
                        ("image/mean at 16", "1")]  # fmt: skip
    done = json.loads((out / "results.json").read_text())
    assert (done["pending"], [(r["codec"], r["n"]) for r in done["records"]]) == (
        [], [("image/png", 2), ("image/mean", 2), ("image/mean", 2)],
    )  # fmt: skip
