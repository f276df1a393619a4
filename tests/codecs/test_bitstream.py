"""Containers are lossless, and any bytes decode to a signal or raise BitstreamError."""

from __future__ import annotations

import copy
import gc
import math
import random
import time
import tracemalloc
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.codecs import structured, tiny
from support.payloads import pack_blocks

from tokenloom import codecs
from tokenloom.codecs import BitstreamError, Codes, LatentCodec, Modality, bitstream, rate, validate
from tokenloom.codecs.bitstream import container, entropy, packing, version1

SMALL = {Modality.IMAGE: (13, 10), Modality.AUDIO: (301,), Modality.TEXT: (40,)}
SECONDS = 3.0
"""Time limit for one container in seconds."""


def reseal(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def outcome(codec, data: bytes) -> bool:
    """Return whether the data decodes. Errors other than BitstreamError fail the test."""
    start = time.perf_counter()
    try:
        y = codec.decompress([data])
    except BitstreamError as error:
        assert "\n" not in str(error) and str(error)
        return False
    finally:
        assert time.perf_counter() - start < SECONDS
    if codec.spec.modality is Modality.TEXT:
        assert len(y) == 1 and isinstance(y[0], str)
    else:
        assert y.dtype == torch.float32 and y.shape[:2] == (1, codec.spec.channels) and torch.isfinite(y).all()
    return True


def packed(codec) -> bytes:
    return codec.compress(structured(codec, SMALL[codec.spec.modality]))[0]


def counted(codec) -> LatentCodec:
    """Return the codec with training counts, so that it writes range-coded payloads."""
    codec = copy.deepcopy(codec)
    indices = codec.encode(structured(codec, (64, 64) if codec.spec.modality is Modality.IMAGE else (4000,))).indices
    for q, entries in enumerate(codec.spec.codebook_sizes):
        codec.counts[q, :entries] = 50 * torch.bincount(indices[0, q].flatten(), minlength=entries)
    return codec


# -- damage -------------------------------------------------------------------------------------


def test_every_cut_is_refused(codec):
    data = packed(codec)
    for end in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decompress([data[:end]])
    for tail in (b"\0", data[-1:], data):
        assert not outcome(codec, data + tail)


def test_every_flipped_byte_is_refused(codec):
    data = packed(codec)
    for i in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            with pytest.raises(BitstreamError):
                codec.decompress([data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]])


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, insert, delete or cut a few bytes after the fingerprint, and correct the checksum."""
    body = bytearray(data[:-4])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(container.HEAD, max(len(body), container.HEAD + 1))
        at = min(at, container.HEAD + rng.choice((2, 6, 10**9)))  # sizes and mode as often as all the rest
        kind = rng.random()
        if kind < 0.6:
            body[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.75:
            body[at:at] = rng.randbytes(rng.randint(1, 6))
        elif kind < 0.9:
            del body[at : at + rng.randint(1, 6)]
        else:
            del body[at:]
    return reseal(bytes(body))


def fuzz(codec, data: bytes, trials: int) -> int:
    rng = random.Random(5)
    return sum(outcome(codec, mutated(data, rng)) for _ in range(trials))


def test_resealed_damage_decodes_or_is_refused(codec):
    trials = 1000 if codec.spec.total else 100 if codec.name == "audio/codec2" else 500  # it starts a process for each
    decoded = fuzz(codec, packed(codec), trials)  # `make fuzz` tries many more
    assert decoded if codec.spec.total else decoded < trials


def test_resealed_damage_of_range_coded_payloads(learned):
    if learned.context is not None:
        pytest.skip("its payloads are coded under a context model, which the test above damages")
    codec = counted(learned)
    (data,) = codec.compress(structured(codec, (64, 64) if codec.spec.modality is Modality.IMAGE else (640,)))
    mode = container.HEAD + 2 + codec.spec.ordered  # two sizes of one byte, or one of two
    assert data[mode] == container.RANGE_CODED
    assert fuzz(codec, data, 1000)


def test_random_bytes_behind_a_good_head(codec):
    head, rng = container.MAGIC + bytes([container.VERSION]) + codec.fingerprint, random.Random(1)
    for trial in range(500):
        outcome(codec, reseal(head + rng.randbytes(trial % 40)))


def test_what_is_no_container(codec):
    data = packed(codec)
    body = data[:-4]
    for bad in (b"", b"tlm", b"\0" * 40, b"\xff" * 40, b"\x89PNG\r\n\x1a\n" + b"\0" * 40, data[::-1]):
        with pytest.raises(BitstreamError):
            codec.decompress([bad])
        with pytest.raises(BitstreamError):
            codecs.decompress(bad)
    with pytest.raises(BitstreamError, match="CRC-32"):  # files of segments have another layout
        codec.decompress([reseal(body[:3] + bytes([container.SEGMENTED]) + body[4:])])
    for version in (0, container.SEGMENTED + 1, 255):
        with pytest.raises(BitstreamError, match="version"):
            codec.decompress([reseal(body[:3] + bytes([version]) + body[4:])])
    with pytest.raises(BitstreamError, match="written by the codec"):
        codec.decompress([reseal(body[:4] + bytes(8) + body[12:])])
    for nothing in ([], [5], None, "text", [None], [1], ["text"], data):
        with pytest.raises(BitstreamError):
            codec.decompress(nothing)


def test_unknown_codecs_are_named():
    body = container.MAGIC + bytes([container.VERSION]) + bytes(range(8)) + bytes(20)
    start = time.perf_counter()
    with pytest.raises(BitstreamError, match="0001020304050607"):
        codecs.decompress(reseal(body))
    assert time.perf_counter() - start < 20
    for nothing in ([], None, 3, "text", [None]):
        with pytest.raises(BitstreamError):
            codecs.decompress(nothing)


def test_a_size_has_at_most_6_bytes():
    codec = tiny("text/bytes")
    head = container.MAGIC + bytes([container.VERSION]) + codec.fingerprint
    for size, told in (
        (varint(2**42 - 1), "a signal must have 1 to .* samples, the container declares .4398046511103,."),
        (varint(2**42), "a number in the container must have at most 42 bits"),
        (b"", "the container ends early: 1 bytes needed, 0 left"),
    ):
        with pytest.raises(BitstreamError, match=told):
            codec.decompress([reseal(head + size)])
    for same in (bytes, bytearray, memoryview):
        assert codec.decompress((same(reseal(head + b"\2hi")),)) == ["hi"]
    assert codec.decompress([reseal(head + b"\0")]) == [""]
    with pytest.raises(BitstreamError, match="the text must have the 3 bytes that the container declares, got 2"):
        bitstream.decode(tiny("text/bpe"), Codes(torch.tensor([[[65, 66]]]), torch.tensor([[3]]), torch.tensor([2])))


def test_signals_of_the_largest_size_are_read(monkeypatch):
    codec = tiny("image/png")
    wide, tall, both = (codec.compress(torch.zeros(1, 3, *size)) for size in ((3, 1), (1, 4), (3, 4)))
    monkeypatch.setattr(validate, "MAX_PIXELS", 12)
    assert codec.decompress(both).shape == (1, 3, 3, 4)
    assert bitstream.read(codec, wide + tall).sizes.tolist() == [[3, 1], [1, 4]]
    monkeypatch.setattr(validate, "MAX_PIXELS", 11)
    with pytest.raises(BitstreamError, match=r"a signal must have 1 to 11 samples, the container declares \(3, 4\)"):
        codec.decompress(both)
    with pytest.raises(BitstreamError, match=r"a batch must have at most 11 samples, got sizes up to \[3, 4\]"):
        codec.decompress(wide + tall)
    for size in ((0, 3), (3, 0)):
        with pytest.raises(BitstreamError, match="a signal must have 1 to 11 samples"):
            codec.decompress([declare(codec, wide[0], (3, 1), size)])


def test_huge_declared_sizes_cost_nothing(codec):
    head = container.MAGIC + bytes([container.VERSION]) + codec.fingerprint
    axes = 2 if codec.spec.modality is Modality.IMAGE else 1
    data = packed(codec)
    payload = data[container.HEAD + axes : -4]
    gc.collect()
    tracemalloc.start()
    try:
        for n in (2**13, 2**20, 2**26, 2**28, 2**35, 2**42 - 1):
            for size in ((n,), (n, 1), (1, n), (n, n))[axes - 1 :][: 1 if axes == 1 else 3]:
                sizes = b"".join(map(varint, size))
                for used in (b"", varint(n), varint(len(codec.spec.codebook_sizes))):
                    for mode in (b"", bytes([container.PACKED]), bytes([container.RANGE_CODED])):
                        outcome(codec, reseal(head + sizes + used + mode + payload))
                outcome(codec, reseal(head + sizes + b"\xff" * 9 + payload))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26


def test_sizes_that_do_not_fit_together_are_refused():
    """Two small images can need a batch of 65,000 × 65,000 pixels."""
    codec = codecs.build("image/png")
    tall, wide = codec.compress(torch.zeros(1, 3, 60_000, 1)), codec.compress(torch.zeros(1, 3, 1, 60_000))
    with pytest.raises(BitstreamError, match="a batch must have"):
        codec.decompress(tall + wide)
    assert codec.decompress(tall).shape == (1, 3, 60_000, 1)


# -- payloads -----------------------------------------------------------------------------------


def slow_pack(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    """Pack lane by lane and digit by digit, in Python's integers."""
    positions, quantizers = symbols.shape[1], len(radices)
    steps = lanes = 0
    if positions * quantizers > 512:
        steps = math.ceil(positions / max(128, 2 * math.isqrt(positions * quantizers)))
        lanes = positions // steps
    columns, joined = [], []
    for lane in range(lanes):
        number, bound, words = 0, 1, []
        for step in range(steps):
            for row, radix in zip(symbols, radices, strict=True):
                while bound * radix > 2**63:
                    words.append(number % 2**16)
                    number, bound = number // 2**16, math.ceil(Fraction(bound, 2**16))
                number, bound = number * radix + int(row[step * lanes + lane]), bound * radix
        while bound > 2**31:
            words.append(number % 2**16)
            number, bound = number // 2**16, math.ceil(Fraction(bound, 2**16))
        columns.append(words)
        joined.append((number, bound))
    joined += [
        (int(row[i]), n) for i in range(steps * lanes, positions) for row, n in zip(symbols, radices, strict=True)
    ]
    value, product = 0, 1
    for digit, radix in joined:
        value, product = value * radix + digit, product * radix
    words = b"".join(word.to_bytes(2, "little") for words in zip(*columns, strict=True) for word in words)
    return words + value.to_bytes(((product - 1).bit_length() + 7) // 8, "little")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(st.integers(2, 20_000), min_size=1, max_size=4), st.integers(0, 70))
def test_packing_equals_a_slow_loop(data, radices, positions):
    rows = [data.draw(st.lists(st.integers(0, n - 1), min_size=positions, max_size=positions)) for n in radices]
    check_packing(np.array(rows, dtype=np.int64).reshape(len(radices), positions), tuple(radices))


@pytest.mark.parametrize("positions", [170, 171, 512, 513, 4097, 30_001])
@pytest.mark.parametrize("radices", [(8000,), (2, 3), (256, 2, 16384), (4, 1, 32), (65_536,), (2**20 - 1, 2, 16383)])
def test_packing_in_lanes_equals_a_slow_loop(positions, radices):
    rng = np.random.default_rng(positions)
    check_packing(np.stack([rng.integers(0, n, positions) for n in radices]), radices)
    check_packing(np.stack([np.full(positions, n - 1) for n in radices]), radices)
    check_packing(np.zeros((len(radices), positions), dtype=np.int64), radices)


def check_packing(symbols: np.ndarray, radices: tuple[int, ...]) -> None:
    packed = packing.pack(symbols, radices)
    assert packed == slow_pack(symbols, radices)
    assert 8 * len(packed) <= symbols.shape[1] * sum(map(math.log2, radices)) + 32
    back = packing.unpack(packed, radices, symbols.shape[1])
    assert back.dtype == np.int64 and np.array_equal(back, symbols)


def test_a_number_beyond_its_bound_is_refused():
    """The words of a lane may hold a number beyond its bound, which follows from the number above them."""
    radices, symbols = (7919,), np.full((1, 5000), 7918)
    packed = bytearray(packing.pack(symbols, radices))
    packed[0:2] = packed[2:4] = b"\xff\xff"
    with pytest.raises(BitstreamError, match="beyond its codebook"):
        packing.unpack(bytes(packed), radices, 5000)


@pytest.mark.parametrize("radices", [(8000,), (2,), (1024,) * 8])
def test_packing_is_fast(radices):
    symbols = np.random.default_rng(0).integers(0, radices[0], (len(radices), 300_000 // len(radices)))
    start = time.process_time()
    packed = packing.pack(symbols, radices)
    assert np.array_equal(packing.unpack(packed, radices, symbols.shape[1]), symbols)
    assert time.process_time() - start < 1
    assert 8 * len(packed) <= symbols.size * math.log2(radices[0]) + 32


@pytest.mark.parametrize(("pack", "unpack"), [(packing.pack, packing.unpack), (pack_blocks, version1.unpack)])
@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=24), positions=st.integers(0, 12),
    radices=st.lists(st.integers(2, 300) | st.sampled_from([2, 4, 256]), min_size=1, max_size=3),
)  # fmt: skip
def test_unpacking_any_bytes(pack, unpack, data, radices, positions):
    """Bytes are refused, or their symbols are in range and pack to the same bytes."""
    try:
        symbols = unpack(data, tuple(radices), positions)
    except BitstreamError:
        return
    assert (symbols >= 0).all() and (symbols < np.array(radices)[:, None]).all()
    assert pack(symbols, tuple(radices)) == data


def test_packed_payload_is_within_32_bits(learned):
    for size in ((1, 1), (7, 50), (64, 48)) if learned.spec.modality is Modality.IMAGE else ((1,), (77,), (5000,)):
        codes = learned.encode(structured(learned, size))
        symbols = codes.indices[0].flatten(1).numpy()
        packed = packing.pack(symbols, learned.spec.codebook_sizes)
        assert 8 * len(packed) <= rate.nominal(learned.spec, codes).item() + 32
        assert len(bitstream.write(learned, codes)[0]) <= len(packed) + 32


def test_range_coding_is_exact_and_shorter_where_codes_are_skewed(learned):
    if learned.context is not None:
        pytest.skip("its payloads are coded under a context model")
    codec = counted(learned)
    x = structured(codec, (64, 64) if codec.spec.modality is Modality.IMAGE else (4000,))
    codes = codec.encode(x)
    (data,) = bitstream.write(codec, codes)
    (packed,) = bitstream.write(learned, codes)
    assert len(data) < len(packed)
    assert torch.equal(bitstream.read(codec, [data]).indices, codes.indices)
    entropy = rate.entropy(codec, codes).item()
    assert entropy - 64 <= 8 * len(data) <= 1.01 * entropy + 32 * 8 + 64
    rare = Codes(torch.zeros_like(codes.indices) + (codec.counts[:, : codec.spec.codebook_sizes[0]].argmin(1))
                 .reshape(1, -1, *[1] * (codes.indices.ndim - 2)), codes.sizes, codes.lengths)  # fmt: skip
    (unlikely,) = bitstream.write(codec, rare)
    assert len(unlikely) <= len(packed) + 1  # codes that the counts do not expect are packed
    assert torch.equal(bitstream.read(codec, [unlikely]).indices, rare.indices)


@pytest.mark.parametrize("name", ["image/rvq", "audio/rvq"])
def test_range_coding_of_prefixes(name):
    codec = counted(tiny(name))
    x = structured(codec, (40, 33) if codec.spec.modality is Modality.IMAGE else (999,))
    for count in codec.settings.values:
        codes = codec.encode(x, count)
        assert torch.equal(bitstream.read(codec, bitstream.write(codec, codes)).indices, codes.indices)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=160, max_size=160), st.integers(0, 2**32 - 1))
