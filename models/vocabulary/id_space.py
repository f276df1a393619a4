"""The id space of a vocabulary: special ids, and a contiguous range for each quantizer of each channel."""

from __future__ import annotations

from collections.abc import Sequence

from tokenloom import errors

from . import streams
from .channel import Channel
from .layout import ChannelLayout

PAD, DOCUMENT, STOP, END = range(4)
SPECIALS = ("PAD", "DOCUMENT", "STOP", "END")
DIGITS = 2 * streams.BASE


class IdSpace:
    """Ids in order: PAD, DOCUMENT, STOP, END, one BEGIN per channel, 256 size digits, then the codes.

    Attributes:
        begin: Id of the first BEGIN.
        digit: Id of the first size digit.
        size: Number of ids.
        places: Number of places.
        layouts: Layout of each channel.
    """

    def __init__(self, channels: Sequence[Channel], longest: int) -> None:
        self.begin = len(SPECIALS)
        self.digit = self.begin + len(channels)
        self.size, self.places = self.digit + DIGITS, 1
        self.layouts: list[ChannelLayout] = []
        for begin, channel in enumerate(channels, self.begin):
            layout = ChannelLayout(channel, longest, begin=begin, first_id=self.size, first_place=self.places)
            self.layouts.append(layout)
            self.size += sum(layout.entries)
            self.places += layout.places

    def layout(self, to: str) -> ChannelLayout:
        """Return the layout of the channel `to`, else that of the first channel of the modality `to`."""
        for key in ("name", "modality"):
            if found := [layout for layout in self.layouts if getattr(layout.channel, key) == to]:
                return found[0]
        channels = {layout.channel.name: layout.channel.modality for layout in self.layouts}
        guess = errors.suggestion(to, [*channels, *channels.values()])
        held = ", ".join(f"{name} ({modality})" for name, modality in channels.items())
        raise ValueError(f"unknown channel or modality {to!r}{guess}; the vocabulary has {held}")

    def describe(self, id: int) -> str:
        """Return the meaning of an id in words."""
        if 0 <= id < self.begin:
            return SPECIALS[id]
        if self.begin <= id < self.digit:
            return f"BEGIN {self.layouts[id - self.begin].channel.name}"
        if self.digit <= id < self.digit + DIGITS:
            return f"size digit {id - self.digit}"
        for layout in self.layouts:
            for quantizer, ids in enumerate(layout.ranges):
                if id in ids:
                    return f"code {id - ids.start} of {layout.channel.name}, quantizer {quantizer}"
        raise ValueError(f"an id must be 0 to {self.size - 1}, got {id}")
