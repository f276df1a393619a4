"""Ready codecs for every registered name, small enough to run in milliseconds."""

from __future__ import annotations

import signal
import socket

import pytest
import torch
from jaxtyping import install_import_hook

# before anything of ours is imported: shapes written on inner functions are checked in every test
install_import_hook(["tokenloom.codecs.audio.seanet", "tokenloom.train.losses"], "beartype.beartype")

from support.codecs import tiny, trains

from tokenloom import codecs
from tokenloom.codecs.codec import Codec, LatentCodec

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: Ctrl-C is tested, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`codec` runs over every registered codec, `learned` over those that train."""
    for fixture, wanted in (("codec", lambda name: True), ("learned", trains)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [n for n in codecs.names() if wanted(n)], indirect=True)


@pytest.fixture
def codec(request: pytest.FixtureRequest) -> Codec:
    return tiny(request.param)


@pytest.fixture
def learned(request: pytest.FixtureRequest) -> LatentCodec:
    return tiny(request.param)


@pytest.fixture(scope="session")
def loopback() -> None:
    """For tests of several processes and of servers; without a network all the others run."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as here, socket.create_connection(here.getsockname(), 1):
            return
    except OSError:
        pytest.skip("this machine cannot reach itself: no loopback interface")
