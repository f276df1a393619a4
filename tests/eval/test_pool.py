"""Several processes measure what one does: the same figures, order, errors and interruptions."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tokenloom import codecs, own_code
from tokenloom.cli.main import main
from tokenloom.codecs import registry
from tokenloom.codecs.types import Modality
from tokenloom.data import Item, Source
from tokenloom.eval.compare import compare, run
from tokenloom.eval.compare.journal import CRASHED, NAME
from tokenloom.eval.compare.measurement import CodecMeasurement
from tokenloom.eval.compare.processes import pool
from tokenloom.eval.compare.results import Results

OWN = '''
import os, signal, time, warnings
import torch
from tokenloom import codecs
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, CodeSpec, Modality, Settings

@codecs.register("image/moody")
class Moody(Codec):
    """One token, the mean. What happens at a level, in a process of a comparison, is in the environment."""

    spec = CodeSpec(Modality.IMAGE, (16,), (64, 64), 3, None, total=True, ordered=False, causal=False)
    settings = Settings("levels", "", 16, (2, 16))

    def _encode(self, x, setting):
        level, _, what = os.environ.get("MOODY", "").partition("=")
        here = what == "raise" or os.environ.get("OMP_NUM_THREADS") == "1"
        if level and abs(x.mean().item() - float(level)) < 0.01 and here:
            mood(what)
        index = (x.mean((1, 2, 3)) * (setting - 1)).round().long() * (15 // (setting - 1))
        return Codes(index[:, None, None, None], torch.tensor([[*x.shape[-2:]]]).expand(len(x), 2))

    def _decode(self, codes):
        height, width = codes.sizes[0].tolist()
        return (codes.indices.float() / 15).expand(-1, 3, height, width).contiguous()

def mood(what):
    if what == "crash":
        os.abort()
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupt":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(30)
    if what == "raise":
        raise SystemExit("a bad day")
    if what == "warn":
        warnings.warn("a cloudy day")
'''
LEVELS = (0.1, 0.4, 0.7, 0.9)
CODECS = ["image/moody", "image/jpeg", "emoji-flex"]


class Noise(Source):
    """Pictures of noise around a gray each."""

    name = "noise"

    def __len__(self):
        return len(LEVELS)

    def __getitem__(self, i):
        noise = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(i)) - 0.5
        return Item(f"noise{i}", Modality.IMAGE, ((LEVELS[i] + 0.1 * noise) * 255).round() / 255)


@pytest.fixture(autouse=True)
def moody(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # so that the codec knows the processes of a comparison
    monkeypatch.setattr(own_code, "_loaded", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "own_moody.py"
    path.write_text(OWN)
    own_code.load(path)
    yield
    registry._classes.pop("image/moody")
    sys.modules.pop("own_moody")


@pytest.fixture
def several(monkeypatch):
    """Two processes from the second trial on."""
    monkeypatch.setattr(pool, "WORTH", 0.0)
    monkeypatch.setattr(run, "cores", lambda: 2)


def children() -> list[str]:
    return subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False
    ).stdout.splitlines()


def workers() -> int:
    return sum("compare.processes import worker" in line for line in children())


def figures(results: Results) -> list:
    """Return all that does not depend on time."""
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for r in results.records for row in r.items]
    sums = [(r.codec, r.setting, r.n, r.reasons, r.metrics, r.codebooks, r.rates, r.targets) for r in results.records]
    shown = [(e.key, [(t.codec, t.setting, t.figures, t.file) for t in (*e.tiles, *e.settings)])
             for e in results.exhibits]  # fmt: skip
    return [rows, sums, shown, results.takeaways, results.bd_rates]


def alone(out: Path, names: list[str]) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "cores", lambda: 1)
        return compare(names, Noise(), out)


def test_figures_and_order_do_not_depend_on_the_number_of_processes(tmp_path, several, monkeypatch):
    monkeypatch.setenv("MOODY", "0.7=raise")
    measured, attempt = [], CodecMeasurement.attempt
    monkeypatch.setattr(
        CodecMeasurement, "attempt", lambda self, item: measured.append(self.name) or attempt(self, item)
    )
    results = compare(CODECS, Noise(), tmp_path / "two")
    assert results.environment.processes == 2 and results.environment.threads == 1
    assert measured == 2 * ["image/moody at 2"], "a trial and its warm-up, then the others take over"
    assert workers() == 0
    moody = results.records[0]
    assert (moody.n, moody.reasons) == (3, {"SystemExit: a bad day": 1})
    assert figures(alone(tmp_path / "one", CODECS)) == figures(results)
    work = results.environment.work
    assert set(work) == {"encode", "decode", "metrics", "other"} and all(value > 0 for value in work.values())
    page = results.report.read_text(encoding="utf-8")
    assert "summed over 2 processes with one thread each" in page


def test_a_codec_that_only_this_process_knows_is_measured_here(tmp_path, several, monkeypatch):
    monkeypatch.setattr(own_code, "_loaded", {})  # as for a class that a program registers itself
    results = compare(CODECS[:2], Noise(), tmp_path / "two")
    assert results.environment.processes == 2
    assert figures(alone(tmp_path / "one", CODECS[:2])) == figures(results)


def test_a_crash_costs_one_trial_of_each_setting(tmp_path, several, monkeypatch):
    monkeypatch.setenv("MOODY", "0.7=crash")
    results = compare(CODECS[:2], Noise(), tmp_path)
    assert [(r.n, r.reasons) for r in results.records[:2]] == 2 * [(3, {CRASHED: 1})]
    assert {r.n for r in results.records[2:]} == {4} and not results.pending
    assert [row["key"] for row in results.records[0].items] == [f"noise{i}" for i in range(4)]


def test_a_killed_process_is_one_line_and_the_same_command_goes_on(tmp_path, several, monkeypatch):
    monkeypatch.setenv("MOODY", "0.7=killed")
    with pytest.raises(OSError, match=r"a process of the comparison was killed.*the same command goes on") as error:
        compare(CODECS[:2], Noise(), tmp_path / "two")
    assert "\n" not in str(error.value) and workers() == 0
    monkeypatch.setenv("MOODY", "")
    results = compare(CODECS[:2], Noise(), tmp_path / "two")
    assert figures(results) == figures(alone(tmp_path / "one", CODECS[:2]))


def test_ctrl_c_leaves_what_is_measured_and_no_process(tmp_path, several, monkeypatch):
    monkeypatch.setenv("MOODY", "0.9=interrupt")
    results = compare(CODECS[:2], Noise(), tmp_path / "two")
    assert results.interrupted and results.pending == CODECS[:2] and workers() == 0
    assert (tmp_path / "two" / NAME).exists() and results.records[0].n <= 3  # none, if a process is behind
    monkeypatch.setenv("MOODY", "")
    again = compare(CODECS[:2], Noise(), tmp_path / "two")
    assert not again.interrupted
    assert figures(again) == figures(alone(tmp_path / "one", CODECS[:2]))


def test_a_warning_of_another_process_is_repeated(tmp_path, several, monkeypatch):
    monkeypatch.setenv("MOODY", "0.9=warn")
    with pytest.warns(UserWarning, match="a cloudy day"):
        compare(CODECS[:1], Noise(), tmp_path)


def test_little_work_is_done_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "cores", lambda: 2)
    results = compare(CODECS[:2], Noise(), tmp_path)
    assert results.environment.processes == 1 and results.environment.threads == 1


def test_large_signals_are_measured_in_one_process(tmp_path, several, monkeypatch):
    monkeypatch.setattr(pool.memory, "SMALL", 1)
    monkeypatch.setattr(pool.memory, "limit", lambda device: 3 * pool.FOOTPRINT)
    monkeypatch.setattr(codecs.Codec, "working_memory", lambda self, size: 2 * pool.FOOTPRINT)
    measured, attempt = [], CodecMeasurement.attempt
    monkeypatch.setattr(
        CodecMeasurement, "attempt", lambda self, item: measured.append(self.name) or attempt(self, item)
    )
    compare(CODECS[:1], Noise(), tmp_path)
    assert len(measured) == 1 + 2 * len(LEVELS)


def test_processes_that_cannot_start_are_done_without(tmp_path, several, monkeypatch):
    monkeypatch.setattr(pool, "PROGRAM", "raise SystemExit(3)")
    with pytest.warns(UserWarning, match="goes on in one process"):
        results = compare(CODECS[:1], Noise(), tmp_path)
    assert results.environment.processes == 1 and results.records[0].n == 4


def test_an_error_of_the_disk_in_another_process_is_that_of_the_command(tmp_path, several, monkeypatch):
    for i in range(4):
        (tmp_path / "data").mkdir(exist_ok=True)
        codecs.write(Noise()[i].signal, tmp_path / "data" / f"{i}.png")

    real = run.ComparisonRun._briefing

    def elsewhere(self):
        briefing = real(self)
        (tmp_path / "file").write_text("")
        return pool.Briefing(**{**vars(briefing), "folder": tmp_path / "file"})

    monkeypatch.setattr(run.ComparisonRun, "_briefing", elsewhere)
    with warnings.catch_warnings():
        assert main(["compare", "codecs=[image/jpeg]", f"data.path={tmp_path / 'data'}", "data=folder",
                     f"out={tmp_path / 'out'}"]) == 2  # fmt: skip
    assert workers() == 0
