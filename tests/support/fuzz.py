"""Readers of files, a small whole file for each, and edits of those files."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from support.codecs import MIDDLE, structured, tiny
from support.reports import comparison
from tokenloom import codecs, models
from tokenloom.codecs import foreign, media
from tokenloom.codecs.bitstream import records, segments
from tokenloom.data import tokens
from tokenloom.data.sources import containers
from tokenloom.eval.compare import journal
from tokenloom.eval.compare.measurement import ItemResult
from tokenloom.eval.compare.results import Results
from tokenloom.train import record, state

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PICTURES = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "PPM", "GIF")
SOUNDS = {
    "wav": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "float": ("WAV", "FLOAT"), "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"), "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"), "au": ("AU", "PCM_16"),
}  # fmt: skip
"""Label → format and subtype of libsndfile."""
SLOW = ("image/hf", "audio/hf", "audio/encodec", "image/magvit2", "image/taming", "audio/lyra", "audio/codec2")
"""Codecs whose containers have the same layout as those of others, and decode slowly."""
SHIPPED = ("natural-ntc", "digits-rvq", "emoji-flex", "captions-bpe")
WORDS = (
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\x03", b"\xff" * 9,
    b"\1\0\0\0\0\0\0\x7f", b"null", b"true", b"NaN", b"-1", b"0", b"1e999", b"9" * 5000, b"[" * 2000, b"{}", b"[]",
    b'""', b"../x", b"&a [*a, *a]", b"!!python/name:os.system", b"\xed\xa0\x80", b"\\ud800", b"cposix\nsystem\n",
)  # fmt: skip
"""Numbers at the ends of their types, and words of formats of text."""


@dataclass(frozen=True)
class Reader:
    """A function that reads a file, and files to begin with.

    Attributes:
        read: Reads bytes and returns what they hold. Refuses others with a ValueError or FileNotFoundError.
        files: Whole files.
        seal: Corrects the checksums of an edited file, so that the edit is read.
    """

    read: Callable[[bytes], Any]
    files: list[bytes]
    seal: Callable[[bytes], bytes] = bytes


KINDS = ("flip", "set", "word", "delete", "repeat", "cut")
PLANS = st.binary(min_size=6, max_size=21)
"""One byte for the file and the seal, and five for each edit: a single value is drawn much faster than a list."""


def mutant(reader: Reader, plan: bytes) -> bytes:
    """Return a file of a reader with the edits of a plan, and for every second plan with the right checksums."""
    data = reader.files[plan[0] // 2 % len(reader.files)]
    for kind, place, amount in struct.iter_unpack(">BHH", plan[1 : 1 + len(plan[1:]) // 5 * 5]):
        data = _edited(data, KINDS[kind % len(KINDS)], place % (len(data) + 1), amount)
    return reader.seal(data) if plan[0] % 2 else data


def _edited(data: bytes, kind: str, at: int, amount: int) -> bytes:
    head, tail, byte = data[:at], data[at + 1 :], data[at : at + 1]
    if kind == "flip":
        return head + bytes(b ^ 1 << amount % 8 for b in byte) + tail
    if kind == "set":
        return head + bytes([amount % 256]) + tail
    if kind == "word":  # in place of as many bytes, or between them
        word = WORDS[amount // 2 % len(WORDS)]
        return head + word + data[at + amount % 2 * len(word) :]
    if kind == "delete":
        return head + data[at + amount % 64 :]
    if kind == "repeat":
        end = at + amount % 1024
        return head + data[at:end] * 2 + data[end:]
    return head


def size(result: Any) -> int:
    """Return the bytes of what a reader returned."""
    leaves = tree_leaves(result)
    return sum(
        leaf.nbytes if isinstance(leaf, Tensor) else len(leaf) if isinstance(leaf, str) else 0 for leaf in leaves
    )


# -- readers ------------------------------------------------------------------------------------


@functools.cache
def reader(name: str) -> Reader:
    """Return a reader of `names`."""
    if name in FOLDERS:
        return FOLDERS[name]()
    kind, label = name.split()
    if kind == "container":
        return _container(codecs.load(label) if label in SHIPPED else tiny(label))
    return _picture(label) if kind == "picture" else _sound(label)


def names() -> list[str]:
    """Return the name of each reader."""
    containers = [name for name in codecs.names() if name not in SLOW] + list(SHIPPED)
    return [
        *(f"container {name}" for name in containers), *(f"picture {name}" for name in PICTURES),
        *(f"sound {name}" for name in SOUNDS), *FOLDERS,
    ]  # fmt: skip


def _container(codec: codecs.Codec) -> Reader:
    shape = MIDDLE[codec.spec.modality]
    files = [codec.compress(structured(codec, shape), setting)[0] for setting in (codec.settings.values[0], None)]

    def seal(data: bytes) -> bytes:
        body = files[0][:12] + data[12:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    return Reader(lambda data: codec.decompress([data]), files, seal)


def _picture(format: str) -> Reader:
    file, image = io.BytesIO(), Image.effect_mandelbrot((40, 28), (-2, -1, 1, 1), 40)
    image.convert("P" if format == "GIF" else "RGB").save(file, format)
    return Reader(lambda data: codecs.read(data, "image"), [file.getvalue()], _seal_png if format == "PNG" else bytes)


def _seal_png(data: bytes) -> bytes:
    """Correct the CRC-32 of each chunk."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return out + data[at:]


