"""Kill commands at random moments, or start two at once, and check what they leave on disk.

    python tests/support/kills.py train --count 200
    python tests/support/kills.py train --count 0 --pairs 50

Every run is a fork of this process, which has imported the package. A run is killed after a random time, with weight on
the end, where files are written, or just before a random change of a file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.data.sources import walk
from tokenloom.data.tokens import reading
from tokenloom.eval import filesets, serialize
from tokenloom.eval.compare.report import page
from tokenloom.eval.compare.results import Results, columns
from tokenloom.train import record, state

EVENTS = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")
"""Audit events before which a run may be killed, besides fsync."""
PATIENCE = 120
"""Seconds until a run counts as hanging."""


# -- runs -------------------------------------------------------------------------------------------


def start(argv: list[str], log: Path, watch: str, at: int = 0) -> int:
    """Start a command in a fork and return its process. With `at` it dies before that change of a file below `watch`.

    `log` receives standard error, `log`.json the number of changes and the imported modules.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    for number, name in ((1, os.devnull), (2, str(log))):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    seen, fsync = itertools.count(1), os.fsync
    total = 0

    def change(event: str, arguments: tuple = ()) -> None:
        nonlocal total
        if event not in EVENTS and event != "fsync":
            return
        path = arguments[0] if arguments else ""
        inside = event == "fsync" or (isinstance(path, str | os.PathLike) and watch in os.fspath(path))
        if inside or (event != "open" and arguments[-1] not in (-1, watch)):  # a name in an open folder
            total = next(seen)
            if total == at:
                os.kill(os.getpid(), signal.SIGKILL)  # its workers live on

    def flush(file: int) -> None:
        change("fsync")
        fsync(file)

    os.fsync = flush
    sys.addaudithook(change)
    status = 70
    try:
        status = main(argv)
        Path(f"{log}.json").write_text(json.dumps([total, sorted(sys.modules)]))
    finally:
        os._exit(status)


def ended(pid: int, seconds: float = PATIENCE) -> int | None:
    """Wait for a run, and return its exit status, −9 after a kill; None if it has not ended after these seconds."""
    deadline = time.monotonic() + seconds
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(done[1])


def complete(argv: list[str], log: Path) -> int:
    """Run a command to its end. Returns the exit status."""
    status = ended(start(argv, log, "\0"))
    assert status is not None, f"{argv} hangs"
    return status


# -- commands -----------------------------------------------------------------------------------------


