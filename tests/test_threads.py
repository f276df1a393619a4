"""A forked process computes after its parent has used several threads."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from support.codecs import structured, tiny

from tokenloom import threads
from tokenloom.codecs import Codec


def recode(codec: Codec, x: torch.Tensor) -> tuple[bytes, int]:
    return codec.compress(x)[0], torch.get_num_threads()


@pytest.fixture
def two_threads():
    with threads.limit(2):
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_computes(two_threads):
    codec = tiny("image/fsq")
    x = structured(codec, (256, 256))
    (data,) = codec.compress(x)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(recode, codec, x).result(timeout=30) == (data, 1)
