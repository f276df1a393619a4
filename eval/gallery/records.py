"""Records of exhibits. Their fields are keys of results files."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..serialize import OPTIONAL


@dataclass(kw_only=True)
class ExhibitTile:
    """A codec's reconstruction in an exhibit. If it failed, `note` has the reason and the fields below are None."""

    codec: str
    learned: bool
    note: str = ""
    rate: float | None = field(default=None, metadata=OPTIONAL)
    bytes: int | None = field(default=None, metadata=OPTIONAL)
    figures: dict[str, float | str] | None = field(default=None, metadata=OPTIONAL)
    """Metric → value; "inf" for a perfect one."""
    file: str | None = field(default=None, metadata=OPTIONAL)
    setting: str | None = field(default=None, metadata=OPTIONAL)
    """Name and value of the setting; None at an equal rate."""
    display_psnr: float | None = field(default=None, metadata=OPTIONAL)
    """PSNR in dB of the file to the codec's output; None for a file that holds it exactly."""


@dataclass(kw_only=True)
class Exhibit:
    """An item and its reconstructions by all codecs at an equal rate. Paths are relative to the folder of results."""

    modality: str
    key: str
    caption: str | None
    sample_rate: int | None
    unit: str
    """Unit of the rates."""
    rate: float | None
    rate_of: str | None
    """Codec whose rate it is; None for a rate of the user."""
    original: str
    tiles: list[ExhibitTile] = field(default_factory=list)
    settings: list[ExhibitTile] = field(default_factory=list)
    """Reconstructions at every measured setting, in files that are small enough for a report."""
    problem: str | None = field(default=None, metadata=OPTIONAL)
    """Reason why there are no tiles."""
