"""Containers of earlier releases decode to the same signals, and shipped checkpoints keep their fingerprints.

tests/golden/ holds containers that release 0.1 wrote, of every shipped and every classical codec, the signals that they
decode to, and all fingerprints.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tokenloom import codecs, models
from tokenloom.codecs import checkpoint

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
