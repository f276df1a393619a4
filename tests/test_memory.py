"""Decoding that takes more memory than the limit is refused in one line, before anything is allocated."""

from __future__ import annotations

import math
import time

import pytest
import torch
from support.codecs import one_line, structured, tiny

from tokenloom import codecs, memory
from tokenloom.codecs import BitstreamError, Codes, Modality

CPU = torch.device("cpu")


@pytest.mark.parametrize(("text", "count"), [
    ("8GB", 8 * 10**9), ("500 MB", 500 * 10**6), ("2GiB", 2**31), ("1e9", 10**9), ("12345", 12345), ("1.5k", 1500),
])  # fmt: skip
def test_the_limit_is_one_setting(text, count, monkeypatch):
    monkeypatch.setenv(memory.SETTING, text)
    assert memory.limit(CPU) == count


@pytest.mark.parametrize("text", ["lots", "-3", "0", "8PB", "GB", "nan", "1..2", "1e999"])
def test_a_limit_that_is_no_size_is_one_line(text, monkeypatch):
    monkeypatch.setenv(memory.SETTING, text)
    with pytest.raises(ValueError, match=memory.SETTING) as error:
        memory.limit(CPU)
    assert one_line(error)


def test_by_default_the_limit_is_below_the_free_memory(monkeypatch):
    monkeypatch.delenv(memory.SETTING, raising=False)
    assert 2**20 < memory.limit(CPU) <= memory._machine()
    monkeypatch.setattr(memory, "_lines", lambda path: {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:  8000000 kB"],
        "/proc/self/cgroup": ["0::/job"],
        "/sys/fs/cgroup/job/memory.max": ["6000000000"],
        "/sys/fs/cgroup/job/memory.current": ["3000000000"],
        "/sys/fs/cgroup/job/memory.stat": ["anon 1", "inactive_file 1000000000"],
        "/sys/fs/cgroup/memory.max": ["max"],
    }.get(path, []))  # fmt: skip
    assert memory.limit(CPU) == 0.75 * 4e9, "the container has less than the machine"


def test_what_takes_more_than_the_limit_is_refused_at_once(codec, monkeypatch):
    """By decode and by decompress, for one large signal and for many that fit alone."""
    if codec.spec.modality is Modality.TEXT:
        pytest.skip("a text takes no more memory than its container")
    size = {Modality.IMAGE: (1040, 1040), Modality.AUDIO: (2**20 + 1000,)}[codec.spec.modality]
    grid, side = codec.spec.grid(size) if codec.spec.stride else (1100,), codec.side_shapes(size)
    codes = Codes(
        torch.zeros(1, len(codec.spec.codebook_sizes), *grid, dtype=torch.int64),
        torch.tensor([size]),
        None if codec.spec.stride else torch.tensor([1100]),
        {key: torch.ones(1, *shape) for key, shape in side.items()},
    )
    monkeypatch.setenv(memory.SETTING, "20MB")
    codec.working_memory(size)
    start = time.process_time()
    with pytest.raises(memory.MemoryLimitError, match=f"at most 20 MB.*{memory.SETTING}=") as error:
        codec.decode(codes)
    assert one_line(error) and time.process_time() - start < 1
    small = codec.compress(structured(codec, tuple(n // 4 for n in size)))
    monkeypatch.setenv(memory.SETTING, f"{codec.working_memory(tuple(n // 4 for n in size)) + 12 * math.prod(size)}")
    with pytest.raises(BitstreamError, match=memory.SETTING) as error:
        codec.decompress(small * 40)
    assert one_line(error)


def test_sizes_that_share_no_axis_are_refused_together():
    """Eight strips take little alone, and 8 × 8,000 × 8,000 pixels together."""
    codec = codecs.build("image/png")
    tall, wide = codec.compress(torch.zeros(1, 3, 8000, 4))[0], codec.compress(torch.zeros(1, 3, 4, 8000))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(memory.SETTING, "4GB")
        with pytest.raises(BitstreamError, match="decoding 8 signals of up to 8000 x 8000 samples"):
            codec.decompress([tall, wide] * 4)
        assert codec.decompress([tall] * 4).shape == (4, 3, 8000, 4)


def test_batches_are_split_to_bound_memory(monkeypatch):
    codec = tiny("image/fsq")
    codes = codec.encode(torch.cat([structured(codec, (64, 48), seed) for seed in range(5)]))
    whole, seen, original = codec.decode(codes), [], type(codec)._decode
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "BATCH", 2 * codec.working_memory((64, 48)))
    monkeypatch.setattr(type(codec), "_decode", lambda self, some: (seen.append(len(some)), original(self, some))[1])
    torch.testing.assert_close(codec.decode(codes), whole, rtol=0, atol=1e-5)
    assert seen == [2, 2, 1]


def test_the_estimate_covers_the_tensors_of_a_decode(learned):
    """At least the input and output of the widest layer, for a signal of another size than the one that is measured."""
    size = (96, 80) if learned.spec.modality is Modality.IMAGE else (8 * learned.spec.stride[0],)
    codes, largest = learned.encode(structured(learned, size)), 0

    def record(module, given, result):
        nonlocal largest
        tensors = [t for t in (*given, result) if isinstance(t, torch.Tensor)]
        largest = max(largest, sum(t.nbytes for t in tensors))

    hooks = [module.register_forward_hook(record) for module in learned.modules()]
    learned.decode(codes)
    for hook in hooks:
        hook.remove()
    assert learned.working_memory(size) >= largest
