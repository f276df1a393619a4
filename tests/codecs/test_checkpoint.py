"""Weights are checked when they are read: against their checksum, and for NaN and infinity."""

from __future__ import annotations

import math
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.codecs import one_line, tiny

from tokenloom import codecs, models
from tokenloom.codecs import checkpoint, storage

SHIPPED = [name for kind in checkpoint.KINDS for name in checkpoint.shipped(kind)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a codec, a decoder and a model."""
    root = tmp_path_factory.mktemp("checkpoints")
    codecs.save(tiny("image/fsq"), root / "codec", store="int8")
    models.save(
        models.build_decoder({"codec": str(root / "codec"), "widths": [8, 8], "depths": [1, 1]}), root / "decoder"
    )
    network = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 64}
    omni = {"transformer": network, "channels": [{"name": "text/bytes"}]}
    models.save(models.build(omni), root / "omni", store="float16")
    return root


@pytest.mark.parametrize("kind", ["codec", "decoder", "omni"])
def test_a_flipped_bit_is_refused(folders, kind, tmp_path):
    folder = shutil.copytree(folders / kind, tmp_path / kind)
    load, path = codecs.load if kind == "codec" else models.load, folder / checkpoint.WEIGHTS
    good = path.read_bytes()
    load(folder)
    rng, start = random.Random(0), 8 + int.from_bytes(good[:8], "little")
    for at in [start, len(good) - 1, *(rng.randrange(start, len(good)) for _ in range(8))]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .*SHA-256") as error:
            load(folder)
        assert one_line(error)


def test_equal_weights_give_equal_files(tmp_path):
    for i in range(12):
        codecs.save(tiny("image/fsq"), tmp_path / str(i))
    assert len({(tmp_path / str(i) / checkpoint.WEIGHTS).read_bytes() for i in range(12)}) == 1


def test_weights_of_an_earlier_version_are_checked_by_the_config(folders, tmp_path):
    folder = shutil.copytree(folders / "codec", tmp_path / "codec")
    path, config = folder / checkpoint.WEIGHTS, folder / "config.yaml"
    state = load_file(path)
    save_file(state, path)
    codecs.load(folder)  # without any checksum
    config.write_text(f"{config.read_text()}sha256: {storage.digest(state)}\n")
    codecs.load(folder)
    name = next(name for name, value in state.items() if value.dtype == torch.int8)
    state[name].view(-1)[3] += 1
    save_file(state, path)
    with pytest.raises(ValueError, match="damaged: its values have the SHA-256"):
        codecs.load(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    codecs.save(tiny("image/fsq"), tmp_path)
    state = load_file(tmp_path / checkpoint.WEIGHTS)
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name].view(-1)[0] = value
    save_file(state, tmp_path / checkpoint.WEIGHTS)
    with pytest.raises(ValueError, match=f"damaged: {name} holds NaN or infinity"):
        codecs.load(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_have_a_checksum(name):
    folder = checkpoint.shipped_folder(name)
    config = checkpoint.read_config(folder)
    assert re.fullmatch("[0-9a-f]{64}", config[checkpoint.CHECKSUM])
    checkpoint.weights(folder, config)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.weights(folder, config | {checkpoint.CHECKSUM: "0"})
