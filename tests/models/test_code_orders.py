"""Orders of codes against slow loops, and digits of sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.codecs import one_line

from tokenloom.models.vocabulary import streams

GRIDS = st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple)
SETTINGS = {"grid": GRIDS, "quantizers": st.integers(1, 5), "pattern": st.sampled_from(streams.PATTERNS)}


def slow(grid: tuple[int, ...], quantizers: int, pattern: str) -> list[tuple[tuple[int, ...], int]]:
    """Return (position, quantizer) of each token. For delay, use the padded matrix of MusicGen."""
    cells = list(itertools.product(*map(range, grid)))
    if pattern == "raster":
        return [(cell, q) for cell in cells for q in range(quantizers)]
    steps = len(cells) + quantizers - 1
    matrix = [[None] * q + cells + [None] * (steps - q - len(cells)) for q in range(quantizers)]
    return [(row[step], q) for step in range(steps) for q, row in enumerate(matrix) if row[step] is not None]


@settings(deadline=None)
@given(**SETTINGS)
def test_order_and_flatten_are_the_slow_loop(grid: tuple[int, ...], quantizers: int, pattern: str) -> None:
    indices = torch.arange(quantizers * math.prod(grid)).reshape(quantizers, *grid)
    wanted = slow(grid, quantizers, pattern)
    codes, quantizer = streams.flatten(indices, pattern)
    assert codes.dtype == quantizer.dtype == torch.int64
    assert codes.tolist() == [int(indices[(q, *cell)]) for cell, q in wanted]
    assert quantizer.tolist() == [q for _, q in wanted]
    position = [sum(i * math.prod(grid[axis + 1 :]) for axis, i in enumerate(cell)) for cell, _ in wanted]
    assert streams.order(grid, quantizers, pattern).tolist() == [list(t) for t in zip(position, quantizer, strict=True)]


@settings(deadline=None)
@given(**SETTINGS, seed=st.integers(0, 99))
def test_unflatten_is_the_inverse(grid: tuple[int, ...], quantizers: int, pattern: str, seed: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, 1000, (quantizers, *grid), generator=numbers)
    codes, _ = streams.flatten(indices, pattern)
    assert torch.equal(streams.unflatten(codes, grid, quantizers, pattern), indices)
    mixed = codes[torch.randperm(len(codes), generator=numbers)]
    assert torch.equal(streams.flatten(streams.unflatten(mixed, grid, quantizers, pattern), pattern)[0], mixed)


def test_delay_is_applied_once() -> None:
    """Three quantizers and four frames by hand. A second delay would move the 10s and 20s again."""
    frames = torch.tensor([[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]])
    codes, _ = streams.flatten(frames, "delay")
    assert codes.tolist() == [0, 1, 10, 2, 11, 20, 3, 12, 21, 13, 22, 23]


@settings(deadline=None)
@given(**SETTINGS)
def test_coarse_quantizers_come_first(grid: tuple[int, ...], quantizers: int, pattern: str) -> None:
    seen = torch.zeros(math.prod(grid), dtype=torch.int64)
    for position, quantizer in streams.order(grid, quantizers, pattern).tolist():
        assert seen[position] == quantizer
        seen[position] += 1
    assert (seen == quantizers).all()


def test_order_belongs_to_the_caller() -> None:
    """Changes of a result do not reach later results."""
    before = streams.order((2, 3), 2, "delay")
    kept = before.clone()
    before.zero_()
    streams.flatten(torch.zeros(2, 2, 3, dtype=torch.int64), "delay")[1].fill_(9)
    assert torch.equal(streams.order((2, 3), 2, "delay"), kept)


def test_an_order_that_was_first_used_in_inference_passes_gradients() -> None:
    with torch.inference_mode():
        streams.order((3, 11), 2, "delay")
    values = torch.rand(2, 3, 11, requires_grad=True)
    codes, quantizer = streams.flatten(values, "delay")
    (codes * quantizer).sum().backward()
    assert torch.equal(values.grad, torch.arange(2.0)[:, None, None].expand(2, 3, 11))


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_varint_is_inverted(n: int) -> None:
    digits = streams.varint(n)
    assert [digit >= 128 for digit in digits] == [True] * (len(digits) - 1) + [False]
    assert sum((digit % 128) * 128**i for i, digit in enumerate(reversed(digits))) == n
    assert len(digits) == max(1, -(-n.bit_length() // 7))


def test_varint_by_hand() -> None:
    assert [streams.varint(n) for n in (0, 1, 127, 128, 321, 16384)] == [
        [0], [1], [127], [129, 0], [130, 65], [129, 128, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: streams.order((2,), 2, "zigzag"), "one of raster, delay, got 'zigzag'"),
        (lambda: streams.order((-1, 2), 2, "raster"), r"grid of \(-1, 2\)"),
        (lambda: streams.order((2,), 0, "raster"), "0 quantizers"),
        (lambda: streams.flatten(torch.zeros(4).long(), "raster"), r"\(4,\)"),
        (lambda: streams.unflatten(torch.zeros(7).long(), (2, 2), 2, "delay"), r"has 8 codes, got \(7,\)"),
        (lambda: streams.varint(-1), "at least 0, got -1"),
    ],
)
def test_refusals(call, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        call()
    assert one_line(error)
