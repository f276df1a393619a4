"""Pieces of signals from ids, while they are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenloom.codecs import Codec, Codes, Modality

from ..vocabulary import STOP, DocumentState, Vocabulary, streams, truncation
from ..vocabulary.layout import ChannelLayout
from .decoding import ResultDecoder
from .prompts import START


@dataclass(frozen=True)
class StreamedPiece:
    """A piece of a generated segment. A text or an image is one piece; a sound comes in many."""

    channel: str
    modality: Modality
    content: str | Tensor
    """A text, audio float32 (channels, samples) of no sample or more, or an image float32 (3, height, width)."""
    segment: int
    """Number of the segment in the answer, from 0."""
    ids: Tensor | None = None
    """All ids of the segment, int64 (n,), with its last piece; None before."""

    @property
    def last(self) -> bool:
        """Whether the segment ends with this piece."""
        return self.ids is not None


class SegmentDecoder:
    """Decodes the ids of a document as they come. A sound whose codec can be streamed comes frame by frame.

    Args:
        vocabulary: The vocabulary.
        results: The decoder of whole segments.
        decoders: The codec of each channel, see `ResultDecoder.select`.
        sample_rate: Rate in Hz that whole sounds are resampled to. Only a sound of this rate comes frame by frame.
        head: The ids that begin the first segment, int64 (n,).
        state: The state after them.

    Attributes:
        parts: Channel and codes of the complete segments.
    """

    def __init__(
        self, vocabulary: Vocabulary, results: ResultDecoder, decoders: Mapping[str, Codec], sample_rate: int | None,
        head: Tensor, state: DocumentState,
    ) -> None:  # fmt: skip
        self.vocabulary, self.results, self.decoders, self.sample_rate = vocabulary, results, decoders, sample_rate
        self.parts: list[tuple[str, Codes]] = []
        self._ids, self._state = head.tolist(), state
        self._sound: _SoundDecoder | None = None

    def push(self, id: int, state: DocumentState) -> StreamedPiece | None:
        """Take the next id and the state after it. Return the piece that it completes, if any."""
        before, self._state = self._state, state
        if id == STOP:
            return None
        self._ids.append(id)
        if before.body is not None and before.layout is not None and self._streams(before.layout):
            if self._sound is None:
                self._sound = _SoundDecoder(self.decoders[before.layout.channel.name], before.layout, before.sizes)
            self._sound.push(id)
        if state.between_segments:
            return self._finish(torch.tensor(self._ids))
        sound = None if self._sound is None else self._sound.take()
        return None if sound is None or before.layout is None else self._piece(before.layout.channel.name, sound)

    def close(self) -> StreamedPiece | None:
        """Return the last piece of a segment that the context cut off, if it has any; see `truncation.complete`."""
        if not self._ids:
            return None
        ids = truncation.complete(self.vocabulary, START, torch.tensor(self._ids))[1:]
        return self._finish(ids) if len(ids) else None

    def _streams(self, layout: ChannelLayout) -> bool:
        codec = self.decoders[layout.channel.name]
        audio = codec.spec.modality is Modality.AUDIO and codec.spec.sample_rate == self.sample_rate
        return audio and codec.stream_obstacle is None

    def _finish(self, ids: Tensor) -> StreamedPiece:
        ((name, codes),) = self.vocabulary.parse(torch.cat([START, ids]))
        if self._sound is None:
            content = self.results.decode([[(name, codes)]], self.decoders, self.sample_rate)[0][0]
        else:
            content = self._sound.close()
        piece = self._piece(name, content, ids)
        self.parts.append((name, codes))
        self._ids, self._sound = [], None
        return piece

    def _piece(self, name: str, content: str | Tensor, ids: Tensor | None = None) -> StreamedPiece:
        return StreamedPiece(name, self.vocabulary.channels[name].modality, content, len(self.parts), ids)


class _SoundDecoder:
    """Decodes a segment of sound from its ids, in frames."""

    def __init__(self, codec: Codec, layout: ChannelLayout, sizes: tuple[int, ...]) -> None:
        self._stream, self._layout, (self._samples,) = codec.stream_decoder(), layout, sizes
        grid, (self._stride,) = layout.spec.grid(sizes), layout.spec.stride
        self._order = streams.order(grid, layout.quantizers, layout.channel.pattern).tolist()
        self._indices = torch.zeros(1, layout.quantizers, *grid, dtype=torch.int64)
        self._count = self._complete = self._taken = 0

    def push(self, id: int) -> None:
        """Take the id of the next code."""
        position, quantizer = self._order[self._count]
        self._count += 1
        self._indices[0, quantizer, position] = id - self._layout.ranges[quantizer].start
        if quantizer == self._layout.quantizers - 1:  # a frame's last code comes last, and frames in order
            self._complete = position + 1

    def take(self) -> Tensor | None:
        """Return the samples (channels, samples) of the frames that are complete now; None if there is no new one."""
        first, end = self._taken, self._complete
        if first == end:
            return None
        self._taken = end
        samples = min(end * self._stride, self._samples) - first * self._stride
        sound = self._stream.push(Codes(self._indices[:, :, first:end], torch.tensor([[samples]])))[0]
        return sound if sound.shape[1] else None

    def close(self) -> Tensor:
        """Return the remaining samples."""
        sound = self.take()
        rest = self._stream.close()[0]
        return rest if sound is None else torch.cat([sound, rest], 1)
