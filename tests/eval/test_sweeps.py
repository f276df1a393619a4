"""Sweeps: several trainings from one command, each in its folder, and one plot of all."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from support.cli import refuse, succeed

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.eval.compare.entries import load_entries
from tokenloom.train.loop import Run

NETWORK = ["codec.widths=[8,16]", "codec.depths=[1,1]", "codec.decoder_depths=[1,1]"]
RUN = ["data=scenes", "data.count=4", "data.size=40", "steps=1", "batch_size=2", "crop.size=32", "losses.l1=1",
       "device=cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines for the user on the terminal."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenloom:")]


def test_sweep_over_codecs_with_keys_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The codecs of the jobs have the key `codec.widths`; the default codec does not."""
    succeed(capsys, "train", "-m", "codec=image/fsq,image/bsq", *NETWORK, *RUN, "out=sweep")
    assert [codecs.load(f"sweep/{job}").name for job in (0, 1)] == ["image/fsq", "image/bsq"]
    assert codecs.load("sweep/1").config["widths"] == [8, 16]
    overrides = yaml.safe_load(Path("sweep/0/.hydra/overrides.yaml").read_text())
    assert "codec=image/fsq" in overrides and "steps=1" in overrides


def test_sweep_within_the_codec_and_over_data(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["codec=image/fsq", "codec.widths=[8,16],[8,24]", *NETWORK[1:], "data=scenes,images", *RUN[2:]]
    assert main(["train", "-m", *sweep, "data.count=4", "out=sweep"]) == 2  # `images` has no count
    lines = told(capsys)
    assert len(lines) == 2 and all("images takes no" in line for line in lines)
    assert [line.split(":")[1] for line in lines] == [" job 1", " job 3"]
    assert [codecs.load(f"sweep/{job}").config["widths"] for job in (0, 2)] == [[8, 16], [8, 24]]
    assert sorted(p.name for p in Path("sweep").iterdir()) == ["0", "2", "multirun.yaml"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["codec=image/fsq,image/nosuch"], "unknown codec 'image/nosuch'"),
        (["codec.stride=8,16"], "there is no codec yet"),
        (["codec=image/fsq", "stepz=1,2"], "unknown key 'stepz'"),
        (["codec=image/fsq", "steps=1,many"], "steps=1,many is wrong: it must be a whole number"),
        (["hydra/launcher=nosuch", "seed=0,1"], "hydra/launcher"),
    ],
)
def test_a_sweep_that_cannot_be_composed_runs_no_job(capsys: pytest.CaptureFixture[str], argv, says, tmp_path) -> None:
    status = main(["train", "-m", *argv, "data=scenes", "data.count=4", "out=sweep"])
    lines = told(capsys)
    assert status == 2 and len(lines) == 1 and says in lines[0]
    assert not list(tmp_path.rglob("model.safetensors"))


def test_every_job_may_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "codec=image/fsq,image/bsq", "codec.stride=7", *RUN]) == 2
    lines = told(capsys)
    assert [line[:18] for line in lines] == ["tokenloom: job 0: ", "tokenloom: job 1: "]
    assert all("stride" in line for line in lines)


