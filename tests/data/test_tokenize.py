"""Data sets as shards of tokens: the same bytes for every engine, and after any number of kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from support import disk
from support.codecs import TINY, one_line, tiny
from torch import Tensor

from tokenloom import codecs, data, lock
from tokenloom.cli.main import main
from tokenloom.codecs import media, rate, registry
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, CodeSpec, Modality, Settings, Target
from tokenloom.data.tokens import TokenRow, local, optional, reading, tar, tokenize
from tokenloom.data.tokens.encoder import Encoder
from tokenloom.data.tokens.row import index_type

SCENES = {"name": "scenes", "count": 23, "size": 32}
FORMATS = list(optional.FORMATS)


class Sided(Codec):
    """Codec of the means of 4×4 blocks, with the range of the image as side information, up to 40 columns."""

    name = "image/sided"
    spec = CodeSpec(Modality.IMAGE, (64,), (4, 4), 3, None, total=True, ordered=False, causal=False)
    settings = Settings("levels", "", 64, (2, 64))

    def side_shapes(self, size):
        return {"range": (2,)}

    def _encode(self, x, setting):
        if x.shape[-1] > 40:
            raise ValueError(f"{x.shape[-1]} columns\nare too many")
        height, width = x.shape[-2:]
        y = torch.nn.functional.pad(x.mean(1, keepdim=True), (0, -width % 4, 0, -height % 4), mode="replicate")
        y = torch.nn.functional.avg_pool2d(y, 4)
        low, high = y.amin((1, 2, 3)), y.amax((1, 2, 3))
        unit = (y - low[:, None, None, None]) / (high - low)[:, None, None, None].clamp(min=1e-6)
        sizes = torch.tensor([[height, width]]).repeat(len(x), 1)
        return Codes((unit * (setting - 1)).round().long(), sizes, None, {"range": torch.stack([low, high], 1)})

    def _decode(self, codes):
        low, high = (codes.side["range"][:, k, None, None, None] for k in (0, 1))
        y = (codes.indices / 63 * (high - low) + low).repeat_interleave(4, -2).repeat_interleave(4, -1)
        height, width = codes.sizes[0].tolist()
        return y[..., :height, :width].expand(-1, 3, -1, -1).contiguous().clamp(0, 1)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, and register `image/sided`."""
    monkeypatch.chdir(tmp_path)
    registry.names()  # loads the entry points first
    monkeypatch.setitem(registry._classes, Sided.name, Sided)
    return tmp_path


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a small codec."""
    folder = tmp_path_factory.mktemp("codec")
    codecs.save(tiny("image/fsq"), folder)
    return str(folder)


def mixed() -> dict[str, Any]:
    """Write a folder of images, sounds and texts of different sizes. Images and sounds have captions."""
    Path("mixed/deep").mkdir(parents=True)
    for i, (height, width) in enumerate(((17, 23), (40, 31), (40, 31), (1, 1))):
        y, x = np.mgrid[0:height, 0:width]
        Image.fromarray(np.stack([9 * x, 7 * y, 3 * (x + y) + 40 * i], -1).astype(np.uint8)).save(
            f"mixed/deep/{i}.v1.png"
        )
        Path(f"mixed/deep/{i}.v1.txt").write_text(f"picture {i}, naïve\n", encoding="utf-8")
    for i, (samples, hertz, channels) in enumerate(((2205, 22_050, 2), (900, 8_000, 1), (3001, 16_000, 1))):
        sound = 0.4 * np.sin(np.arange(samples) / (7 + i))
        soundfile.write(f"mixed/{i}.wav", np.stack([sound] * channels, -1), hertz)
        Path(f"mixed/{i}.txt").write_text(f"sound {i}", encoding="utf-8")
    for i, text in enumerate(("naïve café\n", "the quick brown fox", "")):
        Path(f"mixed/note{i}.md").write_text(text, encoding="utf-8")
    return {"name": "folder", "path": "mixed"}


def batch(item: data.Item, codec: Codec) -> Tensor | list[str]:
    """Return an item as a batch of one for a codec."""
    if item.modality is Modality.AUDIO:
        return media.convert(item.signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels)[None]
    return [item.signal] if item.modality is Modality.TEXT else item.signal[None]


def items(node: dict[str, Any], modality: Modality) -> list[data.Item]:
    return [item for item in data.open_source(**node).items() if item.modality is modality]


def equal(a: Codes, b: Codes) -> bool:
    same = torch.equal(a.indices, b.indices) and torch.equal(a.sizes, b.sizes) and a.side.keys() == b.side.keys()
    lengths = a.lengths is b.lengths is None or torch.equal(a.lengths, b.lengths)
    return same and lengths and all(torch.equal(a.side[key], b.side[key]) for key in a.side)


def held(folder: str | Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# -- written shards -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_codec_decodes_to_what_it_gives_itself(codec: Codec, format: str) -> None:
    node = mixed()
    codecs.save(codec, "codec")
    index = tokenize(node, "codec", "out", format=format, shard_items=2, workers=0)
    rows, wanted = list(reading.read("out", codec)), items(node, codec.spec.modality)
    assert [row.key for row in rows] == [item.key for item in wanted]
    assert [row.caption for row in rows] == [item.caption for item in wanted]
    tokens, bits = 0, 0.0
    for row, item in zip(rows, wanted, strict=True):
        codes = codec.encode(batch(item, codec))
        assert equal(row.codes, codes)
        one, other = codec.decode(row.codes), codec.decode(codes)
        assert one == other if isinstance(one, list) else torch.equal(one, other)
        tokens, bits = tokens + int(rate.tokens(codec.spec, codes)), bits + float(rate.nominal(codec.spec, codes))
    assert index["totals"]["tokens"] == tokens
    assert index["totals"]["nominal_bits"] == pytest.approx(bits, rel=1e-12)
    assert index["totals"]["items"] == len(wanted)


@pytest.mark.parametrize("format", FORMATS)
def test_side_information_and_targets(format: str) -> None:
    codec = codecs.build("image/sided")
    tokenize(SCENES, "image/sided", "out", format=format, workers=0)
    for row, item in zip(reading.read("out", codec), items(SCENES, Modality.IMAGE), strict=True):
        assert equal(row.codes, codec.encode(item.signal[None]))
    index = tokenize(SCENES, "image/jpeg", "goal", format=format, setting={"psnr": 22}, batch_size=4, workers=0)
    assert index["setting"] == {"psnr": 22.0}
    jpeg = codecs.build("image/jpeg")
    for row, item in zip(reading.read("goal", jpeg), items(SCENES, Modality.IMAGE), strict=True):
        assert equal(row.codes, jpeg.encode(item.signal[None], Target(psnr=22)))


def test_index_says_what_the_shards_are(mine: str) -> None:
    import hashlib

    index = tokenize(SCENES, mine, "out", shard_items=10, workers=0)
    assert index == reading.read_index("out") and index["complete"]
    assert index["codec"] == {"source": mine, "name": "image/fsq", "fingerprint": tiny("image/fsq").fingerprint.hex()}
    assert index["data"] == SCENES and index["setting"] is None
    assert index["spec"]["codebook_sizes"] == [160] and index["dtype"] == "uint8"
    assert [shard["items"] for shard in index["shards"]] == [10, 10, 3]
    for shard in index["shards"]:
        content = Path("out", shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert index["totals"]["tokens"] == 23 * 16 and index["totals"]["bytes"] == sum(s["bytes"] for s in index["shards"])
    assert sorted(held("out")) == ["_index.json", *(f"tokens-00000{n}.tar" for n in range(3))]


@pytest.mark.parametrize(
    ("sizes", "name"), [((256,), "uint8"), ((9, 257), "int16"), ((2**15,), "int16"), ((2**18,), "int32")]
)
def test_indices_take_the_smallest_type(sizes: tuple[int, ...], name: str) -> None:
    assert index_type(sizes) == name and np.iinfo(name).max >= max(sizes) - 1


def test_neighbors_of_one_size_are_encoded_together(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, x: seen.append(len(x)) or encode(self, x))
    node = mixed() | {"modality": "image"}
    for codec, batches in ((mine, [1, 2, 1]), ("image/sided", [1, 1, 1, 1])):
        seen.clear()
        tokenize(node, codec, codec.replace("/", "_"), batch_size=3, workers=0)
        assert seen == batches


@pytest.mark.parametrize("name", ["image/fsq", "image/rvq", "image/sided"])
def test_shards_do_not_depend_on_the_batch_size(name: str, mine: str) -> None:
    codec = name
    if name != "image/sided":
        codecs.save(tiny(name), "codec")
        codec = "codec"
    found = []
    for size in (1, 4, 23):
        tokenize(SCENES, codec, f"out{size}", shard_items=9, batch_size=size, workers=0)
        found.append(held(f"out{size}"))
    assert found[0] == found[1] == found[2]
    tokenize(SCENES, codec, "out1", shard_items=9, batch_size=5, workers=0)  # the same job


# -- large signals --------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a folder with a long sound of floats beyond 1, a large picture, and a small and a broken one of each."""
    rng = np.random.default_rng(0)
    Path("data").mkdir()
    for name, samples, peak in (("long", 9001, 1.7), ("short", 500, 0.5)):
        wave = rng.uniform(-peak, peak, (samples, 2))
        soundfile.write(f"data/{name}.wav", wave, 16_000, subtype="FLOAT")
    for name, size in (("large", (90, 160, 3)), ("small", (9, 12, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(f"data/{name}.png")
    Path("data/large.txt").write_text("a caption")
    for name in ("large.png", "long.wav"):
        Path("data", "cut_" + name).write_bytes(Path("data", name).read_bytes()[:21_000])
    monkeypatch.setattr(media.images, "LARGE", 1000)
    monkeypatch.setattr(media.pieces, "LONG", 0.1)
    monkeypatch.setattr(media.pieces, "PIECE", 700)
    return {"name": "folder", "path": "data"}


def archived(node: dict[str, Any]) -> dict[str, Any]:
    with tarfile.open("data.tar", "w") as archive:
        for path in sorted(Path(node["path"]).iterdir()):
            archive.add(path, path.name)
    return {"name": "tar", "path": "data.tar"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["image/fsq", "image/ntc", "audio/rvq", "image/jpeg"])
@pytest.mark.parametrize("setting", [None, {"psnr": 8.0}])
def test_large_signals_have_the_tokens_of_the_whole(name, setting, large, monkeypatch) -> None:
    if setting is not None and name in ("image/fsq", "audio/rvq"):
        pytest.skip("it does not meet a PSNR")
    codec = name
    if name != "image/jpeg":
        codecs.save(tiny(name), "codec")
        codec = "codec"
    seen: list[Any] = []
    encode = Encoder.encode_large
    monkeypatch.setattr(Encoder, "encode_large", lambda self, x: seen.append(x) or encode(self, x))
    by_pieces = tokenize(large, codec, "out", setting=setting, workers=0)
    assert len(seen) == (name != "image/jpeg") * (2 if name == "audio/rvq" else 1)
    in_tar = tokenize(archived(large), codec, "tarred", setting=setting, workers=0)
    monkeypatch.setattr(media.images, "LARGE", 2**24)
    monkeypatch.setattr(media.pieces, "LONG", 60)
    seen.clear()
    whole = tokenize(large, codec, "whole", setting=setting, workers=0)
    assert not seen and by_pieces["totals"]["items"] == 2 + (name == "audio/rvq")
    for index in (by_pieces, in_tar):
        (shard,), (expected,) = index["shards"], whole["shards"]
        kinds, others = shard.pop("notices", {}), expected.get("notices", {})
        assert {k: v[0] for k, v in kinds.items()} == {k: v[0] for k, v in others.items()}
        assert shard["sha256"] == expected["sha256"]
        assert len(shard["broken"]) == len(expected["broken"]) == (name != "audio/rvq")


# -- readers of other projects ------------------------------------------------------------------


def test_webdataset_reads_it(mine: str) -> None:
    webdataset = pytest.importorskip("webdataset")
    node = mixed()
    tokenize(node, mine, "out", shard_items=3, workers=0)
    samples = list(webdataset.WebDataset("out/tokens-{000000..000001}.tar", shardshuffle=False).decode())
    codec, wanted = codecs.load(mine), items(node, Modality.IMAGE)
    assert len({sample["__key__"] for sample in samples}) == len(samples) == len(wanted)
    for sample, item in zip(samples, wanted, strict=True):
        assert np.array_equal(sample["npy"], codec.encode(item.signal[None]).indices[0].numpy())
        assert sample["txt"] == item.caption and sample["json"]["key"] == item.key
        assert sample["json"]["size"] == list(item.signal.shape[1:])


def test_webdataset_reads_side_information_and_any_key() -> None:
    webdataset = pytest.importorskip("webdataset")
    codes = codecs.build("image/sided").encode(torch.rand(1, 3, 9, 8))
    keys = ["a.b/c.d", "a", "__a__/b", "/a", "", "a/", "ä", "a\\b", "50%", "x" * 300, "../a", "a%2Eb"]
    with open("any.tar", "wb") as file, tar.writer(file, "uint8") as write:
        for key in keys:
            write(TokenRow(key, codes, "", {"speaker": key}))
    samples = list(webdataset.WebDataset("any.tar", shardshuffle=False).decode())
    assert (
        [sample["json"]["key"] for sample in samples]
        == [sample["json"]["meta"]["speaker"] for sample in samples]
        == keys
    )
    assert len({sample["__key__"] for sample in samples}) == len(keys)
    assert all(np.array_equal(sample["range.npy"], codes.side["range"][0].numpy()) for sample in samples)
    assert [row.key for row in tar.read(Path("any.tar"))] == keys
    assert all(equal(row.codes, codes) for row in tar.read(Path("any.tar")))


def test_pyarrow_reads_it(mine: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    node = mixed()
    tokenize(node, mine, "out", shard_items=3, format="parquet", workers=0)
    table = parquet.read_table("out", columns=["key", "indices", "shape", "size", "length", "caption"])
    codec, wanted = codecs.load(mine), items(node, Modality.IMAGE)
    assert table["indices"].type.value_type == "uint8"
    for row, item in zip(table.to_pylist(), wanted, strict=True):
        codes = codec.encode(item.signal[None])
        assert np.array_equal(np.reshape(row["indices"], row["shape"]), codes.indices[0].numpy())
        assert row["size"] == list(item.signal.shape[1:]) and row["length"] is None
        assert (row["key"], row["caption"]) == (item.key, item.caption)


def test_datasets_reads_it(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra tokenloom[hub] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenize(SCENES, mine, "out", shard_items=10, format="parquet", workers=0)
    rows = datasets.load_dataset("out", split="train", cache_dir="cache")
    assert rows["key"] == [item.key for item in items(SCENES, Modality.IMAGE)]
    assert rows[3]["indices"] == list(reading.read("out"))[3].codes.indices.flatten().tolist()


# -- the same bytes -----------------------------------------------------------------------------


def test_bytes_do_not_depend_on_workers(mine: str) -> None:
    for workers in (0, 2):
        tokenize(SCENES, mine, f"out{workers}", shard_items=5, workers=workers)
    assert held("out0") == held("out2")


def killed(start: Callable[[], object], when: Callable[[], bool]) -> bool:
    """Run `start` in a process, and kill it once `when` is true. Returns whether it was still running."""
    process = multiprocessing.get_context("fork").Process(target=start)
    process.start()
    while process.is_alive() and not when():
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_do_not_depend_on_kills(mine: str, format: str) -> None:
    def start() -> None:
        tokenize(SCENES, mine, "out", shard_items=4, format=format, workers=0)

    def there() -> int:
        return len([p for p in Path("out").glob("tokens-*")])

    moments = (
        lambda: Path("out/_index.json").exists(),
        lambda: any(Path("out/.progress").glob("*.part")),
        lambda: there() == 1,
        lambda: there() >= 2 and any(Path("out/.progress").glob("*.part")),
        lambda: there() >= 4,
    )
    hit = 0
    for moment in moments:
        hit += killed(start, moment)
        for shard in Path("out").glob("tokens-*"):  # complete or absent
            assert len(list(optional.get_format(format).read(shard))) in (4, 3)
    assert hit >= 3
    reports = [json.loads(p.read_bytes()) for p in Path("out/.progress").glob("*.json")]
    done = {report["name"]: Path("out", report["name"]).stat().st_mtime_ns for report in reports}
    assert done
    start()
    assert all(Path("out", name).stat().st_mtime_ns == written for name, written in done.items()), "made twice"
    tokenize(SCENES, mine, "straight", shard_items=4, format=format, workers=0)
    assert held("out") == held("straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_shards_and_says_how_to_go_on(mine: str, number: signal.Signals) -> None:
    overrides = ["data=scenes", "data.count=200", "data.size=32", f"codec={mine}", "shard_items=10", "out=out"]

    def start() -> None:
        os.setsid()
        with open("said", "w", encoding="utf-8") as sys.stdout, open("err", "w", encoding="utf-8") as sys.stderr:
            status = main(["tokenize", *overrides, "workers=1"])
        os._exit(status)

    process = multiprocessing.get_context("fork").Process(target=start)
    process.start()
    while not list(Path("out").glob("tokens-*")) and process.is_alive():
        time.sleep(0.001)
    os.killpg(process.pid, number)  # as a terminal does, to the worker too
    process.join()
    err = Path("err").read_text(encoding="utf-8")
    assert (process.exitcode, Path("said").read_text(encoding="utf-8")) == (130, ""), err
    assert "of 20 shards are complete in out; the same command continues" in err
    assert err.splitlines()[-1] == "tokenloom: interrupted" and "Traceback" not in err
    assert 1 <= len(list(Path("out").glob("tokens-*"))) < 20
    with pytest.raises(ValueError, match="not complete"):
        reading.read("out")
    node = {"name": "scenes", "count": 200, "size": 32, "seed": 0, "words": 0.3}  # as conf/data/scenes.yaml has it
    tokenize(node, mine, "out", shard_items=10, workers=0)
    tokenize(node, mine, "straight", shard_items=10, workers=0)
    assert held("out") == held("straight")


def test_worker_that_dies_is_one_line(mine: str) -> None:
    def murder() -> None:
        while not list(Path("out").glob("tokens-*")):
            time.sleep(0.001)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    murderer = threading.Thread(target=murder)
    murderer.start()
    node = {**SCENES, "count": 2000}
    with pytest.raises(ChildProcessError, match="killed by signal 9") as error:
        tokenize(node, mine, "out", shard_items=20, workers=1)
    murderer.join()
    assert one_line(error)


class Asleep:
    """A job and its encoder. A shard takes a minute."""

    def __init__(self) -> None:
        self.encoder = self

    def open(self) -> None:
        return

    def shard(self, encoder: None, number: int) -> Iterator[int]:
        yield number
        time.sleep(60)


def test_a_worker_ends_with_its_parent() -> None:
    """Else it could write a shard when another job has begun in the folder."""
    ours, theirs = multiprocessing.Pipe()

    def parent() -> None:
        ours.close()
        worker = multiprocessing.get_context("spawn").Process(target=local._serve, args=(Asleep(), theirs))
        worker.start()
        theirs.close()
        worker.join()

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    theirs.close()
    ours.send(7)
    assert ours.recv() == 7
    process.kill()
    assert ours.poll(20), "the worker lives"
    with pytest.raises(EOFError):
        ours.recv()
    process.join()


def test_a_second_run_in_the_folder_is_refused(mine: str) -> None:
    with lock.locked(Path("out")), pytest.raises(ValueError, match="out is in use by another run") as error:
        tokenize(SCENES, mine, "out", workers=0)
    assert one_line(error)


def test_a_new_job_removes_what_another_one_left_without_a_report(mine: str) -> None:
    """A kill came between the name of a shard and its report. Arrow would read the stray shard, too."""
    tokenize(SCENES, mine, "out", shard_items=4, workers=0, format="parquet")
    index = json.loads(Path("out/_index.json").read_bytes())
    last = max(path.name for path in Path("out").glob("tokens-*"))
    for path in Path("out").glob("tokens-*"):
        if path.name != last:
            path.unlink()
    Path("out/_index.json").write_text(json.dumps({**index, "complete": False, "shards": []}))
    for out in ("out", "straight"):
        tokenize(SCENES, mine, out, shard_items=12, workers=0, format="parquet")
    assert held("out") == held("straight")


@pytest.mark.usefixtures("loopback")
def test_ray_writes_the_same_bytes(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra tokenloom[ray] is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    Path("codec").symlink_to(mine)  # a relative path is that of the caller
    try:
        node = mixed() | {"modality": "image"}
        Path("mixed/broken.png").write_bytes(b"none")
        tokenize(node, "codec", "out", shard_items=2, workers=1)
        first = Path("out/tokens-000000.tar")
        before = first.stat().st_mtime_ns
        Path("out/tokens-000001.tar").unlink()
        tokenize(node, "codec", "out", shard_items=2, engine="ray", workers=1)
        assert first.stat().st_mtime_ns == before, "made twice"
        with pytest.raises(ValueError, match=r"broken\.png") as error:
            tokenize(node | {"strict": True}, "codec", "strict", shard_items=2, engine="ray", workers=1)
        assert one_line(error)
        assert ray.is_initialized(), "it was not ours to end"
    finally:
        ray.shutdown()
    tokenize(node, "codec", "straight", shard_items=2, workers=0)
    assert held("out") == held("straight")


# -- missing or unsuitable input ----------------------------------------------------------------


def test_items_that_are_left_out_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    mixed()
    Path("mixed/broken.png").write_bytes(b"none")
    Image.fromarray(np.zeros((8, 50, 3), np.uint8)).save("mixed/wide.png")
    assert main([*OVERRIDES, "codec=image/sided"]) == 0
    said, err = capsys.readouterr()
    assert "4 items" in said
    assert "left out 1 of 6 items that could not be read, named in _index.json, first: mixed/broken.png" in err
    assert "that image/sided does not take, named in _index.json, first: wide: 50 columns are too many" in err
    index = reading.read_index("out")
    (shard,) = index["shards"]
    assert (len(shard["broken"]), shard["refused"]) == (1, ["wide: 50 columns are too many"])
    assert index["data_items"] == 6 and index["totals"]["items"] == 4 == len(list(reading.read("out")))
    assert "broken.png" in refuse(capsys, "codec=image/sided", "data.strict=true", "out=strict")
    assert "broken.png" in refuse(capsys, "codec=image/sided", "data.strict=true"), "though it is whole already"


def test_conversions_of_sounds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, peak in (("a", 2.0), ("b", 0.5), ("c", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.full((900, 2), peak, np.float32), 16000, subtype="FLOAT")
    out = tmp_path / "out"
    overrides = ["data=folder", f"data.path={tmp_path}", "codec=audio/flac", f"out={out}", "workers=0", "shard_items=2"]
    for _ in range(2):  # a complete job tells it again
        assert main(["tokenize", *overrides]) == 0
        said = capsys.readouterr().err
        assert "folder: 1 of 3 items: samples beyond ±1 are scaled down to a peak of 1, first: a: the peak is 2" in said
        assert "folder: 3 of 3 items: 2 channels are averaged to 1, 16000 Hz is resampled to 24000 Hz, first: a" in said


def test_items_of_another_modality_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    node = {"name": "mix", "parts": [{"name": "scenes", "count": 3}, {"name": "phrases", "count": 2, "seconds": 1}]}
    index = tokenize(node, "audio/flac", "out", workers=0)
    assert (index["data_items"], index["totals"]["items"]) == (2, 2)
    assert [row.key[0] for row in reading.read("out")] == ["1", "1"]
    node["parts"] = node["parts"][:1]
    with pytest.raises(ValueError, match="data=mix holds no audio, which audio/flac needs"):
        tokenize(node, "audio/flac", "none", workers=0)


OVERRIDES = ["tokenize", "data=folder", "data.path=mixed", "workers=0", "out=out"]


def refuse(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Return the one line that a failing command prints."""
    capsys.readouterr()
    status = main([*OVERRIDES, *overrides])
    said, err = capsys.readouterr()
    assert (status, said, err.count("\n")) == (2, "", 1), err
    assert err.startswith("tokenloom: ")
    return err.removeprefix("tokenloom: ").rstrip("\n")


def test_another_job_in_the_same_folder_is_refused(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    mixed()
    assert main([*OVERRIDES, f"codec={mine}"]) == 0
    before = held("out")
    torch.manual_seed(7)
    codecs.save(codecs.build("image/fsq", **TINY["image/fsq"]), "other")
    for overrides, key in (
        (["codec=other"], "codec.fingerprint="), ([f"codec={mine}", "shard_items=3"], "shard_items=1000, not 3"),
        ([f"codec={mine}", "format=parquet"], "format='webdataset'"),
        ([f"codec={mine}", "data.limit=5"], "data.limit=None, not 5"),
        (["codec=image/jpeg", "setting=30"], "codec."),
    ):  # fmt: skip
        assert key in refuse(capsys, *overrides)
        assert held("out") == before
    Path("mixed/new.png").write_bytes(Path("mixed/deep/0.v1.png").read_bytes())
    assert "data_items=4, not 5" in refuse(capsys, f"codec={mine}")
    Path("mixed/new.png").unlink()
    Path("mixed/deep/3.v1.png").write_bytes(Path("mixed/deep/0.v1.png").read_bytes())
    assert "begun with other data" in refuse(capsys, f"codec={mine}")


@pytest.mark.parametrize("format", FORMATS)
def test_shards_are_on_disk_before_they_have_their_names(
    mine: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard gets its name, then its report; the index is last."""
    events = disk.record(monkeypatch)
    tokenize(SCENES, mine, "out", format=format, shard_items=12, workers=0)
    shards = [event for event in events if event.startswith("tokens-")]
    assert len(shards) == 2 and all(event.endswith(": flushed") for event in events if event != "flush")
    named = [event.removesuffix(": flushed") for event in events if event != "flush"]
    first = named.index(f"tokens-000000{optional.get_format(format).SUFFIX}")
    assert first < named.index("000000.json") < len(named) - 1 and named[-1] == reading.INDEX


def test_complete_one_is_left_alone_and_a_lost_shard_made_again(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    mixed()
    assert main([*OVERRIDES, f"codec={mine}", "shard_items=1"]) == 0
    before, times = held("out"), {p: p.stat().st_mtime_ns for p in Path("out").iterdir()}
    capsys.readouterr()
    assert main([*OVERRIDES, f"codec={mine}", "shard_items=1"]) == 0
    assert "complete already, nothing to do: 4 items" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in Path("out").iterdir()} == times
    Path("out/tokens-000002.tar").write_bytes(before["tokens-000002.tar"][:700])
    with pytest.raises(ValueError, match=r"tokens-000002\.tar is missing or cut"):
        reading.read("out")
    assert main([*OVERRIDES, f"codec={mine}", "shard_items=1"]) == 0
    assert "complete already" not in capsys.readouterr().out
    assert held("out") == before


def test_reading_refuses_what_is_not_its_own(mine: str) -> None:
    with pytest.raises(FileNotFoundError, match="holds no tokens"):
        reading.read("nowhere")
    tokenize(SCENES, mine, "out", workers=0)
    with pytest.raises(ValueError, match="holds tokens of") as error:
        reading.read("out", codecs.build("image/jpeg"))
    assert one_line(error)
    shard = Path("out/tokens-000000.tar")
    damaged = bytearray(shard.read_bytes())
    damaged[512:518] = b"nonpy!"
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged") as error:
        list(reading.read("out"))
    assert one_line(error)
    index = json.loads(Path("out/_index.json").read_bytes())
    for content, said in (
        ("{", "damaged"),
        ("[]", "version None"),
        (json.dumps(index | {"version": 99}), "version 99"),
    ):
        Path("out/_index.json").write_text(content)
        with pytest.raises(ValueError, match=said):
            reading.read("out")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "no codec chosen"),
        (["codec=image/nosuch"], "unknown codec 'image/nosuch'"),
        (["codec=image/fsq"], "must be trained first"),
        (["codec=image/fsq", "codec.stride=8"], "must be trained first"),
        (["codec=emoji-fsq", "codec.stride=8"], "codec.stride is for registered codecs"),
        (["codec=audio/opus", "codec.nosuch=8"], "takes no 'nosuch'"),
        (["codec=image/jpeg", "data.path=nosuch"], "nosuch"),
        (["codec=image/jpeg", "data=tar"], "tar"),
        (["codec=image/jpeg", "dat=tar"], "unknown key 'dat' (did you mean data"),
        (["codec=image/jpeg", "data.modality=audio"], "holds no image, which image/jpeg needs"),
        (["codec=image/jpeg", "setting=200"], "quality of image/jpeg must be one of"),
        (["codec=image/jpeg", "setting={psnr: -3}"], "must be a positive number"),
        (["codec=image/jpeg", "setting={kbps: 3}"], "is for audio codecs"),
        (["codec=image/jpeg", "setting={nosuch: 3}"], "the target must be one of psnr"),
        (["codec=image/jpeg", "format=zip"], "format must be one of webdataset, parquet, got 'zip'"),
        (["codec=image/jpeg", "engine=spark"], "engine must be one of local, ray, got 'spark'"),
        (["codec=image/jpeg", "shard_items=0"], "shard_items must be an integer of at least 1, got 0"),
        (["codec=image/jpeg", "shard_items=abc"], "shard_items=abc is wrong: it must be a whole number"),
        (["codec=image/jpeg", "batch_size=0"], "batch_size must be an integer of at least 1, got 0"),
        (["codec=image/jpeg", "workers=-1"], "workers must be an integer of at least 0, got -1"),
        (["codec=image/jpeg", "device=tpu"], "device must be auto"),
        (["codec=image/jpeg", "out=mixed"], "out=mixed holds other files"),
        (["codec=image/jpeg", "out=mixed/0.wav"], "mixed/0.wav"),
        (["codec=image/jpeg", "out=mixed/0.wav/deeper"], "mixed/0.wav"),
    ],
)
def test_misuse_is_one_line(capsys: pytest.CaptureFixture[str], overrides: list[str], said: str) -> None:
    mixed()
    assert said in refuse(capsys, *overrides)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("package", "override", "extra"), [("pyarrow", "format=parquet", "parquet"), ("ray", "engine=ray", "ray")]
)
def test_missing_package_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str, override: str, extra: str
) -> None:
    mixed()
    monkeypatch.setitem(sys.modules, package, None)
    line = refuse(capsys, "codec=image/jpeg", override)
    assert line == f"{override} needs {package}, which is not installed: pip install 'tokenloom[{extra}]'"


def test_help_and_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tokenize", "--help"])
    assert stop.value.code == 0 and "examples:\n  tokenloom tokenize" in capsys.readouterr().out
    mixed()
    assert main([*OVERRIDES, "-m", "codec=image/png,text/bytes"]) == 0
    assert [reading.read_index(f"out/{n}")["totals"]["items"] for n in (0, 1)] == [4, 3]


def test_a_folder_without_a_whole_shard_holds_nothing_to_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens if data.strict=true refuses an image that is then repaired."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"\x89PNG torn")
    data = {"name": "folder", "path": "photos", "strict": True}
    with pytest.raises((ValueError, OSError)):
        tokenize(data, "image/png", "out", workers=0)
    Image.new("RGB", (9, 7), (200, 90, 30)).save("photos/a.png")
    assert tokenize(data, "image/png", "out", workers=0)["totals"]["items"] == 1


def test_no_data_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", "codec=emoji-fsq", "out=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("tokenloom: no data chosen")
