"""A conversation: each answer sees the turns before it, as far as the context reaches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tokenloom.codecs.validate import require_integer

from ..vocabulary.segments import Segment
from .model import Omni
from .prompts import excess
from .streaming import StreamedPiece


class Conversation:
    """Several turns with one model. Prompts and answers stay in the prompt of later turns.

    Args:
        omni: The model.
        room: Number of ids that a prompt leaves for its answer. The oldest segments are dropped for it. Default: a
            quarter of the context, or the size of the answer if that is fixed and larger.

    Attributes:
        history: The ids of each segment so far, int64 (n,) each.

    Raises:
        ValueError: If the room is not 1 to the context.
    """

    def __init__(self, omni: Omni, room: int | None = None) -> None:
        context = omni.transformer.config["context"]
        self.omni, self.room = omni, context // 4 if room is None else room
        require_integer("room", self.room, 1, context)
        self.history: list[Tensor] = []

    def ask(self, segments: Sequence[Segment], to: str | None = None, **options: Any) -> Iterator[StreamedPiece]:
        """Add segments, and return the pieces of the answer as they are sampled. See `Omni.stream`.

        A `UserWarning` tells how many segments were dropped. An answer that is not taken to its end is not kept.
        """
        omni = self.omni
        turn = omni.encode(segments)
        history = [*self.history, *turn]
        room = max(self.room, omni.prompts.answer_length(None if to is None else omni.vocabulary.channel(to)))
        dropped = min(excess([len(ids) for ids in history], omni.prompts.context - room), len(self.history))
        if dropped:
            some = f"{dropped} oldest segments were" if dropped > 1 else "oldest segment was"
            warnings.warn(f"the {some} dropped to leave room in the context of {omni.prompts.context}", stacklevel=2)
        pieces = omni.continue_document(history[dropped:], to, **options)
        self.history = history[dropped:]
        return self._kept(pieces)

    def _kept(self, pieces: Iterator[StreamedPiece]) -> Iterator[StreamedPiece]:
        """Yield the pieces of an answer, and keep its ids at the end."""
        answer = []
        for piece in pieces:
            if piece.ids is not None:
                answer.append(piece.ids)
            yield piece
        self.history += answer
