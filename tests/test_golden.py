"""Files of earlier releases are read as before, and shipped checkpoints keep their fingerprints.

tests/golden/ holds containers of every shipped and every classical codec, the signals that they decode to, and all
fingerprints. facts.json also holds payloads of symbols that a formula gives: the SHA-256 of packed ones, and one that
is coded under counts. The folders hold checkpoints, shards and a training state of one release each; see
support/golden.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import golden
from support.payloads import pack_blocks

from tokenloom import codecs, models
from tokenloom.codecs import checkpoint, rate
from tokenloom.codecs.bitstream import entropy, packing, version1
from tokenloom.data import tokens
from tokenloom.train import state

GOLDEN = Path(__file__).parent / "golden"
FACTS = json.loads((GOLDEN / "facts.json").read_text(encoding="utf-8"))
SIGNALS = load_file(GOLDEN / "signals.safetensors")
CODECS = [name for name, facts in FACTS.items() if "fingerprint" in facts]


def test_every_shipped_checkpoint_is_recorded():
    assert {*codecs.shipped(), *models.names()} <= set(FACTS)


@pytest.mark.parametrize("name", CODECS)
def test_stored_containers_decode_to_the_same_signals(name):
    """The tolerance allows for float32 rounding on other processors."""
    stem = name.replace("/", "-")
    (decoded,) = codecs.decompress((GOLDEN / f"{stem}.tlm").read_bytes())
    if "text" in FACTS[name]:
        assert decoded == FACTS[name]["text"]
    else:
        torch.testing.assert_close(decoded, SIGNALS[stem], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_fingerprints_are_unchanged(name):
    assert codecs.load(name).fingerprint.hex() == FACTS[name]["fingerprint"]


@pytest.mark.parametrize("name", models.names())
def test_models_keep_the_fingerprints_of_their_codecs(name):
    config = checkpoint.read_config(checkpoint.shipped_root() / name)
    assert config["fingerprints"] == FACTS[name]["channels"]


@pytest.fixture(params=[path for path in sorted(GOLDEN.iterdir()) if path.is_dir()], ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_stored_checkpoints_compute_the_same(release):
    facts, expected = json.loads((release / "facts.json").read_text()), load_file(release / "results.safetensors")
    for folder, fingerprint in facts["fingerprints"].items():
        assert codecs.load(release / folder).fingerprint.hex() == fingerprint
    found = golden.results(release)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_stored_shards_hold_the_same_tokens(release, format):
    rows = tokens.TokenDataset(release / format, codecs.load(release / "codecs" / "fsq-float32"))
    expected = json.loads((release / "facts.json").read_text())["indices"]
    assert [row["codes"].indices.tolist() for row in rows] == expected


def test_a_stored_training_goes_on(release, tmp_path):
    run = shutil.copytree(release / "run", tmp_path / "run")
    golden.training(run, resume=True)
    before, after = state.load(release / "run"), state.load(run)
    assert (before["step"], after["step"]) == (golden.STEPS, 4) and before.keys() == after.keys()
    assert before["recipe"] == after["recipe"]


def symbols(count: int, *radices: int) -> np.ndarray:
    """Return symbols (quantizers, count) that a formula gives."""
    return np.stack([(np.arange(count) + q) ** 2 % 7919 % radix for q, radix in enumerate(radices)])


@pytest.mark.parametrize("positions", [2048, 4097, 49_152, 49_153])
def test_packed_payloads_are_unchanged(positions):
    """A block of version 1 has 4,096 tokens or more, and there are 24 at most, which 98,304 tokens just fill."""
    expected, facts = symbols(positions, 5, 3), FACTS["payloads"]
    old, new = pack_blocks(expected, (5, 3)), packing.pack(expected, (5, 3))
    assert hashlib.sha256(old).hexdigest() == facts[f"{2 * positions} packed tokens"]
    assert hashlib.sha256(new).hexdigest() == facts[f"{2 * positions} packed tokens, version 2"]
    assert np.array_equal(version1.unpack(old, (5, 3), positions), expected)


def test_payloads_under_counts_are_unchanged():
    probabilities = [rate.smoothed(torch.tensor(counts)).numpy() for counts in ([9, 3, 1, 0], [1, 0, 8])]
    payload = entropy.encode(symbols(60, 4, 3), probabilities)
    assert payload.hex() == FACTS["payloads"]["120 tokens under counts"]
    assert np.array_equal(entropy.decode(payload, probabilities, 60), symbols(60, 4, 3))
