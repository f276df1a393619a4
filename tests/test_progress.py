"""Progress off a terminal and on one."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from tokenloom import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_have_count_rate_and_remaining_time(monkeypatch):
    """The first comes at once, the next although a step takes long, the last at the end."""
    lines: list[str] = []
    monkeypatch.setattr(progress, "SECONDS", 0.2)
    monkeypatch.setattr(progress.Bar, "say", lambda self, line: lines.append(line))

    def wait(text: str) -> None:
        while not any(re.fullmatch(text, line) for line in lines):
            time.sleep(0.02)

    with progress.bar("work", 8, "items", done=2) as advance:
        advance(0, "first one")
        wait(r"work, first one: 2 of 8 items(, \d+ s so far)?")
        advance(2)
        wait(r"work, first one: 4 of 8 items, [\d.]+ items/s, about \d+ s left")
        advance(4)
    assert re.fullmatch(r"work: 8 items in \d+ s", lines[-1])


@pytest.mark.parametrize(("amounts", "said"), [((), 0), ((1,), 1)])
def test_an_error_before_the_first_progress_stays_alone_and_one_after_it_has_no_last_line(capsys, amounts, said):
    with pytest.raises(ValueError, match="wrong"), progress.bar("work", 2, "items") as advance:
        for amount in amounts:
            advance(amount)
            time.sleep(0.1)
        raise ValueError("wrong")
    assert len(capsys.readouterr().err.splitlines()) == said


def test_work_is_never_silent_before_its_first_progress(capsys, monkeypatch):
    """A first item may take minutes, and some work has no steps."""
    monkeypatch.setattr(progress, "SECONDS", 0.1)
    monkeypatch.setattr(progress, "duration", lambda seconds: "1 s")
    with progress.bar("work", 8, "items") as steps, progress.bar("encoding a.png", None, "") as stepless:
        while not (steps.told and stepless.told):
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert set(lines[:-1]) == {"encoding a.png: 1 s so far", "encoding a.png: 1 s", "work: 0 of 8 items, 1 s so far"}
    assert lines[-1] == "work: 0 items in 1 s"


def test_short_work_can_be_silent(capsys):
    with progress.bar("work", None, "tokens", after=5) as advance:
        advance.move_to(3, None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (29, "29 s"), (40, "40 s"), (59.6, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
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
