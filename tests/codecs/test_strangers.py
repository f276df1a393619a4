"""Files of a stranger: reading one starts no program, reaches nothing beside it, and costs no more than it holds."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from support.codecs import TINY, one_line

from tokenloom import codecs, memory, models
from tokenloom.codecs import checkpoint, foreign, media, storage
from tokenloom.data.sources import containers
from tokenloom.data.tokens import reading, tar
from tokenloom.models.diffusion import decoder as diffusion_decoder

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
LEARNED = {"name": "image/fsq", "stride": 8, "patch": 4}


def folder(path: Path, config: dict | str, tensors: dict | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    save_file(tensors or {"weight": torch.zeros(2)}, str(path / "model.safetensors"))
    return path


def decoder(codec: str) -> dict:
    return {"decoder": {"codec": codec}, "fingerprints": {"codec": "00"}}


def omni(**channel: object) -> dict:
    return {"omni": {"transformer": {"width": 16}, "channels": [channel]}, "fingerprints": {}}


REQUESTS = {
    "hub": {"codec": {"name": "image/taming", "checkpoint": "evil/beacon"}},
    "file": {"codec": {"name": "image/llamagen", "checkpoint": "{secret}"}},
    "device": {"codec": {"name": "image/fsq", "device": "cuda:7"}},
    "tokenizer": {"codec": {"name": "text/bpe", "tokenizer": "{secret}"}},
    "list": {"codec": {"name": ["image/fsq"]}},
    "imports": {"codec": {"name": "image/unheard-of"}, "imports": 5},
    "decoder of a hub id": decoder("evil/beacon"),
    "decoder of a path": decoder("../secret"),
    "decoder of a nested request": decoder("codec"),
    "model of a hub id": omni(name="evil/beacon"),
    "model with a source": omni(name="natural-fsq", codec="evil/beacon"),
    "model of a path": omni(name="../secret"),
}  # fmt: skip
"""Configs that ask for what is not in their folder."""

READ_ALL = """
import json, sys
from pathlib import Path
from tokenloom import codecs, models
from tokenloom.data.sources import containers
try: codecs.load("image/nothing")  # what a refusal imports and lists, the shipped checkpoints included
except ValueError: pass
root, seen = Path(sys.argv[1]), []

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork")):
        seen.append(event)
    if event == "open" and "secret" in str(arguments[0]):
        seen.append(f"open {arguments[0]}")

sys.addaudithook(watch)
answers = {}
for path in sorted(root.iterdir()):
    read = codecs.read if path.suffix == ".png" else containers.tar if path.suffix == ".tar" else models.load
    if path.is_dir() and "codec:" in (path / "config.yaml").read_text().splitlines():
        read = codecs.load
    try:
        got = read(str(path))
        answers[path.name] = [item.caption for item in got] if path.suffix == ".tar" else "read"
    except (ValueError, FileNotFoundError) as error:
        answers[path.name] = str(error)
