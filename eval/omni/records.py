"""Records of the evaluation of a multimodal model. Their fields are the keys of omni.json and evaluation.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenloom.environment import Environment

from ..serialize import OPTIONAL


def share(hits: Sequence[bool]) -> float:
    """Return the share of hits; 0 without trials."""
    return sum(hits) / len(hits) if hits else 0.0


@dataclass
class Trials:
    """Hits and misses of the trials of one ability.

    `ceiling` is the share of right answers if the codec's reconstruction replaces the model's answer. `detail` has
    other counts. `second_goal` is False if the ability has a second goal and misses it.
    """

    hits: list[bool]
    ceiling: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    second_goal: bool = True


@dataclass(kw_only=True)
class OmniRecord:
    """Row of the tables: a share of trials, or seconds (see `unit`), with its goal; see also `Trials`.

    `trained` marks the table of trained items and cost. `right` is the number of right trials, `row_seconds` the wall
    time of the measurement.
    """

    key: str
    title: str
    goal: str
    value: float
    unit: str
    n: int
    right: int | None = field(default=None, metadata=OPTIONAL)
    interval: list[float] | None = None
    ceiling: float | None = None
    reached: bool
    detail: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    row_seconds: float | None = None


@dataclass
class ItemBits:
    """Bits or rate: nominal, under the transformer alone, and given the item's other segment."""

    nominal: float
    alone: float
    given: float


@dataclass
class TokenBits(ItemBits):
    """Bits per token, with the order-0 entropy."""

    entropy: float | None


@dataclass
class SequenceShare:
    """Share of a channel in the tokens, the bits and the compute of a sequence."""

    tokens: float
    bits: float
    compute: float


@dataclass
class ChannelBits:
    """Bits of one channel, means over n items. `vocabulary` is the number of ids of all its quantizers."""

    channel: str
    modality: str
    n: int
    vocabulary: int
    quantizers: int
    tokens: float
    bits_per_token: TokenBits
    bits_per_item: ItemBits
    unit: str
    rate: ItemBits
    codec_flops: float
    share: SequenceShare | None = None
    flops: float | None = None


@dataclass
class BitsTable:
    """Bits of every channel. `absent` maps missing channels to reasons."""

    about: dict[str, str]
    rows: list[ChannelBits]
    absent: dict[str, str]


@dataclass
class ExhibitPart:
    """A text, or the path of an image or sound relative to the folder of the results."""

    text: str | None = field(default=None, metadata=OPTIONAL)
    picture: str | None = field(default=None, metadata=OPTIONAL)
    sound: str | None = field(default=None, metadata=OPTIONAL)


@dataclass
class PromptExhibit:
    """A prompt and the generated result. Without a right answer, `truth` and `right` are None."""

    title: str
    prompt: list[ExhibitPart]
    result: ExhibitPart
    truth: ExhibitPart | None
    right: bool | None


@dataclass(kw_only=True)
class OmniMeasurements:
    """Measurements of a model, as in evaluation.json of a shipped model.

    `items` is the limit of trials per ability. `absent` maps missing measurements to reasons.
    """

    model: str = ""
    items: int | None = None
    records: list[OmniRecord] = field(default_factory=list)
    bits: BitsTable | None = None
    absent: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    weights: int = 0
    environment: Environment | None = None
    definitions: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class OmniResults(OmniMeasurements):
    """Results of an evaluation, and the measurements shipped with the model."""

    exhibits: list[PromptExhibit] = field(default_factory=list)
    shipped: OmniMeasurements | None = None
