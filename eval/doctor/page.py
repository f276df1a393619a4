"""The page of an examination: one HTML file that loads nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..render import render
from .records import Checkup, Finding, Verdict

if TYPE_CHECKING:
    from markupsafe import Markup

SIGNS = {Verdict.FAIL: "✕", Verdict.WARN: "!", Verdict.PASS: "✓", Verdict.SKIP: "–"}
"""Sign of each verdict, beside its word."""


def page(checkup: Checkup, stem: str) -> Markup:
    """Render the page. `stem` is the name of the files beside it, without suffix."""
    themes = [
        {"id": theme, "title": title, "findings": [f for f in checkup.findings if f.theme == theme]}
        for theme, title in checkup.themes.items()
    ]
    notable = [f for verdict in (Verdict.FAIL, Verdict.WARN) for f in checkup.findings if f.verdict == verdict]
    return render(
        "doctor.html", checkup=checkup, themes=themes, notable=notable, facts=_facts(checkup), signs=SIGNS,
        rows=rows, stem=stem,
    )  # fmt: skip


def rows(finding: Finding) -> list[tuple[str, str]]:
    """Return the figures of a finding as names and texts."""
    return [(name, text(value)) for name, value in finding.figures.items()]


def text(value: Any) -> str:
    """Return a plain value as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(text, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {text(one)}" for name, one in value.items())
    return str(value)


def _facts(checkup: Checkup) -> dict[str, str]:
    """Return what the page says of the codec and the examination."""
    spec = checkup.spec
    books = spec["codebook_sizes"]
    same = len(set(books)) == 1
    facts = {
        "codec": checkup.name,
        "signal": checkup.modality + (f", {spec['sample_rate']:,} Hz" if spec["sample_rate"] else ""),
        "codebooks": f"{len(books)} of {books[0]:,} entries" if same else ", ".join(f"{n:,}" for n in books),
        "stride": " x ".join(map(str, spec["stride"])) or "the number of codes varies",
        "setting": checkup.setting or "none",
        "parameters": f"{checkup.parameters:,}",
        "license": checkup.license or "not stated",
        "examined on": checkup.signals,
        "machine": f"{checkup.machine}, {checkup.device}, {checkup.threads} threads",
        "version": f"tokenloom {checkup.version}",
        "command": checkup.command[:2000],
    }
    kinds = [word for word in ("total", "ordered", "causal") if spec[word]]
    return facts | {"properties": ", ".join(kinds) or "none of total, ordered, causal"}
