"""Checked arguments of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokenloom import devices, errors
from tokenloom.codecs.types import Modality
from tokenloom.data import Source
from tokenloom.environment import Environment
from tokenloom.metrics.speech.recognizers import Recognizer

from .. import judges
from ..metric import Protocol
from ..protocols import protocol
from .entries import CodecEntry, CodecSource, load_entries
from .exhibits import parse_rates
from .targets import parse_targets

ANCHORS = {Modality.IMAGE: "image/jpeg", Modality.AUDIO: "audio/opus", Modality.TEXT: "text/bytes"}
"""Default anchors."""


@dataclass(frozen=True)
class Plan:
    """Checked arguments of a comparison. If `targets` is None, `targets_of` chooses them."""

    entries: list[CodecEntry]
    protocols: dict[Modality, Protocol]
    anchors: dict[Modality, str]
    rates: dict[Modality, float]
    targets: tuple[str, ...] | None
    device: torch.device
    recognizer: Recognizer

    @property
    def modalities(self) -> set[Modality]:
        return {entry.modality for entry in self.entries}

    def identity(self) -> dict[str, Any]:
        """Return all of the plan that determines the trials, and the machine."""
        return {
            "codecs": {entry.label: entry.identity() for entry in self.entries},
            "protocols": [p.name for p in self.protocols.values()],
            **({"recognizer": str(self.recognizer)} if any(map(judges.listens, self.protocols.values())) else {}),
            "targets": self.targets,
            "device": devices.describe(self.device),
            "versions": Environment(seed=0, seconds=0).versions,
        }

    def check(self, source: Source, title: str) -> None:
        """Raise ValueError if the data cannot have an item for one of the codecs."""
        for entry in self.entries:
            if not source.candidates(entry.modality):
                raise ValueError(f"{title} has no {entry.modality}, which {entry.label} would need")


def make_plan(
    codec_names: Sequence[CodecSource],
    protocols: Sequence[str],
    anchor: str | Sequence[str] | None,
    rate: float | Mapping[str, float] | None,
    targets: Sequence[str] | None,
    device: str | torch.device,
    recognizer: Recognizer,
) -> Plan:
    """Load the codecs and check the other arguments; see `compare`."""
    entries = load_entries(list(codec_names), device)
    chosen, anchors = _protocols(protocols, entries, recognizer), _anchors(anchor, entries)
    rates = parse_rates(rate, {entry.modality for entry in entries})
    return Plan(entries, chosen, anchors, rates, parse_targets(targets), devices.resolve(device), recognizer)


def _protocols(names: Sequence[str], entries: list[CodecEntry], recognizer: Recognizer) -> dict[Modality, Protocol]:
    chosen: dict[Modality, Protocol] = {}
    for p in (protocol(name, recognizer) for name in names):
        if p.modality in chosen:
            raise ValueError(f"protocols {chosen[p.modality].name} and {p.name} are both for {p.modality}; choose one")
        chosen[p.modality] = p
    for entry in entries:
        if entry.modality not in chosen:
            raise ValueError(f"protocols {list(names)} has none for {entry.modality}, which {entry.label} needs")
    return {m: p for m, p in chosen.items() if m in {entry.modality for entry in entries}}


def _anchors(anchor: str | Sequence[str] | None, entries: list[CodecEntry]) -> dict[Modality, str]:
    known = {entry.label: entry.modality for entry in entries}
    given = [] if anchor is None else [anchor] if isinstance(anchor, str) else list(anchor)
    if anchor is not None and not given:
        raise ValueError("anchor must not be empty; null takes the default")
    anchors: dict[Modality, str] = {}
    for label in given:
        if label not in known:
            raise ValueError(errors.unknown("anchor", label, known, "it must be one of the codecs compared"))
        if known[label] in anchors:
            raise ValueError(f"anchors {anchors[known[label]]} and {label} are both for {known[label]}; choose one")
        anchors[known[label]] = label
    for label, modality in known.items():
        anchors.setdefault(modality, ANCHORS[modality] if ANCHORS[modality] in known else label)
    return anchors
