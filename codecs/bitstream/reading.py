"""Containers, and files of segments, of any codec → codes."""

from __future__ import annotations

from .. import batches
from ..types import CodecInterface, Codes, Modality
from . import container, segments, tiles
from .records import is_segmented


def read(codec: CodecInterface, data: list[bytes]) -> Codes:
    """Read containers, or files of segments, of one codec into one batch of codes.

    Raises:
        BitstreamError: For other or damaged data, or a file of more samples than a signal may have.
    """
    if not isinstance(data, list | tuple) or not any(map(is_segmented, data)):
        return container.read(codec, data)
    whole = tiles.read_picture if codec.spec.modality is Modality.IMAGE else segments.read_sound
    return batches.collate([whole(codec, one) if is_segmented(one) else container.read(codec, [one]) for one in data])