class Command:
    """A command on a small job, in two variants that could be mixed up.

    `reference` holds the bytes of the files of each variant, by name. `check` is called after each kill, and `finish`
    when the same command was repeated to its end.
    """

    variants = (0, 1)
    ignored: tuple[str, ...] = ()
    """Parts of names of files whose bytes differ between equal runs."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.log, self.random, self.number = root, root / "log", random.Random(seed), 0
        g = torch.Generator().manual_seed(0)
        for name, count in (("apples", 6), ("pears", 6)):
            (root / name).mkdir()
            for i in range(count):
                small = torch.rand(1, 3, 5, 6, generator=g)
                picture = torch.nn.functional.interpolate(small, (40, 48), mode="bilinear")[0]
                codecs.write((picture * 255).round() / 255, root / name / f"{i}.png")
        self.reference: list[dict[str, bytes]] = []
        self.seconds, self.changes = 0.0, 0
        for variant in self.variants:
            self.learn(variant)

    def learn(self, variant: int) -> None:
        """Run a variant undisturbed."""
        out = self.fresh()
        for _ in range(2 if not variant else 1):  # the first one imports modules
            shutil.rmtree(out, ignore_errors=True)
            began = time.monotonic()
            status = ended(start(self.argv(out, variant), self.log, str(out)))
            assert status == 0, self.log.read_text()
            self.seconds = time.monotonic() - began
            self.changes, modules = json.loads(Path(f"{self.log}.json").read_text())
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                for name in modules:
                    with contextlib.suppress(Exception):
                        importlib.import_module(name)
        self.reference.append(content(out))

    def fresh(self) -> Path:
        self.number += 1
        return self.root / f"out{self.number}"

    def argv(self, out: Path, variant: int) -> list[str]:
        raise NotImplementedError

    def before(self, out: Path) -> Any:
        """Return what `check` compares with."""

    def check(self, out: Path, before: Any, variant: int) -> None:
        raise NotImplementedError

    def finish(self, out: Path, variant: int) -> None:
        """Repeat the command to its end, and check its files."""
        status = complete(self.argv(out, variant), self.log)
        assert status == 0, self.log.read_text()
        self.whole(out, variant)

    def whole(self, out: Path, variant: int) -> None:
        """Check that a folder holds the files of an undisturbed run, and nothing else."""
        found, expected = content(out), self.reference[variant]
        assert set(found) == set(expected), sorted(set(found) ^ set(expected))
        for name in found:
            assert any(part in name for part in self.ignored) or found[name] == expected[name], f"{name} differs"


def content(out: Path) -> dict[str, bytes]:
    """Return the files of a folder, name → bytes, those of hidden folders included; of a file its own bytes."""
    if out.is_file():
        return {"": out.read_bytes()}
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


class Encode(Command):
    """The output is a whole file, the old or the new one."""

    def argv(self, out, variant):
        out.mkdir(exist_ok=True)
        picture = self.root / ("apples", "pears")[variant] / "0.png"
        return ["encode", str(picture), "-c", "image/jpeg", "-o", str(out / "x.tlm"), "--force"]

    def before(self, out):
        return content(out).get("x.tlm")

    def check(self, out, before, variant):
        now = content(out).get("x.tlm")
        assert now in (before, self.reference[variant]["x.tlm"]), "the output is neither old nor new"
        assert set(walk.files(out, recursive=True)) <= {Path("x.tlm")}, "a later run would read a temporary file"


class EncodeLong(Encode):
    """As above, of a sound that is written segment by segment."""

    def __init__(self, root: Path, seed: int) -> None:
        for variant in self.variants:
            wave = torch.rand(1, 8000 * 64, generator=torch.Generator().manual_seed(variant)) * 0.2
            codecs.write(wave, root / f"{variant}.wav", sample_rate=8000)
        codecs.save(codecs.build("audio/rvq", sample_rate=8000, ratios=[8, 8], filters=2, dim=4), root / "codec")
        super().__init__(root, seed)

    def argv(self, out, variant):
        out.mkdir(exist_ok=True)
        given = ["-c", str(self.root / "codec"), "-o", str(out / "x.tlm"), "--force"]
        return ["encode", str(self.root / f"{variant}.wav"), *given]


class Tokenize(Command):
    """Shards are whole, of one job, and at the end those of an undisturbed run."""

    def argv(self, out, variant):
        return [
            "tokenize", "data=folder", f"data.path={self.root / ('apples', 'pears')[variant]}", "codec=image/jpeg",
            "shard_items=2", f"workers={self.workers}", f"out={out}",
        ]  # fmt: skip

    @property
    def workers(self) -> int:
        return int(self.random.random() < 0.05)  # a process that is spawned takes seconds

    def before(self, out):
        """Return the shards that the index or a report counts."""
        found = content(out)
        index = reading.read_index(out)["shards"] if reading.INDEX in found else []
        reported = [f"tokens-{name[10:16]}.tar" for name in found if name.startswith(".progress/0")]
        return {name: found[name] for name in (*reported, *(shard["name"] for shard in index)) if name in found}

    def check(self, out, before, variant):
        found = content(out)
        shards = {name: data for name, data in found.items() if name.startswith("tokens-")}
        named = [shard["name"] for shard in reading.read_index(out)["shards"]] if reading.INDEX in found else []
        owners = {v for v in self.variants for n in shards if shards[n] == self.reference[v][n]}
        assert all(any(shards[n] == self.reference[v][n] for v in self.variants) for n in shards), "a shard is damaged"
        assert len(owners) < 2, "shards of two jobs"
        assert set(named) <= set(shards), "the index names a shard that is not there"
        assert before.items() <= shards.items(), "a shard is lost"
        data = [p for p in walk.files(out, recursive=True) if str(p) not in (*shards, reading.INDEX)] if found else []
        assert not data, f"a later run would read {data}"

    def finish(self, out, variant):
        status = complete(self.argv(out, variant), self.log)
        if status == 2:  # the shards of the other job stay
            assert "choose another folder" in (said := self.log.read_text()) or "other data" in said, said
            variant = 1 - variant
            assert complete(self.argv(out, variant), self.log) == 0, self.log.read_text()
        self.whole(out, variant)


class Train(Command):
    """The last or the previous state loads, and a resumed run equals an undisturbed one. Variant 1 continues it."""

    ignored = ("run.json", "log.csv", "state", ".hydra", "tensorboard")
    steps = (4, 8)

    def __init__(self, root, seed):
        self.expected: list[list[bytes]] = []
        super().__init__(root, seed)

    def fresh(self):
        out = super().fresh()
        if self.random.random() < 0.5:  # a run to continue
            for name, data in self.reference[0].items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(data)
        return out

    def learn(self, variant):
        out = Command.fresh(self)
        for goal in self.variants[: variant + 1]:
            began = time.monotonic()
            assert ended(start(self.argv(out, goal), self.log, str(out))) == 0, self.log.read_text()
            self.seconds = time.monotonic() - began
            self.changes, modules = json.loads(Path(f"{self.log}.json").read_text())
            for name in modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        self.reference.append(content(out))
        self.expected.append(self.rows(self.reference[-1]))

    def argv(self, out, variant):
        if (step := self.step(out)) or state.exists(out):
            longer = step > self.steps[0] or (variant == 1 and step == self.steps[0] and record.is_finished(out))
            return ["train", f"resume={out}", f"steps={self.steps[longer]}"]
        return [
            "train", "codec=image/fsq", "codec.levels=[8,5,4]", "codec.stride=8", "codec.patch=4",
            "codec.widths=[8,16]", "codec.depths=[1,1]", "codec.decoder_depths=[1,1]", "data=scenes", "data.count=4",
            "data.size=40", "crop.size=32", "losses={l1: 1.0}", "workers=0", "batch_size=2", "save_every=1",
            "log_every=1",
            f"steps={self.steps[0]}", "logger=csv", "optimizer.warmup=1", "device=cpu", f"out={out}",
        ]  # fmt: skip

    def rows(self, found: dict[str, bytes]) -> list[bytes]:
        """Return the rows of the log, without times."""
        return sorted(line for line in found["log.csv"].splitlines() if b"items_per_second" not in line)

    def before(self, out):
        return (self.step(out), content(out)) if out.is_dir() else (0, {})

    def step(self, out: Path) -> int:
        if not state.exists(out):
            return 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a damaged state is one
            return state.load(out)["step"]

    def check(self, out, before, variant):
        step, old = before
        assert self.step(out) >= step, "the state is older than before"
        now = content(out) if out.is_dir() else {}
        for name in ("model.safetensors", "config.yaml"):
            known = [reference[name] for reference in self.reference] + [old.get(name)]
            assert now.get(name) in known, f"{name} is of no whole run"
        if "model.safetensors" in old or {"model.safetensors", "config.yaml"} <= set(now):
            codecs.load(out)
        if "run.json" in now:
            json.loads(now["run.json"])

    def whole(self, out, variant):
        found, at = content(out), self.steps.index(self.step(out))
        goal = self.reference[at]
        assert found["model.safetensors"] == goal["model.safetensors"], "another model than of an undisturbed run"
        assert found["config.yaml"] == goal["config.yaml"], "another config than of an undisturbed run"
        assert self.rows(found) == self.expected[at], "another log than of an undisturbed run"
        assert not [name for name in found if name.endswith((".part", ".lock"))], sorted(found)
        codecs.load(out)


class Compare(Command):
    """Report, tables, plots and exhibits are of one run, and a complete comparison stays until the next one is."""

    ignored = ("results", "report.html", ".hydra", ".svg")

    def argv(self, out, variant):
        names = ("image/jpeg", "image/webp")[variant]
        return [
            "compare", f"codecs=[{names},image/png]", "data=folder", "items=2", "protocols=[luma8]",
            f"data.path={self.root / ('apples', 'pears')[variant]}", f"out={out}",
        ]  # fmt: skip

    def before(self, out):
        if not (out / "results.json").is_file():
            return ""
        return "partial" if Results.read(out).status else "complete"

    def check(self, out, before, variant):
        self.one(out)
        if not out.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(out, copy)
            filesets.settle(copy)
            self.one(copy)
            after = self.before(copy)
        assert after == before or (before, after) in (("", "partial"), ("", "complete"), ("partial", "complete")), (
            f"{before} results became {after or 'none'}"
        )

    def one(self, out: Path) -> None:
        """Check that the visible files of a folder are of one run, and that a report has all of its own."""
        found = {name: data for name, data in content(out).items() if name[0] != "." or name.startswith(".hydra/")}
        owners: dict[str, set[int]] = {}
        for name, data in found.items():
            if name.endswith(".png"):
                owners[name] = {v for v in self.variants if self.reference[v].get(name) == data}
                assert owners[name], f"{name} is of no whole run"
            elif name.endswith((".svg", "results.json", "results.csv", "config.yaml", "overrides.yaml")):
                owners[name] = {v for v in self.variants if (b"image/jpeg", b"image/webp")[v] in data}
        common = set(self.variants).intersection(*owners.values()) if owners else {0}
        assert common, f"files of two runs: {owners}"
        if "report.html" not in found:
            return
        results = Results.read(out)
        assert serialize.to_csv([columns(record) for record in results.records]).encode() == found["results.csv"]
        again = page.write(results, path=self.root / "again.html").read_bytes()
        assert again == found["report.html"], "the report is of another run than the table"
        if not results.status:
            parts = {name for v in common for name in self.reference[v] if name.startswith(("plots/", "exhibits/"))}
            assert parts <= set(found), f"the report lacks {sorted(parts - set(found))}"

    def whole(self, out, variant):
        super().whole(out, variant)
        self.one(out)


COMMANDS: dict[str, type[Command]] = {
    "train": Train, "tokenize": Tokenize, "compare": Compare, "encode": Encode, "encode-long": EncodeLong,
}  # fmt: skip


# -- trials ----------------------------------------------------------------------------------------


def kill(command: Command, argv: list[str], out: Path) -> bool:
    """Run a command and kill it. Returns whether it was killed before its end."""
    draw = command.random
    if draw.random() < 0.5:
        status = ended(start(argv, command.log, str(out), draw.randint(1, command.changes)))
    else:
        pid = start(argv, command.log, str(out))
        latest = draw.random() < 0.5
        time.sleep(command.seconds * draw.uniform(0.6 if latest else 0, 1))
        os.kill(pid, signal.SIGKILL)
        status = ended(pid)
    assert status is not None, f"{argv} hangs"
    return status == -signal.SIGKILL


def kills(command: Command, count: int) -> Counter:
    """Kill a command `count` times. A folder lives on through several kills, and is finished now and then."""
    tally: Counter = Counter()
    out = command.fresh()
    while tally["killed"] < count:
        variant = command.random.choice(command.variants)
        before = command.before(out)
        killed = kill(command, command.argv(out, variant), out)
        tally["killed" if killed else "ended first"] += 1
        command.check(out, before, variant)
        if command.random.random() < 0.3:
            tally["finished"] += 1
            command.finish(out, variant)
            if command.random.random() < 0.5:
                shutil.rmtree(out)
                out = command.fresh()
    return tally


def pairs(command: Command, count: int) -> Counter:
    """Start two runs in one folder `count` times. One is whole at the end, and the other is refused in one line."""
    tally: Counter = Counter()
    for _ in range(count):
        out = command.fresh()
        chosen = [command.random.choice(command.variants) for _ in range(2)]
        logs, runs = [command.root / f"log{i}" for i in range(2)], []
        late = command.random.random() < 0.5
        for variant, log in zip(chosen, logs, strict=True):
            argv = [argument for argument in command.argv(out, variant) if argument != "--force"]
            runs.append(start(argv, log, "\0"))
            time.sleep(command.random.uniform(0, command.seconds / 3) if late else 0)
        statuses = [ended(run) for run in runs]
        for status, log in zip(statuses, logs, strict=True):
            assert status in (0, 2), f"status {status}: {log.read_text()}"
            said = [line for line in log.read_text().splitlines() if line.startswith("tokenloom: ")]
            assert status == 0 or (len(said) == 1 and "Traceback" not in log.read_text()), log.read_text()
        assert 0 in statuses, f"both were refused: {logs[0].read_text()} {logs[1].read_text()}"
        tally["one refused" if 2 in statuses else "one after the other"] += 1
        winners = [variant for variant, status in zip(chosen, statuses, strict=True) if status == 0]
        whole(command, out, winners)
        shutil.rmtree(out)
    return tally


def whole(command: Command, out: Path, variants: list[int]) -> None:
    """Check that a folder holds the whole result of one of these variants."""
    problems = []
    for variant in variants:
        try:
            command.whole(out, variant)
            return
        except AssertionError as problem:
            problems.append(str(problem))
    raise AssertionError("; ".join(problems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", choices=COMMANDS)
    parser.add_argument("--count", type=int, default=200, help="number of kills")
    parser.add_argument("--pairs", type=int, default=0, help="number of pairs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in args.commands:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kills-") as root:
            command = COMMANDS[name](Path(root), args.seed)
            tally = kills(command, args.count) + pairs(command, args.pairs)
        print(f"{name}: {dict(tally)} in {time.monotonic() - began:.0f} s", flush=True)
