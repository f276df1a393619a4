"""Metrics in the child process: a crash, a hang and an overflow cost one value and are named."""

import os
from pathlib import Path

import pytest
import torch

from tokenloom.metrics import native, speech
from tokenloom.metrics.errors import Unmeasurable

PROGRAM = f"""
import os, signal, sys, time
sys.path.insert(0, {str(native.PROGRAM.parent)!r})
import native_child

def die(x, y, rate): os.kill(os.getpid(), signal.SIGSEGV)
def leave(x, y, rate): os._exit(3)
def hang(x, y, rate): time.sleep(60)
def eat(x, y, rate): raise MemoryError("no room")
def add(x, y, rate): print("noise"); return float(x.sum() + y.sum())

native_child.FUNCTIONS |= dict(die=die, leave=leave, hang=hang, eat=eat, add=add)
native_child.main()
"""


def bursts(count: int, pause: float, rate: int = 8000) -> torch.Tensor:
    """Return syllables of half a second with pauses (seconds) between them."""
    t = torch.arange(rate // 2) / rate
    syllable = 0.3 * torch.sin(2 * torch.pi * 220 * t) * (1 + 0.5 * torch.sin(8 * torch.pi * t)) / 1.5
    syllable = syllable + 0.02 * torch.randn(syllable.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([syllable, torch.zeros(int(pause * rate))]).repeat(count)[None].clamp(-1, 1)


def pesq(x: torch.Tensor) -> float:
    noise = 0.003 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return speech.pesq(x, x + noise, sample_rate=8000, mode="nb", rate=8000, below=16000)


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the child from a program with functions that fail."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(native, "PROGRAM", path)
    child = native._Child()
    monkeypatch.setattr(native, "_child", child)
    yield
    child.stop()


def test_values_are_those_of_the_package():
    package = pytest.importorskip("pesq", reason="pesq is not installed")
    x = bursts(4, 0.3)
    noise = 0.003 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert pesq(x) == pytest.approx(package.pesq(8000, x[0].numpy(), (x + noise)[0].numpy(), "nb"), abs=1e-6)


def test_too_many_utterances_have_no_pesq_and_a_long_sound_has():
    pytest.importorskip("pesq", reason="pesq is not installed")
    with pytest.raises(Unmeasurable, match="room for fewer than 50 utterances, got 52"):
        pesq(bursts(52, 0.6))  # the package itself returns 2.4 in place of 1.9, without a crash
    assert 1 < pesq(bursts(80, 0.1)) < 4.6  # pauses that PESQ does not count


def test_a_dead_or_silent_child_costs_one_value(faulty, monkeypatch):
    x = torch.ones(8)
    assert native.call("add", x, x, rate=8000) == 16.0
    for function, said in (("die", "the process of DIE died: Segmentation fault"), ("leave", "died: exit status 3")):
        with pytest.raises(Unmeasurable, match=said):
            native.call(function, x, x, rate=8000)
        assert native.call("add", x, x, rate=8000) == 16.0
    monkeypatch.setattr(native, "PATIENCE", 0.5)  # 0.01 s are for the length of the sound
    with pytest.raises(Unmeasurable, match=r"gave no answer in 0\.51 s"):
        native.call("hang", x, x, rate=8000)
    with pytest.raises(native.NativeError, match="MemoryError: no room"):
        native.call("eat", x, x, rate=8000)


def test_one_process_serves_all_calls_and_a_forked_one_starts_its_own(faulty):
    x = torch.ones(8)
    native.call("add", x, x, rate=8000)
    first = native._child.process
    native.call("add", x, x, rate=8000)
    assert native._child.process is first
    child = os.fork()
    if not child:
        os._exit(0 if native.call("add", x, x, rate=8000) == 16.0 and native._child.process is not first else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert native.call("add", x, x, rate=8000) == 16.0
