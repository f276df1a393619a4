"""Tokenized shards as a Dataset of PyTorch."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.codecs import tiny
from torch.utils.data import DataLoader, Dataset

from tokenloom import codecs
from tokenloom.data.tokens import TokenDataset, optional, read, tokenize


@pytest.fixture(scope="module")
def network():
    return tiny("image/fsq")


@pytest.fixture(scope="module")
def shards(network, tmp_path_factory) -> dict[str, Path]:
    """Return format → a folder with the tokens of 11 images of two sizes, in shards of 4."""
    root = tmp_path_factory.mktemp("shards")
    (root / "images").mkdir()
    for i in range(11):
        Image.effect_noise((40, 24) if i % 3 else (17, 9), 70).convert("RGB").save(root / "images" / f"{i:02}.png")
        (root / "images" / f"{i:02}.txt").write_text(f"picture {i}")
    codecs.save(network, root / "codec")
    for format in optional.FORMATS:
        node = {"name": "folder", "path": str(root / "images")}
        tokenize(node, str(root / "codec"), root / format, format=format, shard_items=4, workers=0)
    return {format: root / format for format in optional.FORMATS}


@pytest.fixture(params=list(optional.FORMATS))
def folder(request, shards) -> Path:
    return shards[request.param]


def test_random_access(folder, network):
    rows, dataset = list(read(folder)), TokenDataset(folder, network)
    assert isinstance(dataset, Dataset) and len(dataset) == len(rows) == 11
    for i in (7, 0, 10, 3, 4, -1, 7):
        item = dataset[i]
        assert (item["codes"], item["caption"], item["key"]) == (rows[i].codes, rows[i].caption, rows[i].key)
    for i in (11, -12):
        with pytest.raises(IndexError):
            dataset[i]
    assert [item["key"] for item in dataset] == [row.key for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_takes_it_as_it_is(folder, network, workers):
    rows = {row.key: row for row in read(folder)}
    loader = DataLoader(TokenDataset(folder), batch_size=4, shuffle=True, num_workers=workers)
    seen = []
    for batch in loader:
        signals = network.decode(batch["codes"])
        for i, key in enumerate(batch["key"]):
            height, width = batch["codes"].sizes[i].tolist()
            assert batch["caption"][i] == rows[key].caption
            torch.testing.assert_close(signals[i, :, :height, :width], network.decode(rows[key].codes)[0])
        seen += batch["key"]
    assert sorted(seen) == sorted(rows)


def test_a_spawned_worker(shards):
    loader = DataLoader(TokenDataset(shards["webdataset"]), num_workers=1, multiprocessing_context="spawn")
    assert sum(len(batch["codes"]) for batch in loader) == 11


def test_it_pickles(folder):
    dataset = TokenDataset(folder)
    first = dataset[5]
    assert pickle.loads(pickle.dumps(dataset))[5] == first


def test_texts_of_unequal_lengths_are_padded(tmp_path):
    for i, text in enumerate(("a", "a much longer text", "naïve")):
        (tmp_path / f"{i}.md").write_text(text, encoding="utf-8")
    tokenize({"name": "folder", "path": str(tmp_path)}, "text/bytes", tmp_path / "out", workers=0)
    (batch,) = DataLoader(TokenDataset(tmp_path / "out"), batch_size=3)
    assert batch["codes"].lengths.tolist() == [1, 18, 6]
    assert codecs.build("text/bytes").decode(batch["codes"]) == ["a", "a much longer text", "naïve"]


def test_a_changed_shard_is_refused_at_its_first_use(shards, tmp_path):
    for path in shards["webdataset"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "tokens-000001.tar"
    content = bytearray(damaged.read_bytes())
    content[700] ^= 1
    damaged.write_bytes(content)
    dataset = TokenDataset(tmp_path)
    assert dataset[0]["key"]
    with pytest.raises(ValueError, match=r"tokens-000001.tar is damaged: its SHA-256 differs"):
        dataset[5]
    damaged.unlink()
    with pytest.raises(ValueError, match=r"tokens-000001.tar is missing or cut"):
        TokenDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no tokens"):
        TokenDataset(tmp_path / "nothing")


def test_tokens_of_another_codec_are_refused(shards):
    with pytest.raises(ValueError, match="holds tokens of"):
        TokenDataset(shards["webdataset"], codecs.build("image/jpeg"))
