"""Records of a comparison. The names of the fields are the keys of results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenloom.metrics.tokens import CodebookUse

from ..environment import Environment
from ..metric import Summary
from ..serialize import OPTIONAL

KINDS = ("nominal", "entropy", "coded", "modelled")
"""Kinds of rate."""


@dataclass(kw_only=True)
class ComparisonEnvironment(Environment):
    """Environment of a comparison, with its arguments that the report needs.

    Attributes:
        anchors: Codecs that BD-rate compares with.
        rates: Modality → rate of its exhibits, if one was given.
        definitions: Title → term → definition, of everything measured.
    """

    anchors: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    definitions: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Timing:
    """Wall seconds for a whole set, and the amount of signal per second."""

    encode: float = 0.0
    decode: float = 0.0
    encode_speed: float | None = None
    decode_speed: float | None = None
    speed_unit: str = ""


@dataclass
class PsnrSummary(Summary):
    """PSNR over the images of a set, with its 10th percentile."""

    p10: float | None = None


@dataclass(kw_only=True)
class TargetRecord:
    """Result of coding every image of a set with one target, or at one setting.

    Attributes:
        value: Value of the target or setting.
        tokens: Mean number of tokens.
        psnr: In dB.
        out_of_reach: Number of images that no setting brings to the target PSNR.
    """

    value: Any
    tokens: float
    psnr: PsnrSummary
    out_of_reach: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(kw_only=True)
class ModelledRecord:
    """The training behind a modelled rate.

    Attributes:
        where: Origin of the training items.
        left_out: Training items that are also evaluated, and therefore left out.
        broken: Broken items.
        failed: Items on which the codec failed.
        reasons: Up to three reasons of these failures.
        absent: Reason why there is no rate. The fields below are given only without one.
        parameters: Of the transformer, embeddings included.
        parameters_of_embeddings: Of these, in embeddings.
        tokens_seen: Tokens of all training steps.
        steps: Training steps.
        step_taken: Step whose weights were best on the validation items.
        seed: Of weights and order.
        items: Training items.
        tokens: Their tokens.
        items_held: Validation items.
        seconds: Wall time.
    """

    where: str
    left_out: int = 0
    broken: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    absent: str | None = field(default=None, metadata=OPTIONAL)
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
    """Everything measured of one codec at one setting on one set.

    Attributes:
        codec: Name of the codec in this comparison.
        kind: Its registered name.
        learned: Whether it has parameters.
        parameters: Number of parameters.
        modality: "image", "audio" or "text".
        set: Title of the data.
        setting_name: Name of the codec's quality control.
        setting: Its value.
        default: Whether that is the codec's default.
        protocol: Name of the protocol of the metrics.
        n: Number of items that were coded.
        failed: Number of items on which the codec failed.
        reasons: Reason of a failure → number of items.
        rate_unit: Unit of `rates`.
        rates: Kind of rate → its values.
        tokens: Number of tokens.
        tokens_unit: Unit of `tokens`.
        bits_per_token: Kind of rate → its values in bits per token.
        metrics: Name of a metric → its values.
        modelled: The training behind the modelled rate; None if it was not measured.
        codebooks: Use of each quantizer's codebook.
        idempotence: Share of tokens equal after decoding and encoding again.
        time: Seconds and speed.
        items: One row per item: its key, and either its values or the reason of its failure under "failed".
        targets: Target → what it gives for the mean tokens of this setting; {} if it was not measured.
    """

    codec: str
    kind: str = ""
    learned: bool = False
    parameters: int = 0
    modality: str
    set: str = ""
    setting_name: str = ""
    setting: Any = None
    default: bool = False
    protocol: str
    n: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rate_unit: str = ""
    rates: dict[str, Summary] = field(default_factory=dict)
    tokens: Summary = field(default_factory=Summary)
    tokens_unit: str = ""
    bits_per_token: dict[str, Summary] = field(default_factory=dict)
    metrics: dict[str, Summary] = field(default_factory=dict)
    modelled: ModelledRecord | None = None
    codebooks: list[CodebookUse] = field(default_factory=list)
    idempotence: Summary = field(default_factory=Summary)
    time: Timing = field(default_factory=Timing)
    items: list[dict[str, Any]] = field(default_factory=list)
    targets: dict[str, TargetRecord] = field(default_factory=dict)

    @property
    def setting_text(self) -> str:
        """Name and value of the setting; "" for a codec without settings."""
        return "" if self.setting is None else f"{self.setting_name} {self.setting}"

    def rate(self, kind: str = "coded") -> float | None:
        """Return the mean rate of a kind, or None without one."""
        return self.rates[kind].value if kind in self.rates else None

    def value(self, metric: str) -> float | None:
        """Return the mean of a metric; inf if every item is perfect; None without one."""
        return self.metrics[metric].value if metric in self.metrics else None


@dataclass(kw_only=True)
class BDRow:
    """BD-rate of one codec in one metric: `percent` and `overlap`, or the reason why there is none."""

    modality: str
    anchor: str
    codec: str
    metric: str
    label: str
    percent: float | None
    overlap: float | None
    reason: str | None


@dataclass(kw_only=True)
class ExhibitTile:
    """One codec's reconstruction in an exhibit.

    Attributes:
        codec: Name of the codec.
        learned: Whether it has parameters.
        note: Remark, such as the reason of a failure. The fields below are None after one.
        rate: Coded rate.
        bytes: Size of the container.
        figures: Metric → value; "inf" for a perfect one.
        file: Path relative to the folder of the results.
    """

    codec: str
    learned: bool
    note: str = ""
    rate: float | None = field(default=None, metadata=OPTIONAL)
    bytes: int | None = field(default=None, metadata=OPTIONAL)
    figures: dict[str, float | str] | None = field(default=None, metadata=OPTIONAL)
    file: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(kw_only=True)
class Exhibit:
    """One item and its reconstructions by every codec at an equal rate.

    Attributes:
        modality: "image" or "audio".
        key: Key of the item.
        caption: Caption of the item, if it has one.
        sample_rate: Of audio, in Hz.
        unit: Unit of rates.
        rate: The rate that codecs were given.
        rate_of: Codec that set it; None if the caller did.
        original: Path of the original, relative to the folder of the results.
        tiles: One per codec.
        problem: Reason why there are no tiles.
    """

    modality: str
    key: str
    caption: str | None
    sample_rate: int | None
    unit: str
    rate: float | None
    rate_of: str | None
    original: str
    tiles: list[ExhibitTile] = field(default_factory=list)
    problem: str | None = field(default=None, metadata=OPTIONAL)
