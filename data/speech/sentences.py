"""Sentences of common English words, generated from a seed, and texts in the form in which they are spoken."""

from __future__ import annotations

import re

import numpy as np

# fmt: off
WORDS = {
    "adjective": (
        "big", "small", "old", "new", "red", "green", "blue", "black", "white", "quick", "slow", "quiet", "loud",
        "warm", "cold", "happy", "strange", "heavy", "light", "long", "short", "bright", "dark", "clean", "empty",
    ),
    "noun": (
        "dog", "cat", "bird", "horse", "fish", "tree", "river", "house", "door", "window", "table", "chair", "book",
        "letter", "train", "boat", "car", "road", "bridge", "garden", "mountain", "city", "farmer", "doctor",
        "teacher", "child", "mother", "king", "song", "clock", "lamp", "bottle", "apple", "kitchen", "school",
    ),
    "did": (
        "found", "saw", "took", "left", "opened", "closed", "painted", "carried", "followed", "heard", "bought",
        "sold", "lost", "moved", "watched", "remembered",
    ),
    "do": ("find", "take", "open", "close", "move", "bring", "show", "watch", "keep", "draw", "read", "clean"),
    "place": ("near", "behind", "under", "above", "beside", "across from", "in front of", "next to", "inside"),
    "when": (
        "today", "yesterday", "in the morning", "at night", "after lunch", "last summer", "on monday", "on friday",
        "before dinner", "every day", "at last", "for a long time",
    ),
    "who": ("she", "he", "we", "they", "my brother", "his sister", "our friend", "nobody", "everyone"),
    "number": (
        "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "thirty",
        "forty", "fifty", "ninety",
    ),
}
PATTERNS = (
    "the {adjective} {noun} {did} the {noun} {when}",
    "{who} {did} the {noun} {place} the {noun}",
    "{who} {did} {number} {adjective} books {when}",
    "please {do} the {adjective} {noun} {place} the {noun}",
    "there is a {noun} {place} the {adjective} {noun}",
    "{when}, {who} {did} the {adjective} {noun}",
    "the {noun} was {adjective}, but the {noun} was {adjective}",
    "can you {do} the {noun} {when}?",
    "it takes {number} minutes from the {noun} to the {noun}",
    "{number} plus {number} and {number} minus {number}",
)
# fmt: on
_BLANK = re.compile(r"\{(\w+)\}")
_WORD = r"[^\W_]+(?:'[^\W_]+)*"
_SPOKEN = re.compile(rf"{_WORD}(?:[.,;:?!](?=\s|$))?")


def sentence(rng: np.random.Generator) -> str:
    """Draw a sentence."""
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    return _BLANK.sub(lambda blank: str(rng.choice(WORDS[blank[1]])), pattern)


def spoken(text: str) -> str:
    """Return the words of a text in lower case, with the punctuation that ends a word and no other sign."""
    return " ".join(_SPOKEN.findall(text.replace("’", "'").lower()))


def words(text: str) -> str:
    """Return the words of a text in lower case, without punctuation."""
    return " ".join(re.findall(_WORD, spoken(text)))
