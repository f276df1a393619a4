"""The table of checks. A check is a plain function of a patient that returns a diagnosis.

A new check is one decorated function in the module of its theme, or in a new module of checks/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .patient import Patient
from .records import Diagnosis

THEMES = {
    "invariance": "Invariances",
    "locality": "Seams and reach",
    "fidelity": "Reconstruction",
    "robustness": "Sizes and odd signals",
    "tokens": "Tokens",
    "bits": "Bits",
    "cost": "Gradient, time and export",
}
"""Name of each theme → its title, in the order of the page."""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    theme: str
    title: str
    about: str
    limit: str
    function: Callable[[Patient], Diagnosis]


CHECKS: dict[str, Check] = {}
"""Checks by name."""


def check(theme: str, title: str, *, about: str, limit: str) -> Callable[..., Callable[[Patient], Diagnosis]]:
    """Add a function to the table, under its own name. It raises `Inapplicable` where it does not apply.

    Args:
        theme: A key of THEMES.
        title: What is examined, a noun.
        about: What the function measures, in a sentence.
        limit: What passes, and what is worth a warning.
    """
    if theme not in THEMES:
        raise ValueError(f"the theme of a check must be one of {', '.join(THEMES)}, got {theme!r}")

    def add(function: Callable[[Patient], Diagnosis]) -> Callable[[Patient], Diagnosis]:
        CHECKS[function.__name__] = Check(function.__name__, theme, title, about, limit, function)
        return function

    return add
