"""Error rates of what a recognizer hears in a sound, against its caption.

A recognizer makes errors of its own, so an error rate says little without that of the original. Waveforms are float32
(channels, samples) in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tokenloom import lazy

from ..errors import Unmeasurable
from .recognizers import Recognizer

torchmetrics = lazy.load("torchmetrics", "judges")

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def word_error_rate(
    reference: Tensor, output: Tensor, *, sample_rate: int, caption: str, recognizer: Recognizer
) -> float:
    """Return the word error rate: substitutions, deletions and insertions per word of the caption. It can exceed 1.

    Args:
        reference: Not used.
        output: The sound to be recognized.
        sample_rate: In Hz.
        caption: The words that are said. Both texts are compared as `normalize` gives them.
        recognizer: The recognizer.

    Raises:
        Unmeasurable: If the caption has no words.
    """
    return _rate(torchmetrics.functional.text.word_error_rate, output, sample_rate, caption, recognizer)


def character_error_rate(
    reference: Tensor, output: Tensor, *, sample_rate: int, caption: str, recognizer: Recognizer
) -> float:
    """Return the character error rate, spaces included; see `word_error_rate`."""
    return _rate(torchmetrics.functional.text.char_error_rate, output, sample_rate, caption, recognizer)


def _rate(count: Callable[..., Any], output: Tensor, sample_rate: int, caption: str, recognizer: Recognizer) -> float:
    if not (said := normalize(caption)):
        raise Unmeasurable("the item has no caption with words")
    return float(count([normalize(recognizer.hear(output, sample_rate))], [said]))


def normalize(text: str) -> str:
    """Return the words of a text in lower case, without punctuation; numbers below 100 in words, others by digit."""
    text = re.sub(r"(\d)(?=[a-z])|([a-z])(?=\d)", r"\1\2 ", text.lower())
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)
    return " ".join(_spoken(word) if word.isascii() and word.isdecimal() else word for word in words)


def _spoken(number: str) -> str:
    value = int(number)
    if len(number) > 2 or (len(number) == 2 and number[0] == "0"):
        return " ".join(ONES[int(digit)] for digit in number)
    if value < 20:
        return ONES[value]
    return f"{TENS[value // 10]} {ONES[value % 10]}" if value % 10 else TENS[value // 10]
