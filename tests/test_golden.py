"""Containers of earlier releases decode to the same signals, and shipped checkpoints keep their fingerprints.

tests/golden/ holds a container of every shipped codec and of every codec of files, written by release 0.1, what each
decoded to, and all fingerprints.
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


def test_every_shipped_checkpoint_has_its_facts():
    assert {*codecs.shipped(), *models.names()} <= set(FACTS)


@pytest.mark.parametrize("name", CODECS)
def test_stored_containers_decode_to_the_same_signals(name):
    """Up to the rounding of float32 on another processor."""
    stem = name.replace("/", "-")
    (found,) = codecs.decompress((GOLDEN / f"{stem}.tlm").read_bytes())
    if "text" in FACTS[name]:
        assert found == FACTS[name]["text"]
    else:
        torch.testing.assert_close(found, SIGNALS[stem], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_fingerprints_stay(name):
    assert codecs.load(name).fingerprint.hex() == FACTS[name]["fingerprint"]


@pytest.mark.parametrize("name", models.names())
def test_a_model_keeps_its_codecs(name):
    config = checkpoint.read_config(checkpoint.shipped_root() / name)
    assert config["fingerprints"] == FACTS[name]["channels"]
