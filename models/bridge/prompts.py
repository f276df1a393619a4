"""Encode prompts to ids of a merged tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenloom.codecs import Modality, media

from ..vocabulary import END, Channel, Vocabulary, segments
from ..vocabulary.segments import Segment
from . import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = Sequence[Segment | tuple[str, Segment]]
"""Segments in order. A pair (channel, signal) selects the channel; the default is the first of the signal's modality.
A str is text in the host's own tokens."""


class HostPromptEncoder:
    """Encodes text to the host's tokens and signals to segments."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, first: int) -> None:
        self.tokenizer, self.vocabulary, self.first = tokenizer, vocabulary, first

    @cached_property
    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text."""
        return tokens.special_tokens(self.tokenizer)

    @cached_property
    def _original(self) -> Any:
        return tokens.original_tokenizer(self.tokenizer, self.first)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids of each prompt, without special tokens. Adjacent texts are joined."""
        texts: dict[tuple[int, int], str] = {}
        signals: dict[tuple[int, int], tuple[Channel, Any]] = {}
        lengths = []
        for row, prompt in enumerate(prompts):
            at = 0
            for segment in prompt:
                channel, x = self._signal(segment)
                if channel is not None:
                    signals[row, at] = channel, x
                elif (row, at - 1) in texts:
                    texts[row, at - 1] += x
                    continue
                else:
                    texts[row, at] = x
                at += 1
            lengths.append(at)
        ids = {place: self._text(text) for place, text in texts.items()}
        for place, codes in segments.encode(signals).items():
            (segment,) = self.vocabulary.segment(signals[place][0].name, codes)
            ids[place] = (segment + self.first - END).tolist()
        return [[id for at in range(length) for id in ids[row, at]] for row, length in enumerate(lengths)]

    def _signal(self, segment: Segment | tuple[str, Segment]) -> tuple[Channel | None, Any]:
        """Return the channel of a segment, which is None for the host's text, and its signal."""
        if isinstance(segment, str):
            return None, segment
        named = isinstance(segment, tuple) and len(segment) == 2 and isinstance(segment[0], str)
        name, segment = segment if named else (None, segment)
        kind = segments.modality(segment)
        if name is None and kind is Modality.TEXT:
            return None, media.read(segment, kind)
        channel = self.vocabulary.channel(kind if name is None else name)
        if channel.modality is not kind:
            raise ValueError(f"channel {channel.name} takes {channel.modality}, got {kind}")
        return channel, segments.signal(segment, channel.codec)

    def _text(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if max(ids, default=0) < self.first:
            return ids
        return self._original.encode(text, add_special_tokens=False).ids  # the text contains the name of a merged token


def as_batch(prompts: Any) -> list[Prompt]:
    """Return one prompt, or a list of prompts, as a list of prompts."""
    if isinstance(prompts, str | Tensor) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts must be a list of segments, or a list of such lists, got {type(prompts).__name__}")
    lists = [isinstance(prompt, list) for prompt in prompts]
    if any(lists) and not all(lists):
        at = lists.index(False)
        raise ValueError(f"all prompts must be lists of segments, got {type(prompts[at]).__name__} as prompt {at}")
    return list(prompts) if all(lists) else [prompts]
