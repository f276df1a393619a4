"""Sounds of any length ↔ files of segments, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..bitstream import SegmentReader, SegmentWriter
from ..bitstream.segments import joined
from ..types import BitstreamError, Codes
from .interface import Streamable

BLOCK = 2**16
"""Most samples of a piece of silence."""


def compress_stream(codec: Streamable, pieces: Iterable[Tensor], file: BinaryIO, setting: Any = None) -> SegmentWriter:
    """Encode a sound piece by piece, and write it as a file of segments. A short sound becomes a plain container.

    Args:
        codec: A codec that can be streamed.
        pieces: float32 (channels, samples) in [-1, 1] at the codec's rate, one after the other.
        file: A binary file or pipe.
        setting: As for `encode`, but not a `Target`.

    Returns:
        The writer, which states bytes, samples and tokens.

    Raises:
        ValueError: If the codec cannot be streamed, or a piece is invalid, or there is none.
    """
    writer = SegmentWriter(file, codec)
    for codes in _encoded(codec, pieces, setting):
        writer.write(codes)
    writer.close()
    return writer


def encode_stream(codec: Streamable, pieces: Iterable[Tensor], setting: Any = None) -> Codes:
    """Encode a sound piece by piece to the codes of the whole, in the memory of a piece and of the codes.

    Args:
        codec: See `compress_stream`, also for pieces, setting and errors.
        pieces: The sound.
        setting: The setting.

    Returns:
        Codes of one item.
    """
    return joined([*_encoded(codec, pieces, setting)])


def _encoded(codec: Streamable, pieces: Iterable[Tensor], setting: Any) -> Iterator[Codes]:
    encoder = codec.stream_encoder(setting)
    for piece in pieces:
        yield encoder.push(piece[None])
    yield encoder.close()


def decompress_stream(
    reader: SegmentReader, codec: Streamable, start: int = 0, stop: int | None = None
) -> Iterator[Tensor]:
    """Decode a file of segments, or a container, piece by piece. Silence replaces what is lost.

    Args:
        reader: The file.
        codec: The codec that wrote it.
        start: First sample.
        stop: Sample after the last one; None for the end.

    Returns:
        An iterator of float32 (channels, samples) in [-1, 1]. It raises BitstreamError if a segment is damaged and the
        reader does not salvage, or if another codec wrote the file.

    Raises:
        ValueError: If the codec cannot be streamed.
    """
    codec.stream_decoder()
    stride, reach = codec.spec.stride[0], getattr(codec, "decoder_reach", None)
    # frames before `start` on which it depends; all of them, if there is no bound
    warm = 0 if reach is None else max(0, start // stride - reach[0][0]) * stride
    ends = [end for end in (reader.samples, stop) if end is not None]
    return _cropped(_decoded(reader, codec, warm), start, min(ends, default=None))


def _cropped(pieces: Iterable[tuple[int, Tensor]], start: int, end: int | None) -> Iterator[Tensor]:
    for at, sound in pieces:
        low, high = max(start - at, 0), sound.shape[-1] if end is None else min(end - at, sound.shape[-1])
        if high > low:
            yield sound[:, low:high]
        if end is not None and at + sound.shape[-1] >= end:
            return


def _decoded(reader: SegmentReader, codec: Streamable, first: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first sample and the sound of each piece from sample `first` on, without gaps."""
    at = due = first
    decoder, stride = None, codec.spec.stride[0]
    end: list[tuple[int | None, Codes | None]] = [(reader.samples, None)]
    for start, codes in itertools.chain(reader.pieces(codec, first), end):
        if decoder is not None and (codes is None or start != due):  # the end, or something is lost
            sound = decoder.close()[0]
            yield at, sound
            at, decoder = at + sound.shape[-1], None
        while start is not None and at < start:
            silence = torch.zeros(codec.spec.channels, min(BLOCK, start - at), device=codec.device)
            yield at, silence
            at += silence.shape[-1]
        if codes is None or start is None:
            return
        decoder = decoder or codec.stream_decoder()
        known = max(0, first - start) // stride
        kept = Codes(codes.indices[..., known:], codes.sizes - known * stride)
        try:
            sound = decoder.push(kept)[0]
        except ValueError as error:
            line = f"the segment at sample {start} does not decode: {error}"
            if not reader.salvage:
                raise BitstreamError(line) from error
            reader.lost.append(line)
            decoder = None
            continue
        yield at, sound
        at, due = at + sound.shape[-1], start + int(codes.sizes[0])
