"""The prompts that the project shows: they are measured, and some are tried here with all seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tokenloom import models
from tokenloom.eval.omni import abilities
from tokenloom.eval.omni.shown import NEEDED, SEEDS, SHOWN, is_word

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/*.md", "checkpoints/omni-small/README.md", "tokenloom/cli/commands/*.py", "examples/*.md")
COMMAND = re.compile(r"""tokenloom generate (?:"([^"]+)"|([\w.-]+))""")
CALL = re.compile(r"""omni\.generate\(\[(?:"([^"]*)"|(\w+))\]""")
FILES = {"heart.png", "hand.png", "four.wav", "image"}
"""Results of other examples, which `ShownPrompt.then` measures."""


def test_every_prompt_that_is_shown_is_measured():
    found = set()
    for pattern in PAGES:
        for path in ROOT.glob(pattern):
            text = path.read_text(encoding="utf-8")
            found |= {next(filter(None, match)) for form in (COMMAND, CALL) for match in form.findall(text)}
    assert {"red heart", "four", "heart.png"} <= found
    assert found - FILES <= {shown.text for shown in SHOWN}
    assert {*abilities.PICTURES, *abilities.SPOKEN} <= {shown.text for shown in SHOWN}


@pytest.fixture(scope="module")
def omni():
    return models.load("omni-small")


def test_a_rendered_word_is_read_in_most_samples(omni):
    text = "the word TREE in green"
    assert sum(is_word(x, text) for x in omni.generate([text], "image", n=len(SEEDS), seed=0, best_of=1)) >= NEEDED


@pytest.mark.parametrize(("text", "to"), [("red heart", "image"), ("four", "audio")])
def test_the_model_reads_back_most_samples(text, to, omni):
    """It reads with weights that nothing else checks; the row `shown` of the evaluation has independent measures."""
    results = omni.generate([text], to, n=len(SEEDS), seed=0, best_of=1)
    assert sum(read == text for read in omni.generate_batch([[x] for x in results], "text", seed=0)) >= NEEDED
