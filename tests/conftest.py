"""Fixtures that every test may use: a small codec of each registered name, and the loopback interface."""

from __future__ import annotations

import signal
import socket

import pytest
import torch
from jaxtyping import install_import_hook

# before tokenloom is imported, so that every test checks the shapes in annotations of inner functions
install_import_hook(["tokenloom.codecs.audio.seanet", "tokenloom.train.losses"], "beartype.beartype")

from support.codecs import tiny, trains

from tokenloom import codecs
from tokenloom.codecs.codec import Codec, LatentCodec

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; some tests need Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutants", type=int, help="number of random edits of each file in test_fuzz.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with `codec` over every registered codec, and tests with `learned` over those that train."""
    for fixture, included in (("codec", lambda name: True), ("learned", trains)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [name for name in codecs.names() if included(name)], indirect=True)


@pytest.fixture
def codec(request: pytest.FixtureRequest) -> Codec:
    return tiny(request.param)


@pytest.fixture
def learned(request: pytest.FixtureRequest) -> LatentCodec:
    return tiny(request.param)


@pytest.fixture(scope="session")
def loopback() -> None:
    """Skip the test unless the machine can connect to itself. Tests of servers and of several processes need that."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 1):
            return
    except OSError:
        pytest.skip("no loopback interface: this machine cannot connect to itself")
