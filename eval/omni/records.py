"""Records of the evaluation of a multimodal model. Their fields are the keys of omni.json and evaluation.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..environment import Environment
from ..serialize import OPTIONAL


def share(hits: Sequence[bool]) -> float:
    """Return the share of hits; 0 without trials."""
    return sum(hits) / len(hits) if hits else 0.0


@dataclass
class Trials:
    """Hits and misses of the trials of one ability.

    `ceiling` is the share that is right if the codec's reconstruction replaces the model's answer, `detail` has other
    counts, and `second_goal` says whether the ability's second goal is reached, if it has one.
    """

    hits: list[bool]
    ceiling: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    second_goal: bool = True


@dataclass(kw_only=True)
class OmniRecord:
    """One line of the tables: a share of trials or seconds, as `unit` says, with its goal; see also `Trials`.

    `trained` says whether it belongs to the table of trained items and cost, `right` is the number of trials that are
    right, and `row_seconds` the wall time of the measurement.
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
    """Bits or rate of an item: nominal, and under the transformer alone and after the item's other segment."""

    nominal: float
    alone: float
    given: float


@dataclass
class TokenBits(ItemBits):
    """The same per token, and the order-0 entropy."""

    entropy: float | None


@dataclass
class SequenceShare:
    """Share of a channel in the tokens, the bits and the compute of one sequence."""

    tokens: float
    bits: float
    compute: float


@dataclass
class ChannelBits:
    """Bits of one channel; means over n items. `vocabulary` counts the ids of all its quantizers."""

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
    """Bits of every channel; `absent` maps a channel to the reason why it was not measured."""

    about: dict[str, str]
    rows: list[ChannelBits]
    absent: dict[str, str]


@dataclass
class ExhibitPart:
    """A text, or the path of an image or a sound relative to the folder of the results."""

    text: str | None = field(default=None, metadata=OPTIONAL)
    picture: str | None = field(default=None, metadata=OPTIONAL)
    sound: str | None = field(default=None, metadata=OPTIONAL)


@dataclass
class PromptExhibit:
    """A prompt and the generated result; `truth` and `right` are None if there is no right answer."""

    title: str
    prompt: list[ExhibitPart]
    result: ExhibitPart
    truth: ExhibitPart | None
    right: bool | None


@dataclass(kw_only=True)
class OmniMeasurements:
    """Measurements of a model: what evaluation.json of a shipped model holds.

    `items` limits the trials of an ability, and `absent` maps what was not measured to the reason.
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
    """Everything that an evaluation found, and the measurements that came with the model."""

    exhibits: list[PromptExhibit] = field(default_factory=list)
    shipped: OmniMeasurements | None = None
