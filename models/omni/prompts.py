"""Encode prompts to ids, each segment with the first channel of its modality."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tokenloom.codecs import Modality

from ..vocabulary import DOCUMENT, Channel, Vocabulary, segments
from ..vocabulary.segments import Segment

START = torch.tensor([DOCUMENT])


class PromptEncoder:
    """Encodes prompts to ids that fit into the context. Images are resized to fixed `sizes`, with a warning."""

    def __init__(self, vocabulary: Vocabulary, sizes: Mapping[str, tuple[int, ...]], context: int) -> None:
        self.vocabulary, self.sizes, self.context = vocabulary, sizes, context

    def encode(self, prompts: Sequence[Sequence[Segment]], *, recent: bool = False) -> list[Tensor]:
        """Return DOCUMENT and the segments of each prompt, int64 (n,). See `segments`."""
        return [torch.cat([START, *row]) for row in self.segments(prompts, recent=recent)]

    def segments(self, prompts: Sequence[Sequence[Segment]], *, recent: bool = False) -> list[list[Tensor]]:
        """Return the ids of each segment of each prompt, int64 (n,). Empty texts are left out.

        Args:
            prompts: The prompts.
            recent: Whether the oldest segments of a prompt that exceeds the context are left out, with a warning.

        Raises:
            ValueError: If a prompt is invalid or does not fit into the context.
        """
        signals = {}
        for row, prompt in enumerate(prompts):
            if isinstance(prompt, str | Tensor) or not isinstance(prompt, Sequence):
                raise ValueError(f"a prompt must be a list of segments, got {type(prompt).__name__}")
            for at, segment in enumerate(prompt):
                if not (isinstance(segment, str) and not segment):
                    signals[row, at] = self._signal(segment)
        codes = segments.encode(signals)
        keys = [[key for key in codes if key[0] == row] for row in range(len(prompts))]
        for row, own in enumerate(keys):
            lengths = [segments.length(signals[key][0].codec, codes[key])[0] for key in own]
            dropped = min(excess(lengths, self.context - 1), len(own) - 1) if recent and own else 0
            if dropped:
                some = f"{dropped} oldest segments were" if dropped > 1 else "oldest segment was"
                warnings.warn(f"the {some} left out of a prompt of {1 + sum(lengths)} tokens", stacklevel=2)
            self._require_fit(1 + sum(lengths[dropped:]))  # before the vocabulary refuses a single long segment
            keys[row] = own[dropped:]
        return [[self.vocabulary.segment(signals[key][0].name, codes[key])[0] for key in own] for own in keys]

    def _signal(self, segment: Segment) -> tuple[Channel, Tensor | str]:
        channel = self.vocabulary.channel(segments.modality(segment))
        x = segments.signal(segment, channel.codec)
        size = self.sizes.get(channel.name)
        image = channel.modality is Modality.IMAGE
        if image and isinstance(x, Tensor) and size and tuple(x.shape[1:]) != size:
            (height, width), (h, w) = x.shape[1:], size
            x = segments.resize(x, size)
            warnings.warn(f"an image of {width} x {height} pixels was resized to the model's {w} x {h}", stacklevel=2)
        return channel, x

    def head(self, channel: Channel | None) -> Tensor:
        """Return the ids that begin the result's segment: BEGIN, and its size if that is fixed."""
        if channel is None:
            return torch.tensor([], dtype=torch.int64)
        if size := self.sizes.get(channel.name):
            return self.vocabulary.header(channel.name, size)
        return self.vocabulary.kinds[self.vocabulary.start(channel.name).kind]  # its BEGIN alone

    def remaining(self, prompts: Sequence[Tensor], channel: Channel | None) -> int | None:
        """Return the number of ids that follow the head of the result's segment, or None if it varies.

        Raises ValueError if the context has no room for them.
        """
        count = self._count(channel)
        self._require_fit(max(len(ids) for ids in prompts), count, channel)
        return count

    def answer_length(self, channel: Channel | None) -> int:
        """Return the number of ids of the result's segment; if it varies, the smallest number that is useful, 1."""
        return len(self.head(channel)) + (self._count(channel) or 1)

    def _count(self, channel: Channel | None) -> int | None:
        """Return the number of codes of the result's segment, or None if it varies."""
        if channel is None or not channel.codec.spec.stride or channel.name not in self.sizes:
            return None
        body = self.vocabulary.read(torch.cat([START, self.head(channel)])).body
        assert body is not None  # the head begins a segment
        return len(body.kinds)

    def _require_fit(self, prompt: int, count: int | None = None, channel: Channel | None = None) -> None:
        """Raise ValueError unless the context has room for a prompt and `count` more ids (default: one)."""
        if prompt + (1 if count is None else count) > self.context:
            more = "" if count is None or channel is None else f" with the {count} tokens of {channel.name} to come"
            raise ValueError(
                f"a prompt of {prompt} tokens{more} does not fit into the context of {self.context} tokens"
            )


def excess(lengths: Sequence[int], most: int) -> int:
    """Return how many of the first segments must go so that DOCUMENT and the others have at most `most` ids."""
    total, dropped = 1 + sum(lengths), 0
    while total > most and dropped < len(lengths):
        total -= lengths[dropped]
        dropped += 1
    return dropped
