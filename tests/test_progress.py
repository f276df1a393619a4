"""Progress off a terminal and on one."""

from __future__ import annotations

import io
import sys
import time

import pytest

from tokenloom import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_every_interval_with_the_time_left(capsys, monkeypatch):
    """A step that takes long does not silence it."""
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    with progress.bar("comparing", 20, "items") as advance:
        advance(5, "image/jpeg")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("image/jpeg: 5 of 20 items, ") and lines[0].endswith(" left")


def test_nothing_in_a_short_run(capsys):
    with progress.bar("comparing", 20, "items") as advance:
        advance(20)
        advance.say("done")
    assert capsys.readouterr().err == "done\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (40, "1 min"), (29, "29 s"), (125, "2 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_has_a_bar_if_rich_is_installed(monkeypatch, rich):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "find_spec", lambda name: rich or None)
    monkeypatch.setattr(progress, "SECONDS", 0.02)
    with progress.bar("comparing", 20, "items") as advance:
        advance(5, "image/jpeg [a/b]")
        advance.say("a [line]")
        time.sleep(0.2)
    assert ("━" in terminal.getvalue()) == rich and "a [line]" in terminal.getvalue()
