"""Merging of results: the same sets, items, protocols and figures, or a refusal that names the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..compare.records import KINDS, Record
from ..compare.results import Results
from ..metric import ProtocolDescription
from .loading import Loaded

EQUAL = 1e-3
"""Two figures are equal if they differ by less than this share of the figure, or of its spread over items.

Processors differ in the last digits, and a figure can be near 0.
"""


@dataclass
class MergedSet:
    """Records of one modality and one set as the results of a comparison, lowest rate of each codec first."""

    results: Results
    modality: str
    runs: list[int]
    """For each record the number of the file that its times are from."""

    @property
    def records(self) -> list[Record]:
        return self.results.records


def merge(loaded: Sequence[Loaded]) -> list[MergedSet]:
    """Merge the records of all files by modality and set, images first.

    A codec measured twice at one setting is merged if all figures that both have are equal; see
    EQUAL. The record then has the times of the newer file, and the metrics of both.

    Raises:
        ValueError: If two files differ in the protocol or the items of a set, in the definition of a protocol, or in
            a figure. The message names the files.
    """
    protocols = _protocols(loaded)
    groups: dict[tuple[str, str], list[tuple[int, Record]]] = {}
    for number, source in enumerate(loaded):
        for record in source.records():
            groups.setdefault((record.modality, record.set), []).append((number, record))
    order = sorted(groups, key=lambda key: ("image", "audio", "text").index(key[0]))
    return [_merged(title, groups[modality, title], loaded, protocols) for modality, title in order]


def _merged(
    title: str, found: list[tuple[int, Record]], loaded: Sequence[Loaded], protocols: dict[str, ProtocolDescription]
) -> MergedSet:
    """Merge the records of one set, each with the number of its file."""
    first_number, first = found[0]
    kept: dict[tuple[str, str], tuple[int, Record]] = {}
    for number, record in found:
        names = loaded[number].name, loaded[first_number].name
        if record.protocol != first.protocol:
            raise ValueError(
                f"{names[0]} cannot be merged: it measures {title} with protocol {record.protocol}, {names[1]} with "
                f"{first.protocol}"
            )
        if difference := _items_differ(record, first):
            raise ValueError(
                f"{names[0]} cannot be merged: the items of {title} differ from those of {names[1]}, {difference}"
            )
        key = (record.codec, record.setting_text)
        kept[key] = _joined(kept[key], (number, record), loaded) if key in kept else (number, record)
    codecs = list(dict.fromkeys(codec for codec, _ in kept))
    ordered = sorted(kept.values(), key=lambda one: (codecs.index(one[1].codec), one[1].rate()))
    results = Results(Path(), title, [record for _, record in ordered], {first.protocol: protocols[first.protocol]})
    measured = {name for r in results.records for name, s in r.metrics.items() if s.value is not None}
    for number in dict.fromkeys(number for number, _ in found):
        absent = loaded[number].results.absent.items()
        known = results.protocols[first.protocol].metrics
        results.absent |= {name: why for name, why in absent if name in known and name not in measured}
    return MergedSet(results, first.modality, [number for number, _ in ordered])


def _items_differ(record: Record, other: Record) -> str:
    """Return how the items of two records differ; "" if they have the same keys, and as far as told the same signals.

    Files of older versions have no hashes of the signals: then the sizes are compared.
    """
    ours, theirs = ({row["key"]: row for row in r.items} for r in (record, other))
    if len(ours) != len(theirs):
        return f"{len(ours)} of them against {len(theirs)}"
    if strange := next((key for key in ours if key not in theirs), None):
        return f"it has {strange!r:.60}"
    for key, row in ours.items():
        digests = row.get("digest"), theirs[key].get("digest")
        if None not in digests and digests[0] != digests[1]:
            return f"{key!r:.60} has another signal"
        sizes = [size for size in (_size(row), _size(theirs[key])) if size is not None]
        if None in digests and len(sizes) == 2 and not math.isclose(*sizes, rel_tol=1e-6):
            return f"{key!r:.60} has another size"
    return ""


def _size(row: Mapping[str, Any]) -> float | None:
    """Return the size of an item's signal, up to a factor; None for an item that failed."""
    size, rate = row.get("bytes"), row.get("coded")
    return size / rate if isinstance(size, int | float) and isinstance(rate, int | float) and rate > 0 else None


def _joined(older: tuple[int, Record], newer: tuple[int, Record], loaded: Sequence[Loaded]) -> tuple[int, Record]:
    """Join two records of one codec at one setting, which must have equal figures."""
    dates = [loaded[number].results.environment.date for number, _ in (older, newer)]
    if dates[1] < dates[0]:
        older, newer = newer, older
    a, b = older[1], newer[1]
    for what, x, y, spread in _figures(a, b):
        if not math.isclose(x, y, rel_tol=EQUAL, abs_tol=EQUAL * spread):
            raise ValueError(
                f"{loaded[newer[0]].name} cannot be merged: {b.name} has {what} {y:.6g} on {b.set}, in "
                f"{loaded[older[0]].name} {x:.6g}; leave one of the files out"
            )
    from_older = [name for name, s in a.metrics.items() if name not in b.metrics or b.metrics[name].value is None]
    rates_of_older = [kind for kind in KINDS if b.rates[kind].value is None]
    rows = {row["key"]: row for row in a.items}
    taken = (*from_older, *rates_of_older)
    joined = replace(
        b,
        license=b.license or a.license,
        rates={**b.rates, **{kind: a.rates[kind] for kind in rates_of_older}},
        bits_per_token={**b.bits_per_token, **{kind: a.bits_per_token[kind] for kind in rates_of_older}},
        metrics={**b.metrics, **{name: a.metrics[name] for name in from_older}},
        modelled=a.modelled if "modelled" in rates_of_older and a.modelled else b.modelled,
        items=[{**row, **{k: rows[row["key"]][k] for k in taken if k in rows[row["key"]]}} for row in b.items],
    )
    return newer[0], joined


def _figures(a: Record, b: Record) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, both values and the spread over items of all figures that both records have."""
    yield "items coded:", float(a.n), float(b.n), 0.0
    for suffix, ours, theirs in ((" rate", a.rates, b.rates), ("", a.metrics, b.metrics)):
        for name in [name for name in ours if name in theirs]:
            x, y = ours[name].value, theirs[name].value
            if x is not None and y is not None:
                yield f"{name}{suffix}", x, y, ours[name].std or 1e-6  # a metric of a whole set has no spread


def _protocols(loaded: Sequence[Loaded]) -> dict[str, ProtocolDescription]:
    """Return the protocols of all files. A newer file can have more metrics than an older one."""
    merged: dict[str, ProtocolDescription] = {}
    origin: dict[tuple[str, str], str] = {}
    for source in loaded:
        for name, protocol in source.results.protocols.items():
            known = merged.setdefault(name, replace(protocol, metrics={}))
            if (known.modality, known.common) != (protocol.modality, protocol.common):
                raise ValueError(
                    f"{source.name} cannot be merged: its protocol {name} differs from that of {origin[name, '']}"
                )
            origin.setdefault((name, ""), source.name)
            for metric, about in protocol.metrics.items():
                if known.metrics.setdefault(metric, about) != about:
                    raise ValueError(
                        f"{source.name} cannot be merged: its protocol {name} defines {about.label} otherwise than "
                        f"{origin[name, metric]}"
                    )
                origin.setdefault((name, metric), source.name)
    return merged
