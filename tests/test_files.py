"""Writes that are complete or absent: full disks, long names, odd characters."""

from __future__ import annotations

import errno
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


def test_a_new_file_never_replaces_one_that_came_meanwhile(tmp_path, monkeypatch):
    def linkless(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    for links in (True, False):
        if not links:
            monkeypatch.setattr(os, "link", linkless)
        path = tmp_path / f"links {links}"
        with pytest.raises(FileExistsError, match=path.name), files.writing(path, new=True) as part:
            part.write_text("late")
            path.write_text("early")
        assert path.read_text() == "early"
        files.write(path.with_name("free"), "mine", new=True)
        assert path.with_name("free").read_text() == "mine"
        path.with_name("free").unlink()
    assert len(os.listdir(tmp_path)) == 2


def test_temporary_files_are_removed_when_their_writer_is_dead(tmp_path):
    (tmp_path / "below").mkdir()
    others = [".0123.part", "0123456789abcdef.part", "data.part"]
    for name in others:
        (tmp_path / name).write_text("of the user")
    dead = [tmp_path / ".0123456789abcdef.part", tmp_path / "below" / ".fedcba9876543210.part"]
    for path in dead:
        path.write_text("cut")
    with files.writing(tmp_path / "result") as part:
        part.write_text("alive")
        files.sweep(tmp_path)
        assert [path.exists() for path in dead] == [False, True]
        files.sweep(tmp_path, deep=True)
        assert part.exists() and not dead[1].exists()
    assert sorted(os.listdir(tmp_path)) == sorted(["below", "result", *others])


REPORTS = files.FileSet("reports", ("report", "tables/*"))
STEPS = ("rename", "replace", "unlink", "rmdir")
"""Functions before which a replacement is cut short."""


class Killed(BaseException):
    pass


@pytest.mark.parametrize("settled", [True, False])
def test_files_of_a_set_are_never_of_two_runs(settled, tmp_path, monkeypatch):
    """A replacement is cut before every change of a name. What is visible is of one run, and nothing whole is lost."""
    left, real = 0, {name: getattr(os, name) for name in STEPS}

    def cut(name):
        def step(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real[name](*arguments, **options)

        return step

    def write(folder, run, tables):
        with REPORTS.replacing(folder) as new:
            for table in tables:
                files.write(new / "tables" / table, run)
            files.write(new / "report", run)

    def found(folder):
        return {path.name: path.read_text() for path in [*folder.glob("report"), *folder.glob("tables/*")]}

    old, new = {"report": "1", "a": "1", "b": "1"}, {"report": "2", "b": "2", "c": "2"}
    seen = set()
    for number in range(100):
        folder = tmp_path / str(number)
        write(folder, "1", "ab")
        left = number
        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, cut(name))
            try:
                write(folder, "2", "bc")
            except Killed:
                pass
            else:
                break
        now = found(folder)
        assert now.items() <= old.items() or now.items() <= new.items()
        assert "report" not in now or now in (old, new)
        seen.add(len(now))
        if settled:
            REPORTS.settle(folder)
            assert found(folder) in (old, new)
        else:
            write(folder, "3", "a")
            assert found(folder) == {"report": "3", "a": "3"} and sorted(os.listdir(folder)) == ["report", "tables"]
    assert 10 < number < 99 and seen == {0, 1, 2, 3}


def test_a_link_in_the_place_of_a_hidden_folder_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in REPORTS.hidden:
        (tmp_path / "folder" / name).symlink_to(tmp_path / "mine")
    REPORTS.settle(tmp_path / "folder")
    assert (tmp_path / "mine" / "report").read_text() == "mine" and not (tmp_path / "folder" / "report").exists()
