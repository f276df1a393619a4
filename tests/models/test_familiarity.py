"""Warnings of prompts that are far from the training data."""

from __future__ import annotations

import math
import warnings

import pytest
import yaml
from support.codecs import one_line
from support.omni import fresh, picture

from tokenloom import models
from tokenloom.models.omni import familiarity, scoring
from tokenloom.models.omni.familiarity import Familiarity

KNOWN = (
    "red heart", "waving hand dark skin tone", "woman astronaut medium skin tone", "supervillain dark skin tone",
    "scorpion", "butterfly", "keycap 4", "the word LOOM in blue", "four", "three plus four", "potted plant",
)  # fmt: skip
FOREIGN = (
    "a photo of a castle at night", "an oil painting of the sea in a storm", "two cats sleeping on a sofa",
    "portrait of a young woman in the style of Rembrandt", "import torch", "ein rotes Herz", "a red sports car", "a",
    "asdfghjkl", "Hello, how are you today?", "a bowl of ramen with a soft egg", "draw a house",
)  # fmt: skip


@pytest.fixture(scope="module")
def omni():
    return models.load("omni-small")


def bits(omni, text):
    (ids,) = omni.prompts.encode([[text]])
    return familiarity.bits_per_token(omni.transformer, omni.vocabulary, ids)


def test_known_and_foreign_prompts_of_omni_small(omni):
    assert max(bits(omni, text) for text in KNOWN) <= omni.familiarity.most < min(bits(omni, text) for text in FOREIGN)


def test_generate_warns_of_a_foreign_prompt_and_of_no_other(omni):
    with pytest.warns(models.UnfamiliarPromptWarning) as found:
        omni.generate(["a photo of a castle at night"], "image", seed=0, best_of=1)
    (text,) = [str(w.message) for w in found]
    assert "\n" not in text and "'a photo of a castle at night' is far from the training data" in text
    assert f"{bits(omni, 'a photo of a castle at night'):.1f} bits per token" in text and "at most 6.4" in text
    with warnings.catch_warnings(action="error"):
        omni.generate(["red heart"], "image", seed=0, best_of=1)


def test_only_texts_count_each_given_what_precedes_it():
    omni = fresh()
    (ids,) = omni.prompts.encode([[picture(), "red", ""]])
    (alone,) = omni.prompts.encode([[picture()]])
    (expected,) = scoring.bits(omni.transformer, omni.vocabulary, [(alone, ids[len(alone) :])])
    found = familiarity.bits_per_token(omni.transformer, omni.vocabulary, ids)
    assert found == pytest.approx(expected / (len(ids) - len(alone)))
    assert familiarity.bits_per_token(omni.transformer, omni.vocabulary, alone) is None


def test_familiarity_is_measured_saved_and_loaded(tmp_path):
    omni = fresh()
    prompts = omni.prompts.encode([["red"], ["green heart"], [picture()]])
    values = [familiarity.bits_per_token(omni.transformer, omni.vocabulary, ids) for ids in prompts[:2]]
    measured = Familiarity.measure(omni.transformer, omni.vocabulary, prompts)
    assert measured == Familiarity(round(sum(values) / 2, 3), round(max(values), 3))
    assert Familiarity.measure(omni.transformer, omni.vocabulary, prompts[2:]) is None
    omni.familiarity = measured
    models.save(omni, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["omni"]["familiarity"] == vars(measured)
    assert models.load(tmp_path).familiarity == measured


@pytest.mark.parametrize("wrong", [3, {"median": 1.0}, {"median": 1.0, "most": "x"}, {"median": math.nan, "most": 1}])
def test_wrong_values_in_a_config_are_one_line(wrong):
    with pytest.raises(ValueError, match="median and most") as error:
        Familiarity.parse(wrong)
    assert one_line(error)
    assert Familiarity.parse(None) is None
