"""Records of the evaluation of a diffusion decoder. Their fields are the keys of decoder.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenloom.environment import Environment

from ..classifiers.realfake import ClassifierAccuracy
from ..gallery.records import Exhibit
from ..metric import Summary
from ..serialize import OPTIONAL
from .controls import ControlStrength


@dataclass
class DistanceRecord:
    """A KID with its 95 % interval over n items.

    For diffusion, `below` maps each baseline to whether the KID is significantly smaller.
    """

    value: float
    low: float
    high: float
    n: int
    below: dict[str, bool] | None = field(default=None, metadata=OPTIONAL)


@dataclass
class RealismRecord:
    """Realism of a variant at a setting: KID by feature space, and the accuracy of the real-or-decoded classifier."""

    setting: Any
    variant: str
    steps: int | None
    tokens: float | None
    kid: dict[str, DistanceRecord]
    accuracy: ClassifierAccuracy | None

    def kid_value(self, space: str) -> float | None:
        """Return the KID in a feature space; None if it was not measured."""
        return self.kid[space].value if space in self.kid else None


@dataclass
class VariantRecord(RealismRecord):
    """All measurements of a variant at a setting.

    `rate` is the mean nominal rate, `distortion` has a summary by measure, `against_plain` is the difference of PSNR to
    the plain decoder in dB, and `same` is the share of codes that re-encoding recovers.
    """

    rate: float | None
    sampler: str | None
    n: int
    distortion: dict[str, Summary]
    against_plain: Summary
    same: Summary | None


@dataclass(frozen=True, kw_only=True)
class ControlRecord(ControlStrength):
    """Fitted control at a setting."""

    setting: Any
    control: str


@dataclass
class SpeedRecord:
    """Seconds to decode one item, with the plain decoder and with each number of diffusion steps."""

    of: str
    size: str
    plain: float
    steps: dict[str, float]


@dataclass
class QuarterComparison:
    """Diffusion from about a quarter of the tokens against plain from all; without rows, `reason` has the reason."""

    highest: Any
    quarter: Any
    rows: list[RealismRecord]
    reason: str = ""


@dataclass
class Claim:
    """Statement about the decoder. `found` has the result; `reached` is None if it was not measured."""

    title: str
    goal: str
    found: str
    reached: bool | None


@dataclass
class DecoderExhibits:
    """Path of the figure relative to the folder of the results, and the items of the report.

    Each tile of an item is a variant at the highest setting; `settings` has the variants at other settings.
    """

    figure: str
    items: list[Exhibit]


@dataclass
class DecoderResults:
    """All results of the evaluation of one decoder.

    Attributes:
        highest: Highest setting of a codec of variable length, else None.
        usual: Number of steps that the claims are about.
        space: Feature space that needs no training data.
        labels: Accuracy of the label classifier on the real test items.
        floor: Feature space → KID between real training items and real test items.
        absent: Missing measurement → reason.
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
        """Feature spaces of the distances, in the order of the records."""
        return list(dict.fromkeys(space for record in self.records for space in record.kid))
