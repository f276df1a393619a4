"""Data sources (files, generators, joined audio) and the order of training batches."""

from __future__ import annotations

import inspect
import io
import json
import os
import pickle
import re
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from support.packs import flac, write_tar

from tokenloom import data
from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.data import BrokenItem, open_source
from tokenloom.data.loader import Augment, crops

PACKS = Path(__file__).parents[3] / "shared" / "data"
CONF = Path(__file__).parents[2] / "conf" / "data"


def png(height: int, width: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(path: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def pictures(count: int, height: int = 20, width: int = 24) -> dict[str, bytes]:
    return {f"p{i:02d}.png": png(height, width, i) for i in range(count)}


def same(a: data.Item, b: data.Item) -> bool:
    if isinstance(a.signal, str) or isinstance(b.signal, str):
        equal = a.signal == b.signal
    else:
        equal = torch.equal(a.signal, b.signal)
    return equal and (a.key, a.modality, a.sample_rate, a.caption, a.meta) == (
        b.key, b.modality, b.sample_rate, b.caption, b.meta)  # fmt: skip


# -- files ------------------------------------------------------------------------------------


@pytest.fixture
def mixed() -> dict[str, bytes]:
    ramp = np.linspace(-0.5, 0.5, 300)
    return {
        "a.png": png(5, 7),
        "a.txt": b" a red square \n",
        "a.json": json.dumps({"year": 2024}).encode(),
        "b.flac": flac(np.stack([ramp, -ramp]), 16000),
        "c.txt": "größe".encode(),
        "d.bin": b"not ours",
        "sub/a.png": png(3, 2, 1),
    }


@pytest.mark.parametrize("name", ["folder", "tar"])
def test_files_give_native_signals(tmp_path, mixed, name):
    path = write_tar(tmp_path / "x.tar", mixed) if name == "tar" else write_folder(tmp_path / "x", mixed)
    source = open_source(name, path=path)
    assert [item.key for item in source.items(strict=True)] == ["a", "b", "c", "sub/a"]
    a, b, c, d = source.items(strict=True)
    expected = np.asarray(Image.open(io.BytesIO(mixed["a.png"]))).transpose(2, 0, 1) / np.float32(255)
    assert a.modality is Modality.IMAGE and a.sample_rate is None
    assert a.signal.dtype == torch.float32 and np.array_equal(a.signal.numpy(), expected)
    assert (a.caption, a.meta) == ("a red square", {"year": 2024})
    assert b.modality is Modality.AUDIO and b.signal.shape == (2, 300) and b.sample_rate == 16000
    assert torch.allclose(b.signal[0], torch.linspace(-0.5, 0.5, 300), atol=2**-15)
    assert (c.modality, c.signal, c.caption) == (Modality.TEXT, "größe", "")
    assert d.signal.shape == (3, 3, 2) and d.caption == ""
    for i in (-1, 4):
        with pytest.raises(IndexError):
            source[i]


def test_modality_limit_and_recursion_choose(tmp_path, mixed):
    path = write_folder(tmp_path / "x", mixed)
    assert [i.key for i in open_source("folder", path=path, modality="image").items()] == ["a", "sub/a"]
    assert [i.key for i in open_source("folder", path=path, modality="image", recursive=False).items()] == ["a"]
    texts = [i.signal for i in open_source("folder", path=path, modality="text").items()]
    assert texts == [" a red square \n", "größe"]  # with modality=text, captions are items
    assert len(open_source("folder", path=path, limit=2)) == 2


def test_several_signals_of_one_key_are_several_items(tmp_path):
    files = {"s.left.png": png(2, 2), "s.right.png": png(2, 2, 1), "s.txt": b"pair"}
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", files))
    assert [(i.key, i.caption) for i in source.items()] == [("s.left.png", "pair"), ("s.right.png", "pair")]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_and_long_names(tmp_path, form):
    name = "d" * 90 + "/" + "n" * 60 + ".png"
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", {name: png(4, 4)}, form))
    assert source[0].key == name.removesuffix(".png") and source[0].signal.shape == (3, 4, 4)


NAMES = ("-dash.png", "two\nlines.png", "[x] *.JPG", "UPPER.PNG", "a.b.png", "a.c.png", "c.png", "trailing..png")
CLUTTER = (".DS_Store", "._c.png", ".hidden/h.png", "__MACOSX/c.png", "@eaDir/c.png/thumb.jpg", "Thumbs.db")


@pytest.mark.parametrize("name", ["folder", "tar"])
def test_no_odd_name_loses_an_item_or_its_caption(tmp_path, name):
    files = {n: png(2, 2, i) for i, n in enumerate(NAMES)} | dict.fromkeys(CLUTTER, png(2, 2))
    files |= {"c.png.txt": b"of c.png", "UPPER.TXT": b"of UPPER"}
    files |= {n[:-4] + ".txt": f"of {n}".encode() for n in NAMES if n not in ("c.png", "UPPER.PNG")}
    files["e" * 240 + ".png"] = png(2, 2)
    odd = b"bad\xff.png".decode("utf-8", "surrogateescape")
    files[odd] = png(2, 2)
    path = write_tar(tmp_path / "x.tar", files) if name == "tar" else write_folder(tmp_path / "[x]", files)
    items = {item.key: item for item in open_source(name, path=path).items(strict=True)}
    assert len(items) == len(NAMES) + 2
    captions = sorted(item.caption for item in items.values() if item.caption)
    assert captions == sorted(["of UPPER", *(f"of {n}" for n in NAMES if n != "UPPER.PNG")])
    assert "bad\\udcff" in items and all(key.isprintable() for key in items)


ENCODINGS = {
    "utf-8": "größe ♥", "utf-8-sig": "größe ♥", "utf-16": "größe ♥", "utf-32": "größe ♥", "cp1252": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["folder", "tar"])
def test_captions_and_metadata_in_every_unicode_encoding(tmp_path, name):
    files, right = {}, {}
    for i, (encoding, text) in enumerate({**ENCODINGS, "utf-16-be": "größe ♥", "utf-32-be": "größe ♥"}.items()):
        mark = "\ufeff" if encoding[-3:] == "-be" else ""
        files |= {
            f"{i}.png": png(2, 2),
            f"{i}.txt": f"{mark} größe \r\n".encode(encoding) + b"\0" * (encoding == "utf-8"),
        }
        files[f"{i}.json"] = f'{mark}{{"word": "größe"}}'.encode(encoding if text else "utf-8")
        right[f"{i}"] = "größe" if text else None
    files |= {"x.png": png(2, 2), "x.txt": "no mark".encode("utf-16-le")}
    files |= {"y.png": png(2, 2), "y.txt": b"one\r\ntwo"}
    path = write_tar(tmp_path / "x.tar", files) if name == "tar" else write_folder(tmp_path / "x", files)
    source = open_source(name, path=path)
    reason = r"4\.txt cannot be read as a caption: it must be UTF-8, .* got byte 0xf6 at position 3; .* iconv -f cp1252"
    with pytest.warns(UserWarning, match=f"skipped 2 broken of 9 items, first: .*{reason}"):
        items = {item.key: item for item in source.items()}
    assert {key: item.caption for key, item in items.items()} == {
        **{key: text for key, text in right.items() if text}, "y": "one\ntwo"}  # fmt: skip
    assert all(item.meta == {"word": "größe"} for key, item in items.items() if key != "y")
    with pytest.raises(BrokenItem, match=r"x\.txt.*NUL.*UTF-16"):
        source[7]


def test_links_are_followed_once_and_without_circles(tmp_path, monkeypatch):
    root = Path(write_folder(tmp_path / "root", {"a/p.png": png(2, 2), "z/q.png": png(2, 2)}))
    write_folder(tmp_path / "else", {"r.png": png(2, 2), "s.heic": b""})
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "system").symlink_to("/")  # a folder that holds the root
    (root / "b").symlink_to("../else")
    (root / "b2").symlink_to("../else")
    (root / "a2").symlink_to("z")
    (root / "linked.png").symlink_to("z/q.png")
    (root / "round").symlink_to("round")
    (root / "gone.png").symlink_to("/nowhere/x.png")
    (root / "closed").mkdir()
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(UserWarning) as told:
        source = open_source("folder", path=str(root))
    assert [item.key for item in source.items(strict=True)] == ["a/p", "b/r", "linked", "z/q"]
    lines = [str(warning.message).removeprefix(f"data.path {str(root)!r}: left out ") for warning in told]
    assert lines == [
        f"links that point nowhere (2): {root}/gone.png, …",
        f"folders that cannot be opened (1): {root}/closed: Permission denied",
        "files in formats that cannot be read (1): .heic (1)",
    ]
    with pytest.warns(UserWarning, match="nowhere"):
        assert [item.key for item in open_source("folder", path=str(root), recursive=False).items()] == ["linked"]


def test_shards_by_glob_and_list_agree_and_keys_stay_unique(tmp_path):
    shards = [write_tar(tmp_path / f"s[{k}].tar", {"p.png": png(4, 4, k), "p.txt": b"%d" % k}) for k in range(3)]
    listed = list(open_source("tar", path=shards).items())
    globbed = list(open_source("tar", path=str(tmp_path / "*.tar")).items())
    assert [i.caption for i in listed] == ["0", "1", "2"] and all(map(same, listed, globbed))
    assert len({i.key for i in listed}) == 3
    assert open_source("tar", path=shards[0])[0].key == "p"  # an existing name with brackets is not a pattern
    (tmp_path / "[y]").mkdir()
    write_tar(tmp_path / "[y]" / "t.tar", {"p.png": png(4, 4)})
    assert len(open_source("tar", path=str(tmp_path / "[y]" / "*.tar"))) == 1


def test_a_cut_or_damaged_tar_is_refused(tmp_path):
    whole = Path(write_tar(tmp_path / "x.tar", pictures(3, 12, 12))).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        starts = [member.offset for member in archive]
        end = archive.offset
    for cut in [1, 200, 511, *(s + d for s in starts for d in (100, 512, 700))]:
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not a readable, uncompressed tar shard") as caught:
            open_source("tar", path=str(tmp_path / "cut.tar"))
        assert "\n" not in str(caught.value)
    for start in starts:
        damaged = bytearray(whole)
        damaged[start + 130] ^= 1  # within a header, so its checksum is wrong
        (tmp_path / "cut.tar").write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable, uncompressed tar shard"):
            open_source("tar", path=str(tmp_path / "cut.tar"))
    (tmp_path / "cut.tar").write_bytes(whole[:end])  # only the zeros at the end are missing
    assert len(open_source("tar", path=str(tmp_path / "cut.tar"))) == 3


def test_a_shard_that_shrinks_later_gives_broken_items(tmp_path):
    path = write_tar(tmp_path / "x.tar", pictures(2))
    source = open_source("tar", path=path)
    os.truncate(path, 600)
    with pytest.raises(BrokenItem, match="ends after"):
        source[1]


@pytest.mark.parametrize("name", ["folder", "tar"])
def test_broken_files_are_counted_or_refused(tmp_path, name):
    files = pictures(5)
    files["p01.png"] = b"no picture"
    files["p03.png"] = files["p03.png"][:40]
    files["p04.json"] = b"[1"
    path = write_tar(tmp_path / "x.tar", files) if name == "tar" else write_folder(tmp_path / "x", files)
    source = open_source(name, path=path)
    with pytest.warns(UserWarning, match="skipped 3 broken of 5 items") as caught:
        assert [item.key for item in source.items()] == ["p00", "p02"]
    assert len(caught) == 1 and source.skipped == 3 and "\n" not in str(caught[0].message)
    with pytest.raises(BrokenItem, match=r"p01\.png") as refused:
        list(source.items(strict=True))
    assert "0x" not in str(refused.value)  # without addresses of objects, the message is the same every time
    assert isinstance(refused.value, ValueError)


def test_errors_of_a_person_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    image = write_tar(tmp_path / "x.tar", pictures(1))
    cases = [
        (ValueError, "unknown data source 'floder' (did you mean folder?)", {"name": "floder"}),
        (ValueError, "takes no 'pth' (did you mean path?); it takes path", {"name": "folder", "pth": "x"}),
        (ValueError, "needs data.path", {"name": "tar"}),
        (FileNotFoundError, "does not exist", {"name": "folder", "path": str(tmp_path / "none")}),
        (FileNotFoundError, "is a file", {"name": "folder", "path": image}),
        (FileNotFoundError, "does not exist", {"name": "tar", "path": str(tmp_path / "*.none")}),
        (ValueError, "holds no image, sound or text", {"name": "folder", "path": str(tmp_path / "empty")}),
        (ValueError, "not a readable, uncompressed tar shard", {"name": "tar", "path": __file__}),
        (ValueError, "not a readable, uncompressed tar shard", {"name": "tar", "path": str(tmp_path)}),
        (
            ValueError,
            "modality must be one of text, image, audio, got 'video'",
            {"name": "tar", "path": image, "modality": "video"},
        ),
        (ValueError, "limit must be an integer of at least 1, got 0", {"name": "tar", "path": image, "limit": 0}),
        (ValueError, "no audio to join", {"name": "tar", "path": image, "join": 1.0}),
        (ValueError, "join must be a positive number of seconds, got -1", {"name": "tar", "path": image, "join": -1}),
        (ValueError, "needs join", {"name": "tar", "path": image, "group": "speaker"}),
        (ValueError, "max_side must be an integer of at least 1, got 0", {"name": "images", "max_side": 0}),
        (ValueError, "words must be a share from 0 to 1, got 2", {"name": "scenes", "words": 2}),
        (ValueError, "seed must be an integer of at least 0, got -1", {"name": "phrases", "seed": -1}),
        (ValueError, "must be a list such as", {"name": "mix", "parts": "images"}),
        (ValueError, "needs a name", {"name": "mix", "parts": [{"count": 1}]}),
    ]
    for kind, words, kwargs in cases:
        with pytest.raises(kind, match=re.escape(words)) as caught:
            open_source(**kwargs)
        assert "\n" not in str(caught.value), kwargs


# -- joining ----------------------------------------------------------------------------------


@pytest.fixture
def takes(tmp_path):
    """Alternating recordings of two speakers, of unequal lengths. Every sample holds its number."""
    lengths, files, voices = (700, 900, 1500, 100, 40, 2500, 333, 10), {}, {"ann": [], "bob": []}
    for n, length in enumerate(lengths):
        speaker = ("ann", "bob")[n % 2]
        start = sum(map(len, voices[speaker])) + (8000 if speaker == "bob" else 0)
        samples = (np.arange(length) + start) / 32768
        voices[speaker].append(samples)
        files |= {f"t{n}.flac": flac(samples), f"t{n}.txt": b"w%d" % n}
        files[f"t{n}.json"] = json.dumps({"speaker": speaker}).encode()
    return files, {speaker: np.concatenate(parts) for speaker, parts in voices.items()}


def test_joins_are_exact_and_stay_within_a_group(tmp_path, takes):
    files, voices = takes
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", files), join=0.125, group="speaker")
    clips = list(source.items(strict=True))
    assert [c.key for c in clips] == ["ann-0000", "ann-0001", "bob-0000", "bob-0001", "bob-0002"]
    for speaker, voice in voices.items():
        mine = [c for c in clips if c.meta["speaker"] == speaker]
        assert all(c.signal.shape == (1, 1000) and c.sample_rate == 8000 for c in mine)
        joined = torch.cat([c.signal[0] for c in mine]).numpy()
        assert np.array_equal(joined, voice[: len(voice) // 1000 * 1000].astype(np.float32))
    assert clips[0].meta["takes"] == ["t0", "t2"] and clips[0].caption == "w0 w2"
    assert clips[1].meta["takes"] == ["t2"] and clips[3].meta["takes"] == ["t5"]


def test_joining_without_a_group_a_limit_and_broken_takes(tmp_path, takes):
    files, _ = takes
    whole = open_source("tar", path=write_tar(tmp_path / "x.tar", files), join=0.125)
    assert len(whole) == 6083 // 1000
    assert len(open_source("tar", path=str(tmp_path / "x.tar"), join=0.125, limit=2)) == 2
    files["t5.flac"] = b"fLaC no more"
    source = open_source("tar", path=write_tar(tmp_path / "y.tar", files), join=0.125)
    with pytest.warns(UserWarning, match="joined without 1 broken of 8"):
        assert len(list(source.items())) == (6083 - 2500) // 1000
    assert source.skipped == 1
    with pytest.raises(BrokenItem, match="t5"):
        list(source.items(strict=True))


def test_joins_refuse_mixed_rates_and_missing_groups(tmp_path):
    tone = np.zeros(4000)
    path = write_tar(tmp_path / "x.tar", {"a.flac": flac(tone, 8000), "b.flac": flac(tone, 16000)})
    with pytest.raises(ValueError, match="16000 Hz"):
        open_source("tar", path=path, join=0.1)
    with pytest.raises(ValueError, match="no 'speaker' in its meta"):
        open_source("tar", path=path, join=0.1, group="speaker")


@pytest.mark.skipif(not PACKS.is_dir(), reason="../shared/data is absent")
def test_the_packs_open_fast_and_join():
    digits = open_source("tar", path=str(PACKS / "spoken_digits-test.tar"))
    assert len(digits) == 300 and digits[0].sample_rate == 8000 and digits[0].caption == "zero"
    clips = open_source("tar", path=str(PACKS / "spoken_digits-test.tar"), join=5, group="speaker")
    first = clips[0]
    assert first.signal.shape == (1, 40000)
    takes = [item.signal for item in digits.items() if item.meta["speaker"] == first.meta["speaker"]]
    assert torch.equal(first.signal, torch.cat(takes, dim=1)[:, :40000])
    assert open_source("tar", path=str(PACKS / "bsds-test.tar"))[0].signal.shape in ((3, 321, 481), (3, 481, 321))


# -- sources without files --------------------------------------------------------------------


def test_the_bundled_photographs():
    items = list(open_source("images", max_side=128).items(strict=True))
    assert len(items) == 8 and all(max(i.signal.shape) == 128 and i.caption for i in items)
    astronaut = open_source("images", max_side=None)[0].signal
    assert astronaut.shape == (3, 512, 512)
    box = astronaut.reshape(3, 128, 4, 128, 4).mean((2, 4))
    assert (items[0].signal - box).square().mean() < 0.002  # the same image, but smaller


@pytest.mark.parametrize(
    "name, kwargs", [("scenes", {"count": 8, "size": 32}), ("phrases", {"count": 3, "seconds": 1})]
)
def test_generators_are_pure_functions_of_seed_and_index(name, kwargs):
    forwards = list(open_source(name, **kwargs).items())
    source = open_source(name, **kwargs)
    assert all(same(source[i], forwards[i]) for i in reversed(range(len(source))))
    torch.manual_seed(5), np.random.seed(5)
    assert same(open_source(name, **{**kwargs, "count": 100})[2], forwards[2])
    other = open_source(name, seed=1, **kwargs)
    assert not any(torch.equal(other[i].signal, forwards[i].signal) for i in range(len(source)))
    assert not torch.equal(forwards[0].signal, forwards[1].signal)


def test_scenes_show_what_their_captions_say():
    from tokenloom.data.sources.scenes import COLORS, PLACES

    items = list(open_source("scenes", count=60, size=64).items())
    words = [i for i in items if i.caption.startswith("the word")]
    assert 5 < len(words) < 40
    for item in items:
        assert item.signal.shape == (3, 64, 64) and item.signal.min() >= 0 and item.signal.max() <= 1
        scene, _, ground = item.caption.rpartition(" on ")
        distance = (item.signal - torch.tensor(COLORS[ground]).view(3, 1, 1) / 255).abs().amax(0)
        share = (distance > 0.1).float().mean()
        assert distance[0, 0] < 0.01 or "top left" in scene
        assert 0.01 < share < 0.5, item.caption
        if item.caption.startswith("the word"):
            continue
        for part in scene.split(", "):
            *_, place = (p for p in sorted(PLACES, key=len) if part.endswith(p))
            row, column = divmod(PLACES.index(place), 3)
            colour = next(c for c in part.split() if c in COLORS)
            y, x = (round(64 * (0.2 + 0.3 * k)) for k in (row, column))
            near = item.signal[:, max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12].flatten(1)
            found = (near - torch.tensor(COLORS[colour]).view(3, 1) / 255).abs().amax(0) < 0.02
            assert found.sum() > 10, (item.key, part)


def test_phrases_are_audible_and_do_not_clip():
    captions = set()
    for item in open_source("phrases", count=6).items():
        wave = item.signal
        assert wave.shape == (1, 96000) and wave.dtype == torch.float32 and item.sample_rate == 24000
        assert wave.abs().max() == pytest.approx(0.7, abs=1e-3) and abs(wave.mean()) < 0.01
        assert (wave.reshape(8, -1).square().mean(1).sqrt()[:7] > 0.01).all()  # sound from start to end
        assert wave[0, -1].abs() < 1e-3  # and ends without a click
        power = torch.fft.rfft(wave[0]).abs().square()
        assert power[4 * 60 : 4 * 5000].sum() / power.sum() > 0.9
        captions.add(item.caption)
    assert len(captions) == 6


def test_mix_concatenates_modalities():
    source = open_source("mix", parts=[{"name": "scenes", "count": 3, "size": 16}, {"name": "phrases", "count": 2}])
    assert [source[i].modality for i in range(5)] == [Modality.IMAGE] * 3 + [Modality.AUDIO] * 2
    assert same(source[4], source[4]) and source[4].key == "1/phrase-000001"
    assert source[3].caption == open_source("phrases", count=2)[0].caption
    with pytest.raises(IndexError):
        source[5]


def test_hub_reads_a_local_data_set_or_says_what_is_missing(tmp_path, monkeypatch):
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"needs datasets, which is not installed: pip install 'tokenloom\[hub\]'"):
            open_source("hub", path="someone/something")
        return
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = "file_name,text\n" + "".join(f"{name},word {name}\n" for name in pictures(3))
    path = write_folder(tmp_path / "x", {**pictures(3), "metadata.csv": rows.encode()})
    source = open_source("hub", path=path, caption_column="text", limit=2)
    items = list(source.items(strict=True))
    assert len(items) == 2 and items[1].caption == "word p01.png"
    assert torch.equal(items[1].signal, media.read(png(20, 24, 1)))
    with pytest.raises(ValueError, match=r"column must be one of images, audio or strings \(.*\), got 'x'"):
        open_source("hub", path=path, column="x")
    with pytest.raises(ValueError, match="did not load"):
        open_source("hub", path=str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["folder", "tar", "images", "scenes", "phrases", "mix"])
def test_sources_are_cheap_to_pickle(tmp_path, name):
    files = pictures(2)
    kwargs = {
        "folder": lambda: {"path": write_folder(tmp_path / "x", files)},
        "tar": lambda: {"path": write_tar(tmp_path / "x.tar", files)},
        "mix": lambda: {"parts": [{"name": "scenes", "count": 2}]},
    }.get(name, dict)()
    source = open_source(name, **kwargs)
    source[1]
    pickled = pickle.dumps(source)
    assert len(pickled) < 4000 and same(pickle.loads(pickled)[1], source[1])


def test_every_config_is_read_in_full():
    from tokenloom.data.sources.registry import SOURCES

    configs = {file.stem: yaml.safe_load(file.read_text()) for file in CONF.glob("*.yaml")}
    assert set(configs) == {*data.names(), "demo", "documents"}
    del configs["documents"]  # not a source of items; see test_documents.py
    for stem, config in configs.items():
        assert config.pop("strict") is False
        name = config.pop("name")
        assert stem in {name, "demo"}
        parameters = inspect.signature(SOURCES[name]).parameters
        assert set(config) == set(parameters), stem
        for key, value in config.items():
            default = parameters[key].default
            required = default is inspect.Parameter.empty
            assert stem == "demo" or (value == "???" if required else value == default), (stem, key)
    demo = configs["demo"]
    source = open_source("mix", **demo)
    assert len(source) == 16 and [source[0].modality, source[15].modality] == [Modality.IMAGE, Modality.AUDIO]


# -- notices -----------------------------------------------------------------------------------


@pytest.fixture
def loud(tmp_path) -> data.Source:
    """Three stereo sounds at 16 kHz, of which two have floats beyond ±1."""
    for name, peak in (("a", 2.0), ("b", 0.5), ("c", 4.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.full((900, 2), peak, np.float32), 16000, subtype="FLOAT")
    return open_source("folder", path=str(tmp_path))


SCALED = r"2 of 3 items: samples beyond ±1 are scaled down to a peak of 1, first: a: the peak is 2$"
CONVERTED = r"3 of 3 items: 2 channels are averaged to 1, 16000 Hz is resampled to 8000 Hz, first: [abc]$"


def told_by(work) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        work()
    return [str(one.message) for one in told if issubclass(one.category, UserWarning)]  # Python hides the others


def test_a_pass_counts_each_kind_of_notice_in_one_line(loud):
    lines = told_by(lambda: list(loud.items()))
    assert len(lines) == 1 and re.fullmatch(f"folder: {SCALED}", lines[0])
    assert [notice.detail for notice in loud[2].notices] == ["the peak is 4"] and loud[1].notices == ()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_counts_each_kind_of_notice_in_one_line(loud, workers):
    lines = told_by(lambda: run(loud, size=100, sample_rate=8000, workers=workers, steps=4))
    assert len(lines) == 2, lines
    assert sum(bool(re.search(r": 2 of 3 items: samples beyond", line)) for line in lines) == 1
    assert sum(bool(re.search(CONVERTED, line)) for line in lines) == 1


# -- training batches -------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    return open_source("tar", path=write_tar(tmp_path / "photos.tar", pictures(7)))


@pytest.fixture
def sounds(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"s{i}.flac": flac(rng.uniform(-0.3, 0.3, 120 * (i + 1))) for i in range(6)}
    return open_source("tar", path=write_tar(tmp_path / "sounds.tar", files))


def run(source, **kwargs):
    kwargs = {"batch_size": 4, "size": 16, "seed": 3, "steps": 8, **kwargs}
    return list(crops(source, **kwargs))


def equal(a, b) -> bool:
    return len(a) == len(b) and all(s == t and torch.equal(x, y) for (s, x), (t, y) in zip(a, b, strict=True))


IMAGES = {"augment": Augment(scale=0.6)}
AUDIO = {"size": 400, "sample_rate": 8000, "augment": Augment()}


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_batches_depend_on_seed_and_step_alone(kind, photos, sounds):
    source, options = (photos, IMAGES) if kind == "image" else (sounds, AUDIO)
    straight = run(source, **options)
    assert [step for step, _ in straight] == list(range(8))
    state = torch.random.get_rng_state()
    assert equal(run(source, workers=2, **options), straight)
    assert torch.equal(torch.random.get_rng_state(), state)  # the random state of the training is unchanged
    assert equal(run(source, start_step=5, **options), straight[5:])
    assert not equal(run(source, **{**options, "seed": 4}), straight)
    halves = [run(source, rank=r, world_size=2, **options) for r in range(2)]
    for (_, whole), (_, even), (_, odd) in zip(straight, *halves, strict=True):
        assert torch.equal(whole[0::2], even) and torch.equal(whole[1::2], odd)


def test_an_epoch_sees_every_item_once(tmp_path):
    files = {f"{i}.png": _flat(4, 4, i) for i in range(10)}
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", files))
    seen = torch.cat([b[:, 0, 0, 0] for _, b in run(source, batch_size=4, size=4, steps=5)]).mul(255).round().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def _flat(height: int, width: int, value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def test_image_crops_are_crops(photos):
    originals = [item.signal for item in photos.items()]
    (_, batch), *_ = run(photos, batch_size=7, steps=1, augment=Augment(flip=True))
    assert batch.shape == (7, 3, 16, 16) and batch.dtype == torch.float32
    for crop in batch:
        views = [o.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4) for o in originals]
        assert any((view == c).all((-1, -2, -3)).any() for view in views for c in (crop, crop.flip(2)))


def test_flips_and_positions_vary(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", {"r.png": buffer.getvalue()}))
    batch = torch.cat([b for _, b in run(source, batch_size=50, steps=4)])
    assert (batch[:, 0, 0, -1] > batch[:, 0, 0, 0]).all()  # without augmentation nothing is mirrored
    lefts = batch[:, 0, 0, 0].mul(255).round()
    assert lefts.min() < 4 and lefts.max() > 44 and abs(float(lefts.mean()) - 24) < 4
    batch = torch.cat([b for _, b in run(source, batch_size=50, steps=4, augment=Augment(scale=0.5))])
    slopes = (batch[:, 0, 8, 12] - batch[:, 0, 8, 4]).mul(255 / 8)
    assert 0.35 < float((slopes > 0).float().mean()) < 0.65
    assert slopes.abs().min() < 1.15 and slopes.abs().max() > 1.8  # downscaled by 1 to 2
    assert torch.equal(batch.mul(255).round() / 255, batch)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (9, 5), (16, 16)])
@pytest.mark.parametrize("pad", ["reflect", "edge"])
def test_small_pictures_are_padded(tmp_path, shape, pad):
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", {"s.png": png(*shape)}))
    ((_, batch),) = run(source, batch_size=1, steps=1, augment=Augment(flip=False, pad=pad))
    assert batch.shape == (1, 3, 16, 16)
    assert set(batch[0, 0].flatten().tolist()) <= set(source[0].signal[0].flatten().tolist())
    if pad == "edge" and shape == (9, 5):
        assert (batch[0, :, 0] == batch[0, :, 3]).all()


def test_audio_segments_wrap_and_gain_stays_in_range(sounds):
    lengths = [item.signal.shape[1] for item in sounds.items()]
    assert min(lengths) < 400 < max(lengths)
    plain = run(sounds, size=400, sample_rate=8000)
    for _, batch in plain:
        assert batch.shape == (4, 1, 400) and batch.dtype == torch.float32
        assert (batch.reshape(4, 20, 20).abs().amax(2) > 0.05).all()  # noise without a gap or zeros
    everything = [item.signal[0] for item in sounds.items()]
    windows = torch.cat([signal.unfold(0, 20, 1) for signal in everything])
    for row in plain[0][1][:, 0]:  # pieces of items; only windows across a joint are new
        assert sum((windows == window).all(1).any() for window in row.reshape(20, 20)) >= 15
    loud = torch.cat([b for _, b in run(sounds, size=400, sample_rate=8000, augment=Augment(gain_db=(-12, 6)))])
    gains = (
        20 * (loud.square().mean((1, 2)).sqrt() / torch.cat([b for _, b in plain]).square().mean((1, 2)).sqrt()).log10()
    )
    assert loud.abs().max() <= 1 and gains.min() >= -12.01 and gains.max() <= 6.01 and gains.std() > 2
    full = torch.cat([b for _, b in run(sounds, size=400, sample_rate=8000, augment=Augment(gain_db=(40, 40)))])
    assert torch.allclose(full.abs().amax((1, 2)), torch.ones(32), atol=1e-6)  # a gain that would clip is lowered
    stereo = run(sounds, size=400, sample_rate=16000, channels=2, steps=1)[0][1]
    assert stereo.shape == (4, 2, 400) and torch.equal(stereo[:, 0], stereo[:, 1])


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_items_are_replaced_by_their_successors(tmp_path, workers):
    files = {f"{i}.png": _flat(4, 4, 10 * i) for i in range(5)}
    files["2.png"] = files["3.png"] = b"broken"
    source = open_source("tar", path=write_tar(tmp_path / "x.tar", files))
    batches = crops(source, batch_size=5, size=4, seed=0, steps=4, workers=workers)
    with pytest.warns(UserWarning, match="replaced 2 broken of 5"):
        seen = [batch[:, 0, 0, 0].mul(255).round().sort().values.tolist() for _, batch in batches]
    assert seen == [[0, 10, 40, 40, 40]] * 4 and batches.skipped == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BrokenItem, match=r"[23]\.png") as caught:
            list(crops(source, batch_size=5, size=4, seed=0, steps=4, workers=workers, strict=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_train_is_one_line(tmp_path, photos, sounds, workers):
    dead = open_source("tar", path=write_tar(tmp_path / "x.tar", {"a.png": b"1", "b.png": b"2"}))
    cases = [
        ("must be image, got audio", sounds, {}),
        ("must be audio, got image", photos, {"sample_rate": 8000}),
        ("none of its 2 items", dead, {}),
        ("must be a multiple of the 3 processes", photos, {"world_size": 3}),
        ("size must be an integer of at least 1, got 0", photos, {"size": 0}),
        ("steps must be an integer of at least 4, got 3", photos, {"start_step": 4, "steps": 3}),
    ]
    for words, source, kwargs in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match=words) as caught:
                run(source, workers=workers, **kwargs)
        assert "\n" not in str(caught.value)
    for wrong in ({"scale": 0}, {"pad": "zero"}, {"gain_db": (6, -6)}):
        with pytest.raises(ValueError):
            Augment(**wrong)
