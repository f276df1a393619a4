"""`from tokenloom import codecs, compare, models, train`: the commands as functions, and their results as objects."""

from __future__ import annotations

import gc
import inspect
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import matplotlib
import pandas
import pytest
import torch
import yaml
from PIL import Image
from support.codecs import TINY
from support.training import SCENES
from support.tree import ROOT

import tokenloom
from tokenloom import api, codecs, compare, data, models, train
from tokenloom.train import loop

CODEC = {"name": "image/fsq", **TINY["image/fsq"]}
SHORT = {
    "steps": 3, "batch_size": 2, "log_every": 1, "crop": {"size": 32}, "optimizer": {"warmup": 1},
    "losses": {"l2": 1.0}, "precision": "32-true", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def photos(tmp_path) -> Path:
    """Return a folder with three small images, whose name has signs with a meaning for Hydra."""
    folder = tmp_path / 'my [photos], ${2} "a"=b\\'
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((40 + i, 33), 60).convert("RGB").save(folder / f"{i}.png")
    return folder


# -- the package ----------------------------------------------------------------------------------


def test_the_package_is_light_and_complete():
    program = """if True:
        import sys, tokenloom
        assert not {"torch", "numpy", "yaml"} & set(sys.modules)
        from tokenloom import compare, train
        assert not {"torch", "numpy", "yaml"} & set(sys.modules)
        assert {"codecs", "compare", "data", "metrics", "models", "train"} <= set(dir(tokenloom))
        import tokenloom.train.run_config
        from tokenloom import train
        assert callable(train) and callable(tokenloom.train)
        assert tokenloom.codecs.build("image/jpeg").name == "image/jpeg"
        try:
            tokenloom.nothing
        except AttributeError as error:
            assert "nothing" in str(error)
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_train_is_a_function_and_a_package():
    assert train is tokenloom.train and loop.__name__ == "tokenloom.train.loop"
    assert list(inspect.signature(train).parameters) == ["codec", "data", "overrides"]
    assert tokenloom.codecs is codecs and tokenloom.models is models


def test_the_defaults_of_compare_are_those_of_the_command():
    config = yaml.safe_load((ROOT / "conf" / "compare.yaml").read_text(encoding="utf-8"))
    parameters = inspect.signature(compare).parameters
    for key in set(config) - {"defaults", "codecs", "out"}:
        default = parameters[key].default
        assert (list(default) if isinstance(default, tuple) else default) == config[key], key
    assert {"data": "images"} in config["defaults"] and parameters["data"].default == "images"


# -- compare --------------------------------------------------------------------------------------


def test_compare(photos, tmp_path):
    result = compare(["image/jpeg", "image/png"], photos, tmp_path / "out", items=2)
    assert result.folder == tmp_path / "out" and not result.interrupted
    assert repr(result) == f"Comparison(image/jpeg, image/png: {len(result.records)} settings on {photos.stem})"
    frame = result.frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(result.records) == len(frame["coded"].dropna())
    assert set(frame["codec"]) == {"image/jpeg", "image/png"} and set(frame["n"]) == {2}
    assert {row.codec for row in result.bd_rates} == {"image/png"}
    assert all(isinstance(line, str) for line in result.summary)
    kept = result.save(tmp_path / "kept")
    assert (kept / "report.html").read_bytes() == result.report().read_bytes()
    assert result.report(tmp_path / "one.html").read_bytes() == result.report().read_bytes()
    with pytest.raises(ValueError, match="kept must be a new or an empty folder"):
        result.save(tmp_path / "kept")


def test_a_comparison_in_a_notebook(tmp_path):
    (tmp_path / "<b>").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "<b>" / "a.png")
    text = compare("image/jpeg", tmp_path / "<b>")._repr_html_()
    assert "<td>quality 1</td>" in text and "&lt;b&gt;" in text and "<b>" not in text and "<script" not in text


def test_a_comparison_without_a_folder_leaves_nothing_behind(photos):
    result = compare(["image/png"], {"path": photos, "limit": 1})
    folder = result.folder
    assert result.report().is_file() and {record.n for record in result.records} == {1}
    del result
    gc.collect()
    assert not folder.exists()


def test_data_of_every_form(photos, tmp_path):
    assert api.settings_of("images")["max_side"] == 512 and api.settings_of("demo")["name"] == "mix"
    assert api.settings_of(photos) == api.settings_of(f"{photos}/") == {"name": "folder", "path": str(photos)}
    assert api.settings_of("shards/*.tar") == {"name": "tar", "path": "shards/*.tar"}
    assert api.settings_of({"path": photos, "limit": 2}) == {"name": "folder", "path": photos, "limit": 2}
    result = compare(["image/png"], data.open_source("scenes", count=2, size=32))
    assert {record.n for record in result.records} == {2}
    for wrong, error, match in (
        ("scene", ValueError, r"unknown data source 'scene' \(did you mean scenes\?\)"),
        ("no/where", FileNotFoundError, "no folder or tar file no/where"),
        (__file__, ValueError, "must be a folder, a tar file or a source"),
        ({"limit": 2}, ValueError, "must name a source or a path"),
    ):
        with pytest.raises(error, match=match):
            compare(["image/png"], wrong)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"codecs": ["image/jpg"]}, "image/jpeg"),
        ({"codecs": []}, "codecs is empty"),
        ({"device": "abacus"}, "abacus"),
        ({"data": {"name": "folder"}}, "data source folder needs data.path"),
    ],
)
def test_mistakes_of_a_comparison_are_value_errors(given, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        compare(**{"codecs": ["image/png"], "data": "images", "out": tmp_path / "out"} | given)
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_caller_is_changed(photos, monkeypatch):
    """The backend, parameters and figures of matplotlib, loggers, threads; filters, once all is loaded."""
    from matplotlib import pyplot

    def state():
        loggers = (logging.root.level, list(logging.root.handlers), logging.root.manager.disable)
        plots = (matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums())
        return plots, loggers, torch.get_num_threads()

    monkeypatch.setattr(warnings, "filters", list(warnings.filters))
    before, filters = state(), []
    for i in range(2):  # packages add filters when they are imported
        compare(["image/jpeg"], photos, items=1)
        train(CODEC, SCENES, out=photos / f"run{i}", **SHORT)
        filters.append(list(warnings.filters))
    assert state() == before and filters[0] == filters[1]


# -- train ----------------------------------------------------------------------------------------


def test_train(photos, tmp_path):
    run = train(CODEC, photos, out=tmp_path / "run", **SHORT, **{"losses.l1": 1.0})
    assert run.folder == tmp_path / "run" and run.steps == 3 and not run.interrupted
    assert repr(run) == f"TrainedRun({tmp_path / 'run'}: 3 steps)"
    codec = run.load()
    assert codec.name == "image/fsq" and codec.config["levels"] == CODEC["levels"]
    frame = run.frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == [1, 2, 3] and frame["loss"].notna().all()
    assert run.last()["loss"] == frame["loss"].iloc[-1] and "<td>loss</td>" in run._repr_html_()
    longer = train(CODEC, photos, out=tmp_path / "run", resume=True, **{**SHORT, "steps": 4, "losses.l1": 1.0})
    assert longer.steps == 4 and list(longer.frame().index) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="already holds a run"):
        train(CODEC, photos, out=tmp_path / "run", **SHORT)


def test_train_in_a_thread(tmp_path):
    """Only the main thread of a process receives signals."""
    found: list = []
    thread = threading.Thread(target=lambda: found.append(train(CODEC, SCENES, out=tmp_path / "run", **SHORT)))
    thread.start()
    thread.join()
    assert found and found[0].steps == 3


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"lr": 1e-3}, r"unknown key 'lr' \(did you mean optimizer.lr"),
        ({"optimizer": {"lrr": 1e-3}}, r"'optimizer.lrr' \(did you mean optimizer.lr"),
        ({"codec": "image/fsk"}, r"image/fsk.*did you mean image/fsq"),
        ({"codec": {"name": "image/fsq", "level": [8]}}, "level"),
        ({"data": None}, "no data chosen"),
        ({"data": "folder"}, "data=folder needs data.path"),
        ({"steps": "many"}, "must be a whole number"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"crop": object()}, "crop must be a plain value.*got object"),
    ],
)
def test_mistakes_of_a_training_are_value_errors(given, match, tmp_path):
    with pytest.raises(ValueError, match=match) as error:
        train(**{"codec": "image/fsq", "data": "scenes", "out": tmp_path / "out"} | given)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