print(json.dumps([answers, seen]))
"""


def test_reading_starts_no_program_and_reaches_nothing_else(tmp_path):
    """In a process that records each file, connection and program."""
    secret, root = tmp_path / "secret.json", tmp_path / "given"
    secret.write_text('{"model": {}}')
    for name, config in REQUESTS.items():
        folder(root / name, json.loads(json.dumps(config).replace("{secret}", str(secret))))
    folder(root / "decoder of a nested request" / "codec", REQUESTS["hub"])
    (root / "photo.png").write_bytes(EPS)
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with tarfile.open(root / "shard.tar", "w") as archive:
        for name, link in (("a.png", ""), ("a.txt", str(secret)), ("../b.png", ""), ("../b.txt", "../../secret.json")):
            member = tarfile.TarInfo(name)
            member.size, member.type = (0, tarfile.SYMTYPE) if link else (len(picture.getvalue()), tarfile.REGTYPE)
            member.linkname = link
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    command = [sys.executable, "-c", READ_ALL, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers, seen = json.loads(done.stdout)
    assert seen == []
    assert answers.pop("shard.tar") == ["", ""], "links of an archive are not followed"
    assert set(answers) == {*REQUESTS, "photo.png"}
    assert "read" not in answers.values() and not any("\n" in answer for answer in answers.values())


@pytest.mark.parametrize("format", ["EPS", "TGA", "PCX", "ICO", "SGI", "PDF", "DDS", "ICNS"])
def test_only_formats_of_pictures_are_opened(format):
    file = io.BytesIO(EPS if format == "EPS" else b"")
    if format != "EPS":
        Image.new("RGB", (16, 16)).save(file, format)
    with pytest.raises(ValueError, match="not supported") as error:
        codecs.read(file.getvalue(), "image")
    assert one_line(error)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "PPM", "GIF"])
def test_every_format_that_is_listed_opens_in_a_new_process_too(format):
    """Pillow registers some formats late; a list with an unknown one refuses all."""
    file = io.BytesIO()
    Image.new("RGB", (16, 24)).save(file, format)
    assert codecs.read(file.getvalue(), "image").shape == (3, 24, 16)
    assert media.pillow.FORMATS[-1] == "GIF" and all(name in Image.OPEN for name in media.pillow.FORMATS)


def test_large_pictures_and_sounds_are_refused_by_the_limit_of_memory(monkeypatch):
    picture = io.BytesIO()
    Image.new("RGB", (2000, 1000)).save(picture, "PNG")
    sound = codecs.media.encode_audio(torch.zeros(2, 2**20), 8000, format="FLAC", subtype="PCM_16")
    monkeypatch.setenv(memory.SETTING, "20MB")
    for data, kind in ((picture.getvalue(), "image"), (sound, "audio")):
        with pytest.raises(ValueError, match=memory.SETTING) as error:
            codecs.read(data, kind)
        assert one_line(error)
    monkeypatch.setenv(memory.SETTING, "80MB")
    assert codecs.read(picture.getvalue(), "image").shape == (3, 1000, 2000)


@pytest.mark.parametrize(("rate", "target"), [(1, 24000), (2**31 - 1, 8000), (1, 2**31 - 1), (46, 24000)])
def test_absurd_sample_rates_are_not_resampled(rate, target):
    data = b"\1\0" * 600
    sizes = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2 % 2**32, 2, 16), struct.pack("<I", len(data))
    wav = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + sizes[0] + b"data" + sizes[1] + data
    with pytest.raises(ValueError, match="at most 512 times"):
        codecs.read(wav, "audio", sample_rate=target)
    assert codecs.read(wav, "audio").shape == (1, 600)


@pytest.mark.parametrize("arguments", [
    {**LEARNED, "widths": [4096, 4096], "depths": [16, 16]},
    {"name": "image/taming", "codebook_size": 2**24, "dim": 16},
    {"name": "image/taming", "codebook_size": 2**20, "dim": 256, "gumbel": True},
    {"name": "image/llamagen", "codebook_size": 2**24},
    {"name": "audio/rvq", "codebook_size": 2**14, "dim": 4096, "quantizers": 64},
    {"name": "audio/rvq", "filters": 1024, "ratios": [2, 2]},
    {"name": "image/ntc", "widths": [4096] * 3, "depths": [64] * 3},
], ids=lambda a: a["name"])  # fmt: skip
def test_a_codec_larger_than_its_file_is_not_built(arguments, tmp_path):
    """Its numbers are counted without memory: a tensor that is allocated here would be refused."""
    path = folder(tmp_path / "large", {"codec": arguments})
    with pytest.raises(ValueError, match=r"the file must hold \d{8,} numbers, it holds 2") as error:
        codecs.load(path)
    assert one_line(error)


@pytest.mark.parametrize("config", [
    "codec: " + "[" * 100_000,
    "codec:\n" + "\n".join(" " * i + "a:" for i in range(1, 200)),
    "codec: [" + "1," * 20_000 + "]",
    "codec: {name: image/fsq, levels: [" + ":".join(["59"] * 50_000) + "]}",
    "codec: {name: image/fsq, levels: [" + "9" * 5000 + "]}",
    "codec: {name: image/fsq, levels: [" + ":".join(["59"] * 50_000) + ".5]}",
    "codec: !!timestamp x", "codec: !!int ''", "codec: !!bool x", "codec: {? [1] : 2}", "codec: {name: 2001-99-99}",
    "codec: {name: image/fsq, levels: !!binary aGk=}", "codec: &a [*a]", "codec: !!python/name:os.system ''",
    "codec: {name: image/fsq, levels: {a: 1}}", "codec: {name: image/fsq, widths: [.nan]}", "codec: \0",
    "codec: {name: image/fsq, levels: [" + "3," * 300 + "]}",
    "codec: {name: text/bpe, tokenizer: '{\"model\": " + "[" * 100_000 + "'}",
    "codec: {name: text/bpe, tokenizer: '{\"model\": " + "9" * 5000 + "}'}",
    "codec: {name: text/bpe, tokenizer: '{\"model\": {\"type\": \"BPE\"}}'}",
])  # fmt: skip
def test_configs_that_no_codec_writes_are_one_line(config, tmp_path):
    with pytest.raises(ValueError) as error:
        codecs.load(folder(tmp_path / "odd", config))
    assert one_line(error)


def test_weights_do_not_grow_when_they_are_read(tmp_path):
    """A scale with more axes than a row would multiply 40 kB to gigabytes; so would a compressed archive."""
    rows = {"weight": torch.zeros(1, 40_000, 1, dtype=torch.int8), "weight:scale": torch.zeros(1, 1, 40_000)}
    with pytest.raises(ValueError, match="scale of weight"):
        storage.widen(rows)
    plain, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save({"weight": torch.zeros(2**20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for member in source.infolist():
            out.writestr(member.filename, source.read(member))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ValueError, match="not compressed") as error:
        foreign.read(bomb)
    assert one_line(error)
    assert foreign.read(plain)["weight"].shape == (2**20,)


@pytest.mark.parametrize("change", [
    {"shards": [{"name": "../x.tar", "bytes": 1, "items": 1}]}, {"shards": [{"name": "/x", "bytes": 1, "items": 1}]},
    {"shards": [{"name": "a\\x", "bytes": 1, "items": 1}]}, {"shards": [{"name": "..", "bytes": 1, "items": 1}]},
    {"shards": [{"name": "9" * 5000, "bytes": 1, "items": 1}]},
    {"shards": [{"name": 5, "bytes": 1, "items": 1}]}, {"shards": [5]}, {"shards": None}, {"complete": "yes"},
    {"codec": []}, {"format": ["webdataset"]}, {"shards": [{"name": "x.tar"}]},
])  # fmt: skip
def test_an_index_of_tokens_names_shards_of_its_folder(change, tmp_path):
    whole = {"version": reading.VERSION, "complete": True, "format": "webdataset", "codec": {}, "shards": []}
    (tmp_path / "in").mkdir()
    (tmp_path / "x.tar").write_bytes(b"0")
    (tmp_path / "in" / reading.INDEX).write_text(json.dumps(whole))
    assert list(reading.read(tmp_path / "in")) == []
    (tmp_path / "in" / reading.INDEX).write_text(json.dumps(whole | change))
    with pytest.raises(ValueError, match=reading.INDEX) as error:
        reading.read(tmp_path / "in")
    assert one_line(error)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_shard_of_tokens_holds_plain_files(kind, tmp_path):
    member = tarfile.TarInfo("a.npy")
    member.type, member.linkname = kind, "/etc/passwd"
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if kind == tarfile.GNUTYPE_SPARSE:  # one empty part of a file of 4 GB
        header[386:410], header[483:495] = b"37777777777\000000000000\0", b"37777777777\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "shard.tar"
    path.write_bytes(bytes(header) + bytes(10_240 - len(header)))
    with pytest.raises(ValueError, match="must be a plain file"):
        list(tar.read(path))
    with pytest.raises(ValueError, match="holds no image"):
        containers.tar(path)


def test_a_member_that_claims_more_than_its_shard_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(bytes(100))
    with pytest.raises(ValueError, match=f"ends after 90 of {2**50} bytes"):
        containers.Ref(str(path), "a.png", 10, 2**50).read()


def test_what_the_project_writes_still_loads(tmp_path):
    """Codecs inside models, a tokenizer by its content, and each shipped checkpoint."""
    text = codecs.load("captions-bpe")
    codecs.save(text, tmp_path / "text")
    assert codecs.load(tmp_path / "text").fingerprint == text.fingerprint
    own = codecs.build("audio/rvq", **TINY["audio/rvq"])  # no name loads it, so it lies in the decoder's folder
    models.save(diffusion_decoder.build({"codec": str(saved(own, tmp_path / "codec"))}), tmp_path / "decoder")
    assert models.load(tmp_path / "decoder").codec.fingerprint == own.fingerprint
    for name in checkpoint.shipped("omni"):
        model = models.load(name)
        models.save(model, tmp_path / name)
        assert models.load(tmp_path / name).vocabulary.fingerprints == model.vocabulary.fingerprints


def saved(codec: codecs.Codec, path: Path) -> Path:
    codecs.save(codec, path)
    return path
