"""Writes that are complete or absent: full disks, long names, odd characters."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import disk

from tokenloom import files


@contextmanager
def full_disk() -> Iterator[None]:
    """Let every file of this process have at most 1000 bytes, for the block alone: pytest may print to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def by_torch(path: Path) -> None:
    with files.writing(path) as part, part.open("wb") as file:
        torch.save(torch.rand(5000), file)


def by_safetensors(path: Path) -> None:
    with files.writing(path) as part:
        save_file({"x": torch.rand(5000)}, part)


@pytest.mark.parametrize("write", [by_torch, by_safetensors, lambda path: files.write(path, b"0" * 5000)])
def test_a_full_disk_names_the_path_and_leaves_the_old_file(write, tmp_path):
    path = tmp_path / "result"
    files.write(path, "old")
    with full_disk(), pytest.raises(OSError, match=r"File too large: '.*/result'"):
        write(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result"]


def test_an_error_that_is_not_the_disks_stays_as_it_is(tmp_path):
    error = FileNotFoundError(2, "No such file", "input.png")
    with pytest.raises(FileNotFoundError, match="No such file") as raised, files.writing(tmp_path / "x"):
        raise error
    assert raised.value is error and not os.listdir(tmp_path)


def test_of_several_files_all_or_none_are_written(tmp_path):
    with full_disk(), pytest.raises(OSError, match=r"/b'"):
        files.write_together({tmp_path / "a": "small", tmp_path / "b": "0" * 5000})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("write", [by_torch, by_safetensors, lambda path: files.write(path, "text")])
def test_a_file_is_on_disk_before_it_has_its_name(write, tmp_path, monkeypatch):
    """Else a crash of the machine can leave an empty file in the place of the old one."""
    events = disk.record(monkeypatch)
    write(tmp_path / "result")
    assert events == ["flush", "result: flushed", "flush"]  # the last one is the folder's


def test_several_files_are_on_disk_before_the_first_has_its_name(tmp_path, monkeypatch):
    events = disk.record(monkeypatch)
    files.write_together({tmp_path / "a": "1", tmp_path / "b": b"2"})
    assert events == ["flush", "flush", "a: flushed", "b: flushed", "flush"]


@pytest.mark.parametrize("name", ["n" * 255, "長" * 85, "a\nb", "-x", "\udcff.json", " "])
def test_odd_names(name, tmp_path):
    files.write(tmp_path / name, "é\udcff")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == "é\\udcff".encode()
    assert json.loads(f'"{(tmp_path / name).read_text("utf-8")}"') == "é\udcff"


def test_a_name_that_is_too_long_is_shortened_and_stays_distinct():
    long = Path("folder") / ("長" * 84 + "ab.tlm")
    short = files.fitting(long)
    assert len(os.fsencode(short.name)) <= 255 and short.parent == long.parent and short.suffix == ".tlm"
    assert short == files.fitting(long) != files.fitting(long.with_name("長" * 84 + "ac.tlm"))
    assert files.fitting(Path("n" * 251 + ".tlm")) == Path("n" * 251 + ".tlm")


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [files.expand(path) for path in ("~", "~/x", "a~", "./~", "x/~/y")] == [
        "/home/me", "/home/me/x", "a~", "./~", "x/~/y",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no user has the home folder ~nosuch"):
        files.expand("~nosuch/x")