def test_range_coding_under_any_counts(counts, seed):
    """Every symbol can be coded with counts of zero, of millions, and with one nearly certain entry."""
    if not sum(counts):
        counts[0] = 1
    codec = copy.deepcopy(tiny("image/fsq"))
    codec.counts[0] = torch.tensor(counts)
    indices = torch.from_numpy(np.random.default_rng(seed).integers(0, 160, (1, 1, 3, 4)))
    codes = Codes(indices, torch.tensor([[20, 31]]))
    probabilities = entropy.frequencies(codec)
    coded = entropy.encode(indices[0].flatten(1).numpy(), probabilities)
    assert np.array_equal(entropy.decode(coded, probabilities, 12), indices[0].flatten(1).numpy())
    assert torch.equal(bitstream.read(codec, bitstream.write(codec, codes)).indices, indices)


def declare(codec, data: bytes, size: tuple[int, ...], new: tuple[int, ...]) -> bytes:
    """Return a container with another declared size."""
    old = b"".join(map(varint, size))
    assert data[container.HEAD :].startswith(old)
    return reseal(data[: container.HEAD] + b"".join(map(varint, new)) + data[container.HEAD + len(old) : -4])


def test_a_payload_of_another_size_is_refused(codec):
    """Sizes of another grid, text or file are refused, smaller and larger, whatever the mode of the payload."""
    if not codec.spec.stride and isinstance(codec, LatentCodec):
        pytest.skip("its tokens are those of an image of any size with as many tiles")
    size = {Modality.IMAGE: (150, 130), Modality.AUDIO: (2500,), Modality.TEXT: (60,)}[codec.spec.modality]
    coders = [codec, counted(codec)] if isinstance(codec, LatentCodec) and codec.context is None else [codec]
    scale = {"audio/lyra": 8, "audio/codec2": 8, "audio/aac": 24}.get(codec.name, 1)  # frames of 320 and 1,024 samples
    for coder in coders:
        x = structured(coder, size)
        codes = coder.encode(x)
        (data,) = bitstream.write(coder, codes)
        size = tuple(codes.sizes[0].tolist())
        for axis in range(len(size)):
            for change in (-60, -50, 50, 64):
                new = tuple(n + scale * change * (i == axis) for i, n in enumerate(size))
                if codec.spec.modality is Modality.TEXT:
                    new = (size[0] + change // 10,)
                with pytest.raises(BitstreamError):
                    coder.decompress([declare(coder, data, size, new)])


@pytest.mark.parametrize("words", [1, 20])
def test_a_payload_with_words_too_many_is_refused(words):
    codec = counted(tiny("image/fsq"))
    (data,) = codec.compress(structured(codec, (64, 64)))
    with pytest.raises(BitstreamError):
        codec.decompress([reseal(data[:-4] + bytes(4 * words))])


def test_a_payload_that_is_too_short_is_refused_at_the_first_symbols_without_bits():
    fair = [np.array([0.5, 0.5])]
    with pytest.raises(BitstreamError, match="ends before the last symbol"):
        entropy.decode(b"", fair, 64)
    with pytest.raises(BitstreamError, match="a range-coded payload of 0 bytes cannot hold 65 positions"):
        entropy.decode(b"", fair, 65)  # 64 bits may be in the state of the coder
    with pytest.raises(BitstreamError, match="whole 32-bit words, got 5 bytes"):
        entropy.decode(bytes(5), fair, 1)


def test_a_size_takes_a_byte_per_7_bits():
    codec = tiny("image/fsq")
    (data,) = codec.compress(structured(codec, (127, 128)))
    assert data[container.HEAD : container.HEAD + 3] == bytes([127, 128, 1])
    with pytest.raises(BitstreamError, match="the container has no payload"):
        codec.decompress([reseal(data[: container.HEAD + 3])])


@pytest.mark.parametrize("declared", [0, 4, 127])
def test_quantizers_that_a_codec_does_not_have_are_refused(declared):
    codec = tiny("image/rvq")
    (data,) = codec.compress(structured(codec, (13, 10)))
    at = container.HEAD + 2
    assert data[at] == 3
    with pytest.raises(BitstreamError, match=f"image/rvq has 3 quantizers, the container declares {declared}"):
        codec.decompress([reseal(data[:at] + bytes([declared]) + data[at + 1 : -4])])


def test_codecs_without_counts_pack():
    codec = copy.deepcopy(tiny("image/fsq"))
    codec.counts.zero_()
    assert entropy.frequencies(codec) is None
    (data,) = codec.compress(structured(codec, (13, 10)))
    assert data[container.HEAD + 2] == container.PACKED
    codec.counts[0, 0] = 1
    assert entropy.frequencies(codec)[0].tolist() == [1.5 / 81, *[0.5 / 81] * 159]


def test_a_small_hostile_file_is_refused_at_once():
    """The symbols of a payload for a small picture take more bits than it has before the first pass is over."""
    codec = codecs.load("natural-ntc")
    (data,) = codec.compress(structured(codec, (96, 160)))
    codec.working_memory((1, 1))  # measured once
    start = time.process_time()
    with pytest.raises(BitstreamError, match="payload"):
        codec.decompress([declare(codec, data, (96, 160), (1536, 1536))])
    assert time.process_time() - start < 2


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_side_information_must_be_finite(number):
    codec = tiny("image/ntc")
    (data,) = codec.compress(structured(codec, (13, 10)))
    at = container.HEAD + 2  # behind the size
    assert np.frombuffer(data[at : at + 4], "<f4")[0] == codec.settings.default
    with pytest.raises(BitstreamError, match="side information 'quality' holds NaN or Inf"):
        codec.decompress([reseal(data[:at] + np.float32(number).tobytes() + data[at + 4 : -4])])


@pytest.mark.parametrize(("length", "reads"), [(1, False), (2, True), (16, True), (17, False)])
def test_tokens_must_be_as_many_as_a_picture_can_take(length, reads):
    """Two tiles take 1 to 8 tokens each."""
    codec = copy.deepcopy(tiny("image/flex"))
    codec.counts.zero_()
    codes = Codes(torch.arange(length)[None, None], torch.tensor([[48, 49]]), torch.tensor([length]))
    data = bitstream.write(codec, codes)
    if reads:
        assert bitstream.read(codec, data) == codes
    else:
        with pytest.raises(BitstreamError, match=r"\(48, 49\) samples take 2 to 16 tokens, the container declares"):
            bitstream.read(codec, data)


@pytest.mark.parametrize("name", ["image/fsq", "image/rvq"])
def test_the_shorter_payload_is_written(name):
    """Of two payloads of the same length, the packed one."""
    codec, rng, modes = copy.deepcopy(tiny(name)), np.random.default_rng(0), set()
    books = codec.spec.codebook_sizes
    codec.counts[:, : books[0]] = torch.arange(books[0]) ** 2
    probabilities = entropy.frequencies(codec)
    for positions in range(1, 121):
        weights = [p ** rng.choice([0.2, 0.3, 0.5]) for p in probabilities]
        rows = np.stack([rng.choice(len(w), positions, p=w / w.sum()) for w in weights])
        payloads = [
            bytes([container.PACKED]) + packing.pack(rows, books),
            bytes([container.RANGE_CODED]) + entropy.encode(rows, probabilities),
        ]
        codes = Codes(torch.from_numpy(rows)[None, :, None], torch.tensor([[8, 8 * positions]]))
        (data,) = bitstream.write(codec, codes)
        shorter = min(payloads, key=len)
        assert data[-4 - len(shorter) : -4] == shorter
        modes.add((shorter[0], len(payloads[0]) == len(payloads[1])))
    assert modes == {(container.RANGE_CODED, False), (container.PACKED, False), (container.PACKED, True)}


def test_nothing_is_packed_that_the_counts_expect(monkeypatch):
    """Packing takes long for large signals."""
    codec = counted(tiny("image/fsq"))
    monkeypatch.setattr(packing, "pack", None)
    x = structured(codec, (64, 64))
    assert torch.equal(codec.decompress(codec.compress(x)), codec.decode(codec.encode(x)))


def test_payloads_under_a_context_model_are_exact():
    codec = codecs.load("natural-ntc")
    codes = codec.encode(structured(codec, (50, 33)))
    (data,) = bitstream.write(codec, codes)
    at = container.HEAD + 2  # behind the size; the mode is behind the quality
    assert data[at + 4] == container.CONTEXT_CODED and bitstream.read(codec, [data]) == codes
    with pytest.raises(BitstreamError, match="quality"):
        bitstream.read(codec, [reseal(data[:at] + np.float32(1000).tobytes() + data[at + 4 : -4])])


@pytest.mark.parametrize(("name", "modes"), [("image/fsq", (2, 3, 255)), ("image/ntc", (1, 3)), ("image/flex", (2,))])
def test_modes_that_a_codec_does_not_have_are_refused(name, modes):
    codec = tiny(name)
    (data,) = codec.compress(structured(codec, (13, 10)))
    at = container.HEAD + 2 + 4 * (name == "image/ntc") + (name == "image/flex")  # behind the quality, or the length
    for mode in modes:
        with pytest.raises(BitstreamError, match=f"{name} has no payload mode {mode}"):
            codec.decompress([reseal(data[:at] + bytes([mode]) + data[at + 1 : -4])])


# -- finding the codec --------------------------------------------------------------------------


def test_decompress_finds_the_codec(codec, tmp_path):
    x = structured(codec, SMALL[codec.spec.modality])
    (data,) = codec.compress(x)
    if not type(codec).variants:
        codecs.save(codec, tmp_path / "mine")
        codec = codecs.load(tmp_path / "mine")
    y, wanted = codecs.decompress(data), codec.decompress([data])
    assert y == wanted if isinstance(y, list) else torch.equal(y, wanted)
    several = codecs.decompress([data, data])
    assert len(several) == 2


@pytest.mark.parametrize("name", ["audio/opus", "audio/flac"])
def test_decompress_finds_other_rates_and_channels(name):
    codec = codecs.build(name, sample_rate=44_100, channels=2)
    (data,) = codec.compress(torch.zeros(1, 2, 500))
    assert codecs.decompress(data).shape == (1, 2, 500)


def test_containers_of_two_codecs_do_not_mix():
    first, second = codecs.build("image/png"), codecs.build("image/jpeg")
    data = first.compress(torch.zeros(1, 3, 4, 4)) + second.compress(torch.zeros(1, 3, 4, 4))
    with pytest.raises(BitstreamError, match="written by the codec"):
        codecs.decompress(data)
