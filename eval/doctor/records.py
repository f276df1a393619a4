"""Records of an examination. Their fields are the keys of doctor.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Result of a check."""

    FAIL = "fail"
    WARN = "warn"
    PASS = "pass"
    SKIP = "skipped"


class Inapplicable(Exception):
    """A check does not apply to a codec. The message is the reason, a clause without a full stop."""


@dataclass(frozen=True)
class Diagnosis:
    """What a check found."""

    verdict: Verdict
    measured: str
    """The figure that decides, in words."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Plain values behind it, by name."""


@dataclass(kw_only=True)
class Finding:
    """One line of the examination."""

    check: str
    """Name of the check."""
    theme: str
    title: str
    about: str
    """What the check measures, in a sentence."""
    limit: str
    """What passes, and what is worth a warning."""
    verdict: str
    measured: str
    """What was found; the reason of a check that was skipped."""
    figures: dict[str, Any]
    seconds: float


@dataclass(kw_only=True)
class Checkup:
    """The examination of one codec at one setting."""

    codec: str
    """What was named, or the codec's own name."""
    name: str
    """Registered name."""
    modality: str
    setting: str
    """Setting of the quality control in words; "" if the codec has none."""
    spec: dict[str, Any]
    parameters: int
    license: str | None
    signals: str
    """What the codec was examined on, in words."""
    date: str
    machine: str
    device: str
    threads: int
    version: str
    """Version of tokenloom."""
    command: str
    seconds: float
    themes: dict[str, str]
    """Titles of the themes, in the order of the findings."""
    findings: list[Finding]

    def count(self, verdict: str) -> int:
        """Return the number of findings with a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not self.count(Verdict.FAIL)

    def summary(self) -> str:
        """Return the number of findings of each verdict in words."""
        words = {Verdict.FAIL: "failed", Verdict.WARN: "with a warning", Verdict.PASS: "passed"}
        words[Verdict.SKIP] = "skipped"
        counts = [f"{self.count(verdict)} {word}" for verdict, word in words.items() if self.count(verdict)]
        return f"{len(self.findings)} checks: {', '.join(counts)}"
