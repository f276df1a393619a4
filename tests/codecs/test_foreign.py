"""Checkpoints of other projects are found, read without running code, and loaded strictly."""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import pathlib
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.codecs import TINY, one_line, tiny
from torch import nn

from tokenloom import codecs
from tokenloom.codecs import foreign

STATE = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}


class Attributes(dict):
    """A dictionary with attributes, as training frameworks store their hyperparameters."""


class Anything:
    def __init__(self) -> None:
        self.x = [1, {"y": None}]


EXTRAS = {
    "namespace": argparse.Namespace(lr=1e-3), "mapping": Attributes(lr=1e-3), "object": Anything(),
    "scalar": np.float64(3), "array": np.arange(3), "path": pathlib.Path("x"), "dtype": np.dtype("f4"),
    "default": collections.defaultdict(int, {1: 2}), "partial": functools.partial(int, base=2), "class": Anything,
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_frameworks_put_beside_the_weights_is_inert(extra, zipped, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": STATE, "extra": EXTRAS[extra]}, path, _use_new_zipfile_serialization=zipped)
    found = foreign.tensors(foreign.read(path), "model", "state_dict")
    assert found.keys() == STATE.keys() and all(torch.equal(found[k], v) for k, v in STATE.items())


class Harm:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_runs(zipped, tmp_path, monkeypatch):
    """Neither functions of the system nor those of an importable module run."""
    module = types.ModuleType("stranger")
    module.ran = []

    def touch(name: str) -> None:
        module.ran.append(name)

    touch.__module__, touch.__qualname__ = "stranger", "touch"
    module.touch = touch
    monkeypatch.setitem(sys.modules, "stranger", module)
    path = tmp_path / "x.pt"
    torch.save({"state_dict": STATE, "x": Harm(module.touch, "ran")}, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "stranger")
    assert foreign.tensors(foreign.read(path), "state_dict").keys() == STATE.keys() and module.ran == []
    for function, argument in ((os.system, f"touch {tmp_path}/ran"), (eval, f"open('{tmp_path}/ran', 'w')")):
        torch.save({"state_dict": STATE, "x": Harm(function, argument)}, path, _use_new_zipfile_serialization=zipped)
        try:
            foreign.read(path)
        except ValueError as error:
            assert "blocked" in str(error) and "\n" not in str(error)
    assert not (tmp_path / "ran").exists()


def test_reading_leaves_nothing_allowed_behind(tmp_path):
    torch.save({"x": Anything()}, tmp_path / "x.pt")
    before = set(torch.serialization.get_safe_globals())
    foreign.read(tmp_path / "x.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_several_threads_read_at_once(tmp_path):
    """Each file names a class that another thread's file does not."""
    for i in range(8):
        name = f"Stranger{i}"
        module = types.ModuleType(f"stranger{i}")
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
        sys.modules[module.__name__] = module
        torch.save({"state_dict": STATE, "config": getattr(module, name)()}, tmp_path / f"{i}.ckpt")
        del sys.modules[module.__name__]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda n: foreign.read(tmp_path / f"{n % 8}.ckpt"), range(160)))
    assert all(foreign.tensors(content, "state_dict").keys() == STATE.keys() for content in read)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}.", b"not a checkpoint", bytes(range(256))])
def test_damaged_files_are_one_line(content, tmp_path):
    for name in ("x.ckpt", "x.safetensors", "x.th"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as a checkpoint|must hold tensors") as error:
            foreign.tensors(foreign.read(tmp_path / name), "state_dict")
        assert one_line(error)


def test_a_cut_file_is_one_line(tmp_path):
    torch.save(STATE, tmp_path / "x.ckpt")
    data = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint") as error:
        foreign.read(tmp_path / "x.ckpt")
    assert one_line(error)


def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path):
    """With a stride of zero, one number claims any size."""
    torch.save({"state_dict": {"a": torch.ones(1).expand(10**9)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="more than it holds") as error:
        foreign.read(tmp_path / "x.ckpt")
    assert one_line(error)


def test_parts_of_an_index(tmp_path):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, (key, value) in zip(names, STATE.items(), strict=True):
        save_file({key: value}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(STATE, names, strict=True))}))
    found = foreign.read(foreign.locate(tmp_path))
    assert found.keys() == STATE.keys() and all(torch.equal(found[k], v) for k, v in STATE.items())
    index.write_text(json.dumps({"weight_map": {"a.weight": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match="outside its folder") as error:
        foreign.read(index)
    assert one_line(error)


@pytest.mark.parametrize("source", ["nowhere/at/all.ckpt", "last.ckpt", "nobody/nothing.th", "/"])
def test_missing_files_are_named(source):
    with pytest.raises(FileNotFoundError) as error:
        foreign.locate(source)
    assert one_line(error) and source.split("/")[-1] in str(error.value)


def test_a_hub_id_offline_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is neither a folder") as error:
        foreign.locate("nobody/nothing")
    assert one_line(error)


def test_weight_normalization_is_folded_exactly():
    for norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        for layer in (nn.Conv1d(3, 5, 4), nn.ConvTranspose1d(3, 5, 4)):
            normed = norm(layer)
            x = torch.randn(1, 3, 20)
            state = foreign.fold({f"layer.{k}": v for k, v in normed.state_dict().items()})
            assert sorted(state) == ["layer.bias", "layer.weight"]
            with torch.no_grad():
                wanted = normed(x)
                plain = type(layer)(3, 5, 4)
                plain.load_state_dict({k.removeprefix("layer."): v for k, v in state.items()})
                assert torch.equal(plain(x), wanted)


def test_adoption_is_strict_and_takes_half_precision():
    codec = codecs.build("image/vqgan", **TINY["image/vqgan"])
    state = {k: v for k, v in tiny("image/vqgan").state_dict().items() if k != "counts"}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    foreign.adopt(codec, half, "x")
    assert all(v.dtype == codec.state_dict()[k].dtype for k, v in state.items() if v.is_floating_point())
    name = next(iter(state))
    broken = (
        {k: v for k, v in state.items() if k != name},
        state | {"more": torch.ones(1)},
        state | {name: torch.ones(2)},
    )
    for wrong in broken:
        with pytest.raises(ValueError, match="x holds another architecture") as error:
            foreign.adopt(codec, wrong, "x")
        assert one_line(error)


def test_codecs_without_foreign_weights_say_so():
    with pytest.raises(ValueError, match="image/fsq takes no checkpoint of other projects") as error:
        codecs.build("image/fsq", checkpoint="x.ckpt")
    assert one_line(error)


@pytest.mark.parametrize(
    "source", ["image/taming", {"name": "image/taming"}, {"name": "audio/encodec", "checkpoint": None}]
)
def test_random_weights_are_never_taken_for_published_ones(source):
    with pytest.raises(ValueError, match="needs another project's weights") as error:
        codecs.load(source)
    assert one_line(error)