def _sound(label: str) -> Reader:
    format, subtype = SOUNDS[label]
    wave = structured(tiny("audio/rvq"), (2000,))[0]
    return Reader(
        lambda data: codecs.read(data, "audio", sample_rate=24000, channels=1),
        [media.encode_audio(torch.as_tensor(wave), 8000, format=format, subtype=subtype)],
        _seal_ogg if format == "OGG" else bytes,
    )


def _seal_ogg(data: bytes) -> bytes:
    """Correct the checksum of each page (RFC 3533, section 6)."""
    pages = re.split(b"(?=OggS)", data)
    return b"".join(page[:22] + _ogg_sum(page[:22] + bytes(4) + page[26:]) + page[26:] for page in pages if page)


def _ogg_sum(page: bytes) -> bytes:
    value = 0
    for byte in page:
        value = value << 8 & 0xFFFFFFFF ^ _OGG[value >> 24 ^ byte]
    return value.to_bytes(4, "little")


def _ogg_row(value: int) -> int:
    for _ in range(8):
        value = value << 1 ^ 0x104C11DB7 * (value >> 31)
    return value


_OGG = [_ogg_row(i << 24) for i in range(256)]


def _seal_tar(data: bytes) -> bytes:
    """Correct the checksum of each header."""
    out = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            total = sum(out[at : at + 148]) + 8 * 32 + sum(out[at + 156 : at + 512])
            out[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(out)


def _file(source: Path, read: Callable[[Path], Any], seal: Callable[[bytes], bytes] = bytes) -> Reader:
    """Return the reader of a folder in which one file is edited."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)

    def opened(data: bytes) -> Any:
        (folder / source.name).write_bytes(data)
        return read(folder)

    return Reader(opened, [source.read_bytes()], seal)


def _fresh(name: str, data: bytes, read: Callable[[Path], Any], seal: Callable[[bytes], bytes] = bytes) -> Reader:
    """Return the reader of a file that lies alone in a folder."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / name
    path.write_bytes(data)
    return _file(path, lambda folder: read(folder / name), seal)


def _tensors(load: Callable[[Path], Any]) -> Callable[[Path], list[Tensor]]:
    return lambda folder: list(load(folder).state_dict().values())


def _tar() -> Reader:
    file = io.BytesIO()
    picture = reader("picture PPM").files[0]
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (("a.ppm", picture), ("a.txt", b"a caption"), ("a.json", b'{"year": 2026, "tags": ["x"]}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    def read(path: Path) -> Any:
        source = containers.tar(str(path))
        items = [source[i] for i in range(len(source))]
        return [(item.signal, item.caption, item.meta) for item in items]

    return _fresh("shard.tar", file.getvalue(), read, _seal_tar)


def _torch_file() -> Reader:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(8.0), "epoch": 3, "list": [torch.zeros(2), None]}, file)
    return _fresh("foreign.pt", file.getvalue(), foreign.read)


def _results() -> Reader:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    results = comparison(folder)
    results.records, results.exhibits = results.records[:1], []
    results.write()
    return _file(folder / "results.json", lambda folder: str(Results.read(folder)))


def _journal() -> Reader:
    folder, plan = Path(tempfile.mkdtemp(prefix="fuzz-")), {"codecs": ["image/fsq"]}
    book = journal.Journal(folder, plan)
    with book.open():
        book.begin(("image/fsq", 0, 0))
        book.add(
            ("image/fsq", 0, 0),
            ItemResult(key="a.png", digest="0", size=9.0, bits={"coded": 8.0}, values={"psnr": 30.0}),
        )
        book.note("seconds", 3.5)
        book.begin(("image/fsq", 0, 1))

    def read(folder: Path) -> Any:
        found = journal.Journal(folder, plan)
        return str((found.results, found.facts, found.begun))

    return _file(folder / journal.NAME, read)


def _run() -> Reader:
    session = {"folder": "/", "status": record.FINISHED, "last_step": 4}
    content = {"config": {"steps": 4}, "imports": [], "loggers": {}, "sessions": [session]}
    return _fresh(
        record.NAME,
        json.dumps(content).encode(),
        lambda path: str((record.saved(path.parent), record.is_finished(path.parent))),
    )


def _rows(folder: Path) -> Any:
    return [(row.codes.indices, row.caption, row.meta) for row in tokens.read(folder)]


def _golden(name: str) -> Path:
    return GOLDEN / "0.1" / name


def _segments() -> Reader:
    """Files of four short segments, read as a whole, or as what is left of them."""
    codec, file = tiny("audio/rvq"), io.BytesIO()
    writer = segments.SegmentWriter(file, codec, 0.02)
    writer.write(codec.encode(structured(codec, (1400,))))
    writer.close()

    def read(data: bytes) -> Any:
        left = segments.SegmentReader(data, salvage=True)
        sound = [*codecs.decompress_stream(left, codec)]
        with contextlib.suppress(codecs.BitstreamError):
            sound.append(codec.decompress([data]))
        return sound

    return Reader(read, [file.getvalue(), codec.compress(structured(codec, (400,)))[0]], _seal_segments)


def _tiles() -> Reader:
    """Files of six small tiles, read as a whole, or as what is left of them."""
    codec, file = tiny("image/fsq"), io.BytesIO()
    picture = media.to_uint8(structured(codec, (40, 50))[0]).permute(1, 2, 0).numpy()
    codecs.compress_tiles(codec, media.Picture(picture), file, tile=24)

    def read(data: bytes) -> Any:
        parts = [*codecs.decompress_tiles(codecs.TileReader(data, salvage=True), codec)]
        with contextlib.suppress(codecs.BitstreamError):
            parts.append(codec.decompress([data]))
        return parts

    return Reader(read, [file.getvalue(), codec.compress(structured(codec, (16, 24)))[0]], _seal_segments)


def _seal_segments(data: bytes) -> bytes:
    """Correct the checksums of the head, of the head and the content of each segment, and of the index."""
    out = bytearray(data)

    def sum_up(start: int, end: int) -> None:
        if 0 <= start < end <= len(out) - 4:
            out[end : end + 4] = zlib.crc32(out[start:end]).to_bytes(4, "little")

    sum_up(0, records.HEAD - 4)
    size = records.RECORD.size
    for match in re.finditer(records.SEGMENT, data):
        if match.start() + size <= len(data):
            length = records.RECORD.unpack_from(data, match.start())[2]
            sum_up(match.start(), match.start() + size)
            sum_up(match.start() + size + 4, match.start() + size + length)
    if (start := data.rfind(records.END)) >= 0:
        sum_up(start, len(out) - 4)
    return bytes(out)


FOLDERS: dict[str, Callable[[], Reader]] = {
    "config of a codec": lambda: _file(_golden("codecs/fsq-int8/config.yaml"), _tensors(codecs.load)),
    "weights of a codec": lambda: _file(_golden("codecs/fsq-int8/model.safetensors"), _tensors(codecs.load)),
    "config of a tokenizer": lambda: _file(_golden("bpe/config.json"), _tensors(codecs.load)),
    "config of a decoder": lambda: _file(_golden("decoder/config.yaml"), _tensors(models.load)),
    "config of a model": lambda: _file(_golden("omni/config.yaml"), _tensors(models.load)),
    "training state": lambda: _file(_golden("run/state.pt"), state.load),
    "index of tokens": lambda: _file(_golden("webdataset/_index.json"), _rows),
    "tokens in tar": lambda: _file(next(_golden("webdataset").glob("*.tar")), _rows, _seal_tar),
    "tokens in parquet": lambda: _file(next(_golden("parquet").glob("*.parquet")), _rows),
    "segments of a sound": _segments,
    "segments of a picture": _tiles,
    "tar": _tar,
    "torch file": _torch_file,
    "results of a comparison": _results,
    "journal of a comparison": _journal,
    "record of a run": _run,
}
"""Name → reader of a file in a folder."""
