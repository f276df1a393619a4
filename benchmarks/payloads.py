"""Codes as bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tokenloom.codecs.bitstream import packing

from .case import Case

SHAPES = (((8000,), 1024), ((8000,), 375_000), ((1024,) * 8, 45_000))
"""Entries of each codebook, and positions."""


def cases() -> Iterator[Case]:
    for radices, positions in SHAPES:
        rng = np.random.default_rng(0)
        symbols = np.stack([rng.integers(0, n, positions) for n in radices])
        packed, whole = packing.pack(symbols, radices), _whole_bits(symbols, radices)
        work = f"{positions:,} × {len(radices)} codes below {radices[0]:,}"
        sizes = f"{len(packed):,} bytes against {len(whole):,}"
        assert len(packed) <= len(whole)
        yield Case(
            "payloads", f"pack {work}", "NumPy: whole bits", lambda s=symbols, r=radices: packing.pack(s, r),
            lambda s=symbols, r=radices: _whole_bits(s, r), lambda ours, theirs, sizes=sizes: sizes,
        )  # fmt: skip
        yield Case(
            "payloads", f"unpack {work}", "NumPy: whole bits",
            lambda p=packed, r=radices, n=positions: packing.unpack(p, r, n),
            lambda w=whole, r=radices, n=positions: _from_whole_bits(w, r, n), _equal,
        )  # fmt: skip


def _equal(ours: np.ndarray, theirs: np.ndarray) -> str:
    assert np.array_equal(ours, theirs)
    return "equal"


def _whole_bits(symbols: np.ndarray, radices: tuple[int, ...]) -> bytes:
    width = (max(radices) - 1).bit_length()
    return np.packbits((symbols[:, :, None] >> np.arange(width) & 1).astype(np.uint8)).tobytes()


def _from_whole_bits(data: bytes, radices: tuple[int, ...], positions: int) -> np.ndarray:
    width = (max(radices) - 1).bit_length()
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=width * positions * len(radices))
    return bits.reshape(len(radices), positions, width) @ (1 << np.arange(width))
