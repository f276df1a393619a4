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

    def encode(self, prompts: Sequence[Sequence[Segment]]) -> list[Tensor]:
        """Return DOCUMENT and the segments of each prompt, int64 (n,). Empty texts are left out."""
        signals = {}
        for row, prompt in enumerate(prompts):
            if isinstance(prompt, str | Tensor) or not isinstance(prompt, Sequence):
                raise ValueError(f"a prompt must be a list of segments, got {type(prompt).__name__}")
            for at, segment in enumerate(prompt):
                if not (isinstance(segment, str) and not segment):
                    signals[row, at] = self._signal(segment)
        codes = segments.encode(signals)
        lengths = [1] * len(prompts)
        for (row, at), item in codes.items():
            lengths[row] += segments.length(signals[row, at][0].codec, item)[0]
        self._require_fit(max(lengths))  # before the vocabulary refuses a single long segment
        parts = [[START] for _ in prompts]
        for (row, at), item in codes.items():
            parts[row] += self.vocabulary.segment(signals[row, at][0].name, item)
        return [torch.cat(row) for row in parts]

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
        count = None
        if channel is not None and channel.codec.spec.stride and channel.name in self.sizes:
            body = self.vocabulary.read(torch.cat([START, self.head(channel)])).body
            assert body is not None  # the head begins a segment
            count = len(body.kinds)
        self._require_fit(max(len(ids) for ids in prompts), count, channel)
        return count

    def _require_fit(self, prompt: int, count: int | None = None, channel: Channel | None = None) -> None:
        """Raise ValueError unless the context has room for a prompt and `count` more ids (default: one)."""
        if prompt + (1 if count is None else count) > self.context:
            more = "" if count is None or channel is None else f" with the {count} tokens of {channel.name} to come"
            raise ValueError(
                f"a prompt of {prompt} tokens{more} does not fit into the context of {self.context} tokens"
            )
