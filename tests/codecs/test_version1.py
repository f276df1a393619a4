"""Packed payloads of containers of version 1 are read as before."""

from __future__ import annotations

import random
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.codecs import structured, tiny
from support.payloads import pack_blocks

from tokenloom.codecs.bitstream import container, version1


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.integers(2, 20_000), min_size=1, max_size=4), st.integers(0, 70))
def test_one_block(data, radices, positions):
    rows = [data.draw(st.lists(st.integers(0, n - 1), min_size=positions, max_size=positions)) for n in radices]
    check(np.array(rows, dtype=np.int64).reshape(len(radices), positions), tuple(radices))


@pytest.mark.parametrize("positions", [2047, 2048, 4096, 4097, 30_001])
@pytest.mark.parametrize("radices", [(8000,), (2, 3), (256, 2, 16384), (1024,)])
def test_blocks(positions, radices):
    rng = np.random.default_rng(positions)
    check(np.stack([rng.integers(0, n, positions) for n in radices]), radices)
    check(np.stack([np.full(positions, n - 1) for n in radices]), radices)


def test_blocks_of_zeros():
    """The quotients of a long division may have no bits."""
    check(np.zeros((1, 1000), dtype=np.int64), (8000,))


def check(symbols: np.ndarray, radices: tuple[int, ...]) -> None:
    assert np.array_equal(version1.unpack(pack_blocks(symbols, radices), radices, symbols.shape[1]), symbols)


def test_containers():
    """Payloads with a byte for their mode, and those of texts without one."""
    for name in ("image/fsq", "text/bpe"):
        codec = tiny(name)
        codes = codec.encode(structured(codec, (64, 64)))
        (new,) = codec.compress(structured(codec, (64, 64)))
        rows = codes.indices[0].flatten(1).numpy()
        payload = pack_blocks(rows, codec.spec.codebook_sizes)
        body = new[:3] + b"\1" + new[4 : -4 - len(payload)] + payload
        (read,) = container.read(codec, [body + zlib.crc32(body).to_bytes(4, "little")])
        assert (read.indices == codes.indices).all()


@pytest.mark.parametrize("radices", [(1000,), (2,), (3, 65_536, 2, 999)])
def test_long_payloads_are_read_in_time(radices):
    symbols = np.stack([np.random.default_rng(0).integers(0, n, 300_000 // len(radices)) for n in radices])
    payload = pack_blocks(symbols, radices)
    start = time.process_time()
    assert np.array_equal(version1.unpack(payload, radices, symbols.shape[1]), symbols)
    assert time.process_time() - start < 8


@pytest.mark.parametrize("bits", [version1.LONG, version1.LONG + 1, 9_999, version1.FFT, 3 * version1.FFT + 5])
def test_long_division_equals_pythons(bits):
    """For divisors at both ends of their length, and quotients of every length."""
    numbers = random.Random(bits)
    for divisor in (1 << bits - 1, (1 << bits - 1) + 1, (1 << bits) - 1, numbers.getrandbits(bits) | 1 << bits - 1):
        for length in (0, 1, 10, bits // 2, bits - 1, bits, bits + 1):
            quotient = (1 << length) - 1 - numbers.getrandbits(length) // 3
            for remainder in (0, divisor - 1, numbers.randrange(divisor)):
                value = quotient * divisor + remainder
                found = version1._divide(np.array([[value]], dtype=object), np.array([[divisor]], dtype=object))
                assert (found[0][0, 0], found[1][0, 0]) == divmod(value, divisor)
