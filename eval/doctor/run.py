"""Examine a codec, and write the page and the JSON file."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokenloom import __version__, codecs, data, environment, errors, files
from tokenloom.codecs import restoring, validate
from tokenloom.codecs.codec import Codec

from ..serialize import to_json
from ..trial import Failure, attempt
from . import signals
from .check import CHECKS, THEMES, Check
from .checks import in_order
from .page import page
from .patient import Patient
from .records import Checkup, Diagnosis, Finding, Inapplicable, Verdict

SECONDS = 4.0
"""Time of a check. One that cannot stop in the middle may take longer."""


def examine(
    source: str | Path | Mapping[str, Any] | Codec,
    *,
    setting: Any = None,
    folder: str | Path | None = None,
    device: str = "auto",
    only: Sequence[str] | None = None,
    seconds: float = SECONDS,
    tell: Callable[..., None] = lambda done, title=None: None,
) -> Checkup:
    """Examine a codec through its public interface.

        checkup = doctor.examine("natural-fsq")
        [finding.title for finding in checkup.findings if finding.verdict == "fail"]

    Args:
        source: What `codecs.load` takes, or a codec. A codec itself cannot be loaded by another process, so that check
            is skipped.
        setting: Setting of the codec; None for the default.
        folder: Folder of images, sounds or texts; None for signals that need no files.
        device: Where `codecs.load` puts the codec.
        only: Names of checks; None for all.
        seconds: Time of a check. Slow codecs are examined on smaller signals and fewer cases.
        tell: Is called with 0 and the title of a check before it, and with 1 after it, as a progress bar is.

    Raises:
        ValueError: If there is no such codec, setting or check, or the folder has no signal for the codec.
        FileNotFoundError: If there is no such folder.
    """
    begin = time.monotonic()
    chosen = _chosen(only)
    codec = source if isinstance(source, Codec) else codecs.load(source, device=device)
    setting = validate.setting(setting, codec)
    origin, what = signals.default_source(codec.spec)
    if folder is not None:
        origin = data.open_source("folder", path=str(folder), modality=str(codec.spec.modality))
        what = f"the folder {Path(folder).name}"
    real = signals.real(codec, origin, own=folder is not None)
    patient = Patient(
        codec, source=None if isinstance(source, Codec) else source, setting=setting, real=real, seconds=seconds
    )
    findings = []
    for one in chosen:
        tell(0, one.title)
        findings.append(_finding(one, patient))
        tell(1)
    label = codec.name if isinstance(source, Codec) else restoring.label(source)
    return _checkup(patient, label, f"{len(real)} signals: {what}", findings, time.monotonic() - begin)


def _chosen(only: Sequence[str] | None) -> list[Check]:
    for name in only or ():
        if name not in CHECKS:
            raise ValueError(errors.unknown("check", name, CHECKS))
    return [one for one in in_order() if only is None or one.name in only]


def _finding(one: Check, patient: Patient) -> Finding:
    """Return the finding of a check. An error of the codec is a finding, too."""
    begin = time.monotonic()
    patient.begin()

    def diagnosis() -> Diagnosis:
        try:
            return one.function(patient)
        except Inapplicable as reason:
            return Diagnosis(Verdict.SKIP, str(reason))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each check provokes the codec on purpose
        found = attempt(diagnosis)
    if isinstance(found, Failure):
        found = Diagnosis(Verdict.FAIL, f"it raised an error: {found:.300}")
    return Finding(
        check=one.name, theme=one.theme, title=one.title, about=one.about, limit=one.limit, verdict=str(found.verdict),
        measured=found.measured, figures=_finite(found.figures), seconds=time.monotonic() - begin,
    )  # fmt: skip


def _finite(value: Any) -> Any:
    """Return plain values with words in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _checkup(patient: Patient, label: str, what: str, findings: list[Finding], seconds: float) -> Checkup:
    codec = patient.codec
    control, about = codec.settings, environment.Environment(seed=0, seconds=seconds)
    unit = f" {control.unit}" if control.unit else ""
    return Checkup(
        codec=label,
        name=codec.name,
        modality=str(patient.modality),
        setting="" if control.values == (None,) else f"{control.name} {patient.setting}{unit}",
        spec=asdict(codec.spec),
        parameters=sum(p.numel() for p in codec.parameters()),
        license=getattr(codec, "license", None),
        signals=what,
        date=environment.now(),
        machine=about.machine,
        device=str(codec.device),
        threads=torch.get_num_threads(),
        version=__version__,
        command=about.command,
        seconds=seconds,
        themes={theme: title for theme, title in THEMES.items() if any(f.theme == theme for f in findings)},
        findings=findings,
    )


def make(source: Any, output: str | os.PathLike[str] = "doctor.html", **options: Any) -> Checkup:
    """Examine a codec, and write the page and a JSON file of the same stem beside it. Files that exist are replaced.

    Args:
        source: What `examine` takes.
        output: Path of the page, with the suffix .html.
        **options: See `examine`.

    Raises:
        ValueError: As `examine` does, or if the output has another suffix.
        FileNotFoundError: As `examine` does.
    """
    html, json_file = output_files(output)
    checkup = examine(source, **options)
    files.write_together({json_file: to_json(checkup), html: page(checkup, html.stem)})
    return checkup


def output_files(output: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the files of an examination: page and JSON. Raises ValueError unless the page has the suffix .html."""
    html = Path(output).expanduser()
    if html.suffix != ".html":
        raise ValueError(f"the output must have the suffix .html, got {html.name!r}")
    return html, html.with_suffix(".json")
