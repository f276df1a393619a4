"""All checks, a module for each theme. Importing this package fills the table of check.py."""

from ..check import CHECKS, THEMES, Check
from . import bits, cost, fidelity, invariance, locality, robustness, streams, usage

MODULES = (invariance, locality, streams, fidelity, robustness, usage, bits, cost)


def in_order() -> list[Check]:
    """Return all checks in the order of their themes."""
    return sorted(CHECKS.values(), key=lambda one: list(THEMES).index(one.theme))