def test_interruption_ends_the_sweep_and_saves_the_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Run._update

    def interrupted(self, step, batch):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, step, batch)

    monkeypatch.setattr(Run, "_update", interrupted)
    sweep = ["codec=image/fsq", *NETWORK, *RUN, "steps=50", "seed=0,1", "out=sweep"]
    assert main(["train", "-m", *sweep]) == 130
    assert told(capsys) == ["tokenloom: interrupted"]
    assert codecs.load("sweep/0").name == "image/fsq"
    assert yaml.safe_load(Path("sweep/0/config.yaml").read_text())["trained"]["steps"] == 2
    assert not Path("sweep/1").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None
    if importlib.util.find_spec("hydra_plugins")
    else True,
    reason="hydra-joblib-launcher is not installed (pip install 'tokenloom[sweep]')",
)
def test_jobs_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    """Run jobs in processes of their own, and report their failures."""
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert main(["train", "-m", *joblib, "codec=image/fsq", *NETWORK, *RUN, "batch_size=2,0", "out=sweep"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tokenloom:")]
    assert line.startswith("tokenloom: job 1: batch_size must be")
    assert codecs.load("sweep/0").name == "image/fsq"


def test_a_launcher_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from hydra.errors import MissingConfigException

    from tokenloom.cli import hydra_errors

    error = MissingConfigException("…", "hydra/launcher/submitit_slurm", ["basic"])
    assert "pip install 'tokenloom[sweep]'" in hydra_errors.explain(error, "train", [])


# -- records ------------------------------------------------------------------------------------


def test_a_refused_run_leaves_the_records_of_the_first_alone(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "train", "codec=image/fsq", *NETWORK, *RUN, "out=runs/mine")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    refuse(capsys, "train", "codec=image/fsq", *NETWORK, *RUN, "seed=5", "out=runs/mine")
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("argv", [[], ["out=some/where"], ["-m", "seed=0,1"]])
def test_a_refused_run_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], argv, tmp_path: Path) -> None:
    assert main(["train", "codec=image/fsq", "codec.stride=7", *RUN, *argv]) == 2
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] in ([], ["multirun.yaml"])
    assert argv == ["-m", "seed=0,1"] or not list(tmp_path.iterdir())


# -- comparing ----------------------------------------------------------------------------------


@pytest.fixture
def sweeps(tmp_path: Path) -> None:
    """Write two sweeps like those of `tokenloom train -m`, with untrained codecs, and a single run."""
    small = {"depths": [1, 1], "decoder_depths": [1, 1], "patch": 4, "stride": 8}
    for job, (name, widths, extra) in {
        "one/0": ("image/fsq", [8, 16], ["seed=0"]), "one/1": ("image/fsq", [8, 24], ["seed=0"]),
        "one/2": ("image/bsq", [8, 16], ["seed=0"]), "one/10": ("image/fsq", [8, 24], ["seed=1"]),
        "two/0": ("image/bsq", [8, 16], ["seed=0"]), "mine": ("image/bsq", [8, 16], ["seed=0"]),
    }.items():  # fmt: skip
        codecs.save(codecs.build(name, widths=widths, **small), job)
        Path(job, ".hydra").mkdir()
        overrides = [f"codec={name}", f"++codec.widths={widths}", "out=x", "hydra.sweep.dir=y", *extra]
        Path(job, ".hydra", "overrides.yaml").write_text(yaml.safe_dump(overrides))
    for sweep in ("one", "two"):
        Path(sweep, "multirun.yaml").write_text("hydra: {}\n")
    Path("one/.submitit").mkdir()
    Path("one/failed").mkdir()


def test_labels_tell_what_differs(sweeps: None) -> None:
    assert [c.label for c in load_entries(["one/*"])] == [
        "image/fsq widths=[8,16] seed=0 (0)", "image/fsq widths=[8,24] seed=0 (1)", "image/bsq (2)",
        "image/fsq widths=[8,24] seed=1 (10)",
    ]  # fmt: skip
    assert [c.label for c in load_entries(["one/[02]", "image/png"])] == ["image/fsq (0)", "image/bsq (2)", "image/png"]
    assert [c.label for c in load_entries(["*/0", "mine"])] == ["image/fsq (0)", "image/bsq (0)", "mine"]
    clash = [c.label for c in load_entries(["one/2", "two/0", "one/*2"][:2])]
    assert clash == ["image/bsq (2)", "image/bsq (0)"]
    Path("two/0").rename("two/2")
    assert [c.label for c in load_entries(["*/2"])] == ["image/bsq (one/2)", "image/bsq (two/2)"]


def test_compare_puts_a_sweep_on_one_plot(sweeps: None, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data=scenes", "data.count=2", "data.size=40", "items=1"]
    succeed(capsys, "compare", "codecs=[one/*]", *data, "out=report")
    compared = {r["codec"] for r in json.loads(Path("report/results.json").read_text())["records"]}
    assert len(compared) == 4 and "image/fsq widths=[8,16] seed=0 (0)" in compared
    drawing = Path("report/plots/image-psnr.svg").read_text()
    assert drawing.count("<!-- image/") == 4
    assert "widths=[8,16] seed=0 (0)" in drawing
    says = refuse(capsys, "compare", "codecs=[three/*]", *data, "out=empty")
    assert "'three/*' matches no folder" in says
