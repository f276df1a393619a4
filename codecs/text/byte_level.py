"""Byte-level BPE, the tokenizer of GPT-2 (Radford et al., 2019), from a tokenizer.json of Hugging Face `tokenizers`.

It gives the ids that `tokenizers` gives, which the tests check. `tokenizers` brings eleven other packages, and this is
all of it that the shipped tokenizer needs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenloom import lazy

regex = lazy.load("regex")

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The words of a text. A merge never joins two words."""
CACHED_WORDS = 2**16
CACHED_LENGTH = 64
"""Length of the longest word whose ids are cached."""


class ByteLevelBPE:
    """A byte-level BPE tokenizer without added tokens.

    Args:
        model: `model` of a tokenizer.json, with `vocab` and `merges`.

    Raises:
        ValueError: If an id is not an integer from 0 on, or a merge makes or takes a token that is not in `vocab`.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.vocabulary: dict[str, int] = dict(model["vocab"])
        if stray := [entry for entry in self.vocabulary.values() if type(entry) is not int or not 0 <= entry < 2**31]:
            raise ValueError(f"ids must be integers from 0 on, got {stray[0]!r:.80}")
        self._ranks: dict[tuple[str, str], int] = {}
        for rank, pair in enumerate(model["merges"]):
            left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
            if missing := [token for token in (left, right, left + right) if token not in self.vocabulary]:
                raise ValueError(f"the vocabulary must hold the tokens of every merge, it lacks {missing[0]!r:.80}")
            self._ranks[left, right] = rank
        self._bytes = {entry: _to_bytes(token) for token, entry in self.vocabulary.items()}
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [entry for word in _pattern().findall(text) for entry in self._ids(word)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids. U+FFFD replaces bytes that are not UTF-8."""
        return b"".join(self._bytes.get(entry, b"") for entry in ids).decode("utf-8", "replace")

    def _ids(self, word: str) -> list[int]:
        if (found := self._cache.get(word)) is not None:
            return found
        found = self._merge([_alphabet()[byte] for byte in word.encode("utf-8")])
        if len(word) <= CACHED_LENGTH:
            if len(self._cache) >= CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = found
        return found

    def _merge(self, parts: list[str]) -> list[int]:
        """Join the adjacent pair of the lowest rank, the leftmost of several, until no pair has a rank.

        A heap of pairs and links between neighbors make the time n log n for a word of n bytes.
        """
        count = len(parts)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        heap = [(rank, at) for at in range(count - 1) if (rank := self._rank(parts, at, at + 1)) is not None]
        heapq.heapify(heap)
        while heap:
            rank, at = heapq.heappop(heap)
            other = after[at]
            if other == count or self._rank(parts, at, other) != rank:  # an earlier join changed this pair
                continue
            parts[at], parts[other] = parts[at] + parts[other], ""
            after[at] = after[other]
            if after[at] < count:
                before[after[at]] = at
            for left, right in ((before[at], at), (at, after[at])):
                if left >= 0 and right < count and (rank := self._rank(parts, left, right)) is not None:
                    heapq.heappush(heap, (rank, left))
        return [self.vocabulary[part] for part in parts if part in self.vocabulary]

    def _rank(self, parts: list[str], left: int, right: int) -> int | None:
        return self._ranks.get((parts[left], parts[right]))


def is_byte_level(content: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is byte-level BPE without added tokens or another option."""
    splitting, model = content.get("pre_tokenizer") or {}, content.get("model") or {}
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
               "ignore_merges")  # fmt: skip
    return (
        (model.get("type"), splitting.get("type"), (content.get("decoder") or {}).get("type"))
        == ("BPE", "ByteLevel", "ByteLevel")
        and splitting.get("use_regex", True)
        and not splitting.get("add_prefix_space", True)
        and not content.get("normalizer")
        and not content.get("added_tokens")
        and not any(model.get(option) for option in options)
    )


@cache
def _pattern() -> Any:
    return regex.compile(PATTERN)


@cache
def _alphabet() -> list[str]:
    """Return the character that stands for each byte: itself if it is visible, else one from U+0100 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


@cache
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_alphabet())}


def _to_bytes(token: str) -> bytes:
    """Return the bytes of a token; a token with other characters stands for itself."""
    if all(character in _byte_of() for character in token):
        return bytes(_byte_of()[character] for character in token)
    return token.encode("utf-8")
