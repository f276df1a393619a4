"""Records of the evaluation of a diffusion decoder. Their fields are the keys of decoder.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..classifiers.realfake import ClassifierAccuracy
from ..environment import Environment
from ..metric import Summary
from ..serialize import OPTIONAL


@dataclass
class DistanceRecord:
    """A KID, its 95 % interval, and the number of items.

    `below` maps each baseline to whether the KID is smaller than the baseline's beyond chance (diffusion only).
    """

    value: float
    low: float
    high: float
    n: int
    below: dict[str, bool] | None = field(default=None, metadata=OPTIONAL)


@dataclass
class VariantRecord:
    """One variant at one setting of the codec.

    Attributes:
        tokens: Mean tokens of an item.
        rate: Mean nominal rate.
        distortion: Name of the measure → summary over items.
        against_plain: PSNR of the variant minus PSNR of the plain decoder, in dB.
        kid: Feature space → distance to the real items.
        accuracy: Of the real-or-decoded classifier.
        same: Share of codes that re-encoding gives back.
    """

    setting: Any
    tokens: float | None
    rate: float | None
    variant: str
    steps: int | None
    sampler: str | None
    n: int
    distortion: dict[str, Summary]
    against_plain: Summary
    kid: dict[str, DistanceRecord]
    accuracy: ClassifierAccuracy | None
    same: Summary | None

    def kid_value(self, space: str) -> float | None:
        """Return the KID in a feature space, if it was measured."""
        return self.kid[space].value if space in self.kid else None

    def accuracy_value(self) -> float | None:
        """Return the accuracy of the classifier, if it was measured."""
        return self.accuracy and self.accuracy.accuracy


@dataclass
class ControlRecord:
    """A fitted control; the other fields are those of `controls.ControlStrength`."""

    setting: Any
    control: str
    value: float
    energy: float
    plain: float
    loss: float
    capped: bool


@dataclass
class SpeedRecord:
    """Seconds to decode one item: with the plain decoder, and with each number of diffusion steps."""

    of: str
    size: str
    plain: float
    steps: dict[str, float]


@dataclass
class QuarterRow:
    """The measures of realism of a variant; see `VariantRecord`."""

    setting: Any
    variant: str
    steps: int | None
    tokens: float | None
    kid: dict[str, DistanceRecord]
    accuracy: ClassifierAccuracy | None


@dataclass
class QuarterComparison:
    """Diffusion from about a quarter of the tokens against plain from all; `reason` says why there are no rows."""

    highest: Any
    quarter: Any
    rows: list[QuarterRow]
    reason: str = ""


@dataclass
class Claim:
    """A statement about the decoder; `reached` is None if it was not measured."""

    title: str
    goal: str
    found: str
    reached: bool | None


@dataclass
class SoundTile:
    """A sound file and the name of its variant."""

    name: str
    file: str


@dataclass
class SoundRow:
    """All variants of one clip."""

    caption: str
    tiles: list[SoundTile]


@dataclass
class SoundTable:
    """Clips of one setting."""

    title: str
    clips: list[SoundRow]


@dataclass
class DecoderExhibits:
    """Path of the figure, and the sounds of the report, relative to the folder of the results."""

    figure: str
    sounds: list[SoundTable]


@dataclass
class DecoderResults:
    """Everything that the evaluation of one decoder found.

    Attributes:
        weights: Number of weights of the decoder.
        highest: Highest setting of a codec of flexible length, else None.
        usual: Number of steps that the claims are about.
        space: Feature space that needs no training data.
        labels: Accuracy of the label classifier on the real test items.
        floor: Feature space → KID between real training and real test items.
        absent: What was not measured → the reason.
    """

    decoder: str
    codec: str
    modality: str
    weights: int
    setting_name: str
    settings: list[Any]
    highest: int | None
    steps: list[int]
    usual: int
    rate_unit: str
    space: str
    sample_rate: int | None
    title: str = ""
    train_items: int = 0
    records: list[VariantRecord] = field(default_factory=list)
    controls: list[ControlRecord] = field(default_factory=list)
    floor: dict[str, DistanceRecord] = field(default_factory=dict)
    seconds: list[SpeedRecord] = field(default_factory=list)
    exhibits: DecoderExhibits | None = None
    interrupted: bool = False
    items: int | None = None
    labels: float | None = None
    absent: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    quarter: QuarterComparison | None = None
    verdicts: list[Claim] = field(default_factory=list)
    environment: Environment | None = None

    def record(self, setting: Any, variant: str) -> VariantRecord:
        """Return the record of a variant at a setting."""
        return next(r for r in self.records if r.setting == setting and r.variant == variant)

    @property
    def measured_settings(self) -> list[Any]:
        """Settings that have records, in the order of the records."""
        return list(dict.fromkeys(record.setting for record in self.records))

    @property
    def spaces(self) -> list[str]:
        """Feature spaces that some record has a distance in."""
        return list(dict.fromkeys(space for record in self.records for space in record.kid))
