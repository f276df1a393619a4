"""Records of a comparison. Their fields are the keys of results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenloom.environment import Environment
from tokenloom.metrics.tokens import CodebookUse

from ..metric import Summary
from ..serialize import OPTIONAL

KINDS = ("nominal", "entropy", "coded", "modelled")
"""Kinds of rate."""


@dataclass(kw_only=True)
class ComparisonEnvironment(Environment):
    """Environment of a comparison, with arguments and definitions for the report."""

    anchors: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    """Modality → rate of the exhibits, if one was given."""
    definitions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Title → term → definition."""
    processes: int = 1
    """Number of processes that worked at once."""
    work: dict[str, float] = field(default_factory=dict)
    """Seconds of all trials, summed over the processes: encode, decode, metrics, other."""


@dataclass(kw_only=True)
class Timing:
    """Wall seconds for a whole set, and signal per second in `speed_unit`, on `device`."""

    encode: float = 0.0
    decode: float = 0.0
    encode_speed: float | None = None
    decode_speed: float | None = None
    speed_unit: str = ""
    device: str = ""


@dataclass
class PsnrSummary(Summary):
    """PSNR over the images of a set, with its 10th percentile."""

    p10: float | None = None


@dataclass(kw_only=True)
class TargetRecord:
    """Result of coding all images of a set with one target or at one setting."""

    value: Any
    """Value of the target or setting."""
    tokens: float
    """Mean number of tokens."""
    psnr: PsnrSummary
    out_of_reach: int | None = field(default=None, metadata=OPTIONAL)
    """Number of images that reach the target PSNR at no setting."""


@dataclass(kw_only=True)
class ModelledRecord:
    """Training of a modelled rate: the use of the training items, then the fields of `CodeTraining`."""

    where: str
    """Origin of the training items."""
    left_out: int = 0
    """Number of training items that were left out because they are also evaluated."""
    broken: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    absent: str | None = field(default=None, metadata=OPTIONAL)
    """Reason why the rate is missing. The fields below are None then."""
    parameters: int | None = field(default=None, metadata=OPTIONAL)
    parameters_of_embeddings: int | None = field(default=None, metadata=OPTIONAL)
    tokens_seen: int | None = field(default=None, metadata=OPTIONAL)
    steps: int | None = field(default=None, metadata=OPTIONAL)
    step_taken: int | None = field(default=None, metadata=OPTIONAL)
    seed: int | None = field(default=None, metadata=OPTIONAL)
    items: int | None = field(default=None, metadata=OPTIONAL)
    tokens: int | None = field(default=None, metadata=OPTIONAL)
    items_held: int | None = field(default=None, metadata=OPTIONAL)
    seconds: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(kw_only=True)
class Record:
    """All measurements of one codec at one setting on one set."""

    codec: str
    """Name in the comparison."""
    kind: str = ""
    """Registered name."""
    learned: bool = False
    """Whether the codec has parameters."""
    parameters: int = 0
    license: str | None = field(default=None, metadata=OPTIONAL)
    """License of the codec's weights, if it states one."""
    modality: str
    set: str = ""
    setting_name: str = ""
    setting: Any = None
    default: bool = False
    """Whether the setting is the codec's default."""
    protocol: str
    n: int = 0
    """Number of items that were coded."""
    failed: int = 0
    """Number of items that the codec failed on."""
    reasons: dict[str, int] = field(default_factory=dict)
    rate_unit: str = ""
    rates: dict[str, Summary] = field(default_factory=dict)
    tokens: Summary = field(default_factory=Summary)
    tokens_unit: str = ""
    bits_per_token: dict[str, Summary] = field(default_factory=dict)
    metrics: dict[str, Summary] = field(default_factory=dict)
    originals: dict[str, Summary] = field(default_factory=dict)
    """Values on the originals of the metrics that judge an output alone, such as a recognizer's own error rate."""
    metric_seconds: dict[str, float] = field(default_factory=dict)
    """Mean seconds that each metric takes for an item."""
    modelled: ModelledRecord | None = None
    codebooks: list[CodebookUse] = field(default_factory=list)
    idempotence: Summary = field(default_factory=Summary)
    time: Timing = field(default_factory=Timing)
    narrowed: list[str] = field(default_factory=list)
    """How the codec's sample rate and channels are below those of the data."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """A row per item: its key, and its values or the reason of a failure under "failed"."""
    targets: dict[str, TargetRecord] = field(default_factory=dict)
    """Empty if no targets were measured."""

    @property
    def setting_text(self) -> str:
        """Name and value of the setting; "" for a codec without settings."""
        return "" if self.setting is None else f"{self.setting_name} {self.setting}"

    @property
    def name(self) -> str:
        """The codec with the setting."""
        return f"{self.codec} at {self.setting_text}" if self.setting_text else self.codec

    def rate(self, kind: str = "coded") -> float | None:
        """Return the mean rate of a kind; None if it was not measured."""
        return self.rates[kind].value if kind in self.rates else None

    def value(self, metric: str) -> float | None:
        """Return the mean of a metric; inf if every item is perfect; None if it was not measured."""
        return self.metrics[metric].value if metric in self.metrics else None


@dataclass(kw_only=True)
class BDRow:
    """BD-rate of one codec in one metric, `percent` over the share `overlap` of the quality range, or a reason."""

    modality: str
    anchor: str
    codec: str
    metric: str
    label: str
    percent: float | None
    overlap: float | None
    reason: str | None


@dataclass(kw_only=True)
class ReferenceCurve:
    """Published curve of an image codec. It is no measurement of this comparison."""

    name: str
    file: str
    """Name of its file."""
    about: str = ""
    """Description, data set and source, as the file states them."""
    rates: list[float]
    """Bits per pixel."""
    metrics: dict[str, list[float]]
    """psnr in dB, ms_ssim linear → a value for each rate."""
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Place:
    """Quality of one codec at the rate of a standing."""

    codec: str
    value: float
    gap: float
    """How much worse than the first codec, in the unit of the metric."""
    ci95: float | None
    """Half the width of the 95 % interval of the gap; None for fewer than two items."""

    @property
    def tie(self) -> bool:
        """Whether the gap to the first codec lies inside its interval."""
        return self.ci95 is not None and self.gap <= self.ci95


@dataclass(kw_only=True)
class Standing:
    """All codecs that have a value of one metric at one coded rate, the best one first."""

    modality: str
    metric: str
    rate: float
    rate_unit: str
    center: float | None = None
    """Center of the band of rates, if the standing is that of a band."""
    places: list[Place] = field(default_factory=list)

    @property
    def best(self) -> list[Place]:
        """The first codec and those that tie with it."""
        return [place for i, place in enumerate(self.places) if i == 0 or place.tie]
