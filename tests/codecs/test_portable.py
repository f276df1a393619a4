"""The same codes and files on other processors: other instructions, kernels, threads and default types."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from support.codecs import structured

from tokenloom import codecs

NAMES = ("natural-ntc", "natural-fsq", "emoji-flex", "digits-rvq")
CHILD = """
import pickle, sys
import torch
from tokenloom import codecs
if "plain" in sys.argv:
    torch.backends.mkldnn.enabled = False
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
found = {}
for name, (x, data) in pickle.loads(sys.stdin.buffer.read()).items():
    codec = codecs.load(name)
    read = codecs.bitstream.read(codec, [data])
    found[name] = codec.encode(x), read, codec.decode(read), codec.compress(x)[0]
sys.stdout.buffer.write(pickle.dumps((torch.backends.cpu.get_cpu_capability(), found)))
"""


@pytest.fixture(scope="module")
def files() -> dict:
    """Return a signal of each codec, and its container."""
    made = {}
    for name in NAMES:
        codec = codecs.load(name)
        size = (9_000,) if codec.spec.modality == "audio" else (75, 100)
        x = structured(codec, size)
        made[name] = x, codec.compress(x)[0]
    return made


@pytest.mark.parametrize(("capability", "mode"), [("default", ""), ("avx2", ""), ("", "plain")])
def test_other_processors_have_the_same_codes_and_files(files, capability, mode):
    environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    if capability:
        environment |= {
            "ATEN_CPU_CAPABILITY": capability,
            "ONEDNN_MAX_CPU_ISA": "SSE41" if capability == "default" else "AVX2",
        }
    child = subprocess.run(
        [sys.executable, "-c", CHILD, mode],
        input=pickle.dumps(files),
        capture_output=True,
        env=environment,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()[-2000:]
    used, found = pickle.loads(child.stdout)
    assert not capability or used.lower() == capability
    for name, (x, data) in files.items():
        codec = codecs.load(name)
        encoded, read, decoded, written = found[name]
        assert encoded == codec.encode(x) == read, name
        assert written == data, name
        torch.testing.assert_close(decoded, codec.decode(read), rtol=0, atol=1e-5)
