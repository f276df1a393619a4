"""The prompts that the project shows: they are measured, and some are tried here with all seeds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tokenloom import models
from tokenloom.cli.commands import parser
from tokenloom.eval.omni import abilities
from tokenloom.eval.omni.shown import NEEDED, SEEDS, SHOWN, is_word

ROOT = Path(__file__).parents[2]
PAGES = ("*.md", "docs/**/*.md", "checkpoints/*/*.md", "examples/*.*",
         "tokenloom/**/*.py", "models/**/*.py", "eval/**/*.py")  # fmt: skip
COMMAND = re.compile(r"tokenloom generate ([^`\n]+)")
CALL = re.compile(r"""\.generate\(\[([^\]]*)\]""")
TEXT = re.compile(r'"([^"]+)"')
OTHERS = {"a prompt"}
"""Placeholder of the generated model cards."""


def shown_in(text: str) -> set[str]:
    """Return the texts among the prompts of all commands and calls on a page, wherever their options stand."""
    found = {literal for call in CALL.findall(text) for literal in TEXT.findall(call)}
    for line in COMMAND.findall(text):
        try:
            words = shlex.split(line.removesuffix("\\"), comments=True)
            args, rest = parser("generate").parse_known_args(["generate", *words])
        except ValueError:  # prose
            continue
        found |= {word for word in (*args.segments, *rest) if not Path(word).suffix}
    return found


def test_every_prompt_that_is_shown_is_measured():
    found = set()
    for path in {path for pattern in PAGES for path in ROOT.glob(pattern)}:
        found |= shown_in(path.read_text(encoding="utf-8")) if path.suffix in (".md", ".py") else set()
    assert {"red heart", "four", "waving hand"} <= found
    assert found - OTHERS <= {shown.text for shown in SHOWN}
    assert {*abilities.PICTURES, *abilities.SPOKEN} <= {shown.text for shown in SHOWN}


def test_prompts_are_found_wherever_they_stand():
    page = """tokenloom generate --to image "a b" -n 9   # c
    tokenloom generate x.png "make it y" --to image
    (z,) = models.load("m").generate(["p q", image, "r"], to="image")"""
    assert shown_in(page) == {"a b", "make it y", "p q", "r"}


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
