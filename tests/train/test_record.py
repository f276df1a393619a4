"""What a run records of itself, and how it goes on from that: run.json, resume=FOLDER, loggers, warm-up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cli import refuse, succeed
from support.training import SCENES, config, log

from tokenloom import codecs, data, environment, own_code
from tokenloom.codecs import media
from tokenloom.train import loggers, record
from tokenloom.train.config import OptimizerConfig
from tokenloom.train.loop import Run, train

SHORT = [
    "codec=image/fsq", "codec.stride=8", "codec.widths=[8,16]", "codec.depths=[1,1]", "codec.decoder_depths=[1,1]",
    "data=folder", "data.path=pictures", "steps=4", "batch_size=2", "crop.size=32", "losses.l1=1", "device=cpu",
    "logger=csv", "log_every=1",
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four pictures."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("pictures").mkdir()
    scenes = data.open_source(**SCENES)
    for i in range(4):
        codecs.write(scenes[i].signal, f"pictures/{i}.png")
    return tmp_path / "home"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- run.json -----------------------------------------------------------------------------------


def test_a_run_records_where_and_how_it_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = train(config(tmp_path / "run", steps=3, stop_after=2, seed=5, precision="auto"))
    chosen = json.loads((out / "run.json").read_text())["config"]["precision"]
    assert chosen in ("bf16-mixed", "32-true"), "a run goes on with what its first machine chose"
    train(config(out, steps=3, resume=True, seed=5))
    content = json.loads((out / "run.json").read_text())
    first, second = content["sessions"]
    assert (first["first_step"], first["last_step"], first["status"]) == (0, 2, "stopped")
    assert (second["first_step"], second["last_step"], second["status"]) == (2, 3, "finished")
    assert first["started"] <= first["ended"] <= second["started"] and first["seconds"] > 0
    assert first["python"] == sys.version.split()[0] and first["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"tokenloom", "numpy"} <= set(first["versions"]) and first["threads"] == torch.get_num_threads()
    assert first["device"].startswith("cpu (") and first["processes"] == 1 and first["seed"] == 5
    assert first["folder"] == str(tmp_path) and first["command"]
    assert content["config"]["codec"]["name"] == "image/fsq" and content["config"]["seed"] == 5
    assert not {"out", "resume", "stop_after"} & set(content["config"])


def test_a_killed_run_is_recorded_as_running(tmp_path):
    run = Run(config(tmp_path / "run", steps=2))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]["status"] == "running"
    run.logs.close()


def test_the_revision_tells_changes(tmp_path):
    def git(*words: str) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    (tmp_path / "code").mkdir()
    assert environment.revision(tmp_path / "nowhere") is None
    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = environment.revision(tmp_path / "code")
    assert clean is not None and len(clean) == 40
    (tmp_path / "a.txt").write_text("2")
    assert environment.revision(tmp_path) == f"{clean}-dirty"


# -- resume=FOLDER --------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_folder(capsys, home, tmp_path, monkeypatch):
    """From another current folder, bit for bit, although the path of the data is relative."""
    succeed(capsys, "train", *SHORT, "out=straight")
    succeed(capsys, "train", *SHORT, "out=parts", "stop_after=2")
    monkeypatch.chdir(tmp_path)
    assert succeed(capsys, "train", "resume=home/parts") == f"{home / 'parts'}\n"
    for name in ("model.safetensors", "config.yaml"):
        assert (home / "parts" / name).read_bytes() == (home / "straight" / name).read_bytes()
    assert Path.cwd() == tmp_path
    overrides = (home / "parts" / ".hydra" / "overrides.yaml").read_text()
    assert "codec=image/fsq" in overrides, "the labels of a comparison come from the first command"

    before = files_of(home / "parts")
    assert succeed(capsys, "train", "resume=home/parts")
    assert files_of(home / "parts") == before, "a finished run stays as it is"
    for words, says in (
        (["optimizer.lr=0.1"], "was trained with optimizer.lr=0.0009; it cannot go on with 0.1"),
        (["seed=1"], "was trained with seed=0; it cannot go on with 1"),
        (["codec.widths=[8,24]"], "holds another architecture, trained with codec.widths=[8, 16]"),
        (["losses.l2=1"], "was trained with losses.l2="),
        (["steps=2"], "is already at step 4, beyond steps=2"),
        (["codec=image/rvq"], "takes codec from the run; leave out codec=image/rvq"),
        (["data=scenes"], "takes data from the run; leave out data=scenes"),
        (["out=other"], "takes out from the run; leave out out="),
        (["-m", "seed=1,2"], "continues one run"),
        (["stepz=2"], "unknown key 'stepz' (did you mean steps?)"),
        (["steps=many"], "steps=many is wrong: it must be a whole number"),
    ):
        assert says in refuse(capsys, "train", "resume=home/parts", *words), words
    assert files_of(home / "parts") == before
    succeed(capsys, "train", "resume=home/parts", "steps=5", "logger=csv")
    assert (5, "loss") in log(home / "parts")


def test_a_finished_run_says_so(tmp_path, capsys):
    out = train(config(tmp_path / "run", steps=2))
    capsys.readouterr()
    assert train(config(out, steps=2, resume=True)) == out
    assert f"{out} is finished at step 2; steps=… trains it longer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nowhere", "nowhere: there is no run.json; no run began there"),
        ("pictures", "pictures: there is no run.json; no run began there"),
        ("", "resume must name the folder of a run, got an empty name"),
        ("older", "an older version wrote the run: repeat its command with resume=true out="),
        ("broken", "run.json is damaged"),
        ("short", "run.json is damaged: it lacks the config or the sessions"),
    ],
)
def test_folders_that_hold_no_run(capsys, home, value, says):
    for name, file, text in (("older", "state.pt", ""), ("broken", "run.json", "{"), ("short", "run.json", "{}")):
        (home / name).mkdir()
        (home / name / file).write_text(text)
    assert says in refuse(capsys, "train", f"resume={value}")


def test_a_strangers_run_runs_no_code(capsys, home, tmp_path, monkeypatch):
    """Its file runs if the user has imported it, and not because run.json names it."""
    monkeypatch.setattr(own_code, "_loaded", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    trace = tmp_path / "trace"
    Path("side_effect.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).write_text('ran')\n")
    succeed(capsys, "train", "import=side_effect.py", *SHORT, "out=run", "stop_after=2")
    content = json.loads(Path("run/run.json").read_text())
    assert content["imports"][0]["file"] == "side_effect.py" and Path("run/code/side_effect.py").is_file()

    def new_process() -> None:
        own_code._loaded.clear()
        sys.modules.pop("side_effect", None)
        trace.unlink(missing_ok=True)

    new_process()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "stranger"))
    assert "side_effect.py, code that was never imported" in refuse(capsys, "train", "resume=run")
    assert not trace.exists()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    succeed(capsys, "train", "resume=run")
    assert trace.exists()
    new_process()


def test_a_folder_with_a_model_is_not_overwritten(tmp_path):
    out = train(config(tmp_path / "run", steps=1))
    (out / "state.pt").unlink()
    before = files_of(out)
    with pytest.raises(ValueError, match=r"already holds a model \(config\.yaml\); choose another out="):
        train(config(out, steps=1))
    assert files_of(out) == before


# -- warm-up ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (40, 4), (2000, 200), (10_000, 200)])
def test_the_default_warmup_fits_the_run(tmp_path, steps, warmup):
    run = Run(config(tmp_path / "run", steps=steps, optimizer=OptimizerConfig()))
    assert run.cfg.optimizer.warmup == warmup
    run.logs.close()


def test_a_longer_run_keeps_its_warmup(tmp_path):
    out = train(config(tmp_path / "run", steps=10, stop_after=1, optimizer=OptimizerConfig()))
    run = Run(config(out, steps=4000, resume=True, optimizer=OptimizerConfig()))
    assert run.cfg.optimizer.warmup == 1
    run.logs.close()


def test_a_warmup_beyond_the_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"optimizer\.warmup must be at most steps=5, got 6"):
        train(config(tmp_path / "run", steps=5, optimizer=OptimizerConfig(warmup=6)))
    assert not (tmp_path / "run").exists()


# -- loggers ------------------------------------------------------------------------------------


def test_csv_alone(tmp_path):
    out = train(config(tmp_path / "run", steps=1, logger="csv"))
    assert (1, "loss") in log(out) and not (out / "tensorboard").exists()


def test_tensorboard_holds_values_and_samples(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(config(tmp_path / "images", steps=2, logger=["csv", "tensorboard"]))
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert events.Scalars("loss")[1].value == pytest.approx(log(out)[2, "loss"], rel=1e-4)
    assert [event.step for event in events.Images("samples")] == [2]

    board = loggers.LOGGERS["tensorboard"](tmp_path, 0, None)
    media.write(torch.zeros(1, 800), tmp_path / "0000003-original.wav", sample_rate=8000)
    (tmp_path / "0000003-text.txt").write_text("'red' → 'blue'\n")
    board.sample(3, "samples/original", tmp_path / "0000003-original.wav")
    board.sample(3, "samples/text", tmp_path / "0000003-text.txt")
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Audio("samples/original")[0].sample_rate == 8000
    assert "samples/text/text_summary" in events.Tags()["tensors"]


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = train(config(tmp_path / "run", steps=2, stop_after=1, logger="wandb"))
    first = json.loads((out / "run.json").read_text())["loggers"]["wandb"]
    train(config(out, steps=2, resume=True, logger="wandb"))
    runs = sorted(path.name for path in (out / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and all(name.endswith(first) for name in runs), "a resumed run goes on under its id"
    pictures = list((out / "wandb").glob("offline-run-*/files/media/images/samples_*.png"))
    assert len(pictures) == 2


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    out = train(config(tmp_path / "run", steps=2, stop_after=1, logger="mlflow"))
    train(config(out, steps=2, resume=True, logger="mlflow"))
    run_id = json.loads((out / "run.json").read_text())["loggers"]["mlflow"]
    client = mlflow.MlflowClient()
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2]
    assert client.get_run(run_id).data.params["codec.name"] == "image/fsq"
    names = [file.path for file in client.list_artifacts(run_id, "samples")]
    assert names == ["samples/0000001.png", "samples/0000002.png"]


@pytest.mark.parametrize(
    ("logger", "says"),
    [
        ("tensorbord", r"unknown logger 'tensorbord' \(did you mean tensorboard\?\)"),
        (["csv", "neptune"], "unknown logger 'neptune'; known: csv, tensorboard, wandb, mlflow"),
        (3, "logger must be a name or a list such as"),
        (None, "logger must be a name or a list such as"),
    ],
)
def test_unknown_loggers(tmp_path, logger, says):
    with pytest.raises(ValueError, match=says):
        train(config(tmp_path / "run", logger=logger))
    assert not (tmp_path / "run").exists()


def test_a_logger_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"logger=wandb needs wandb, .*pip install 'tokenloom\[wandb\]'"):
        loggers.check(["csv", "wandb"])
    assert loggers.check("csv") == loggers.check([]) == []


def test_a_logger_that_fails_is_recorded(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no login")

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", fails)
    with pytest.raises(ValueError, match="no login"):
        train(config(tmp_path / "run"))
    assert not record.is_finished(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]["status"] == "failed"
