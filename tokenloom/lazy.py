"""Packages that are imported at their first use: heavy ones, and ones of an extra.

Unlike importlib.util.LazyLoader, a lazy package is not in `sys.modules` before it is used, so code that looks through
the loaded modules does not load it, and several threads may use it first.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import missing


class LazyModule:
    """A module that is imported when an attribute is read."""

    def __init__(self, name: str, extra: str | None) -> None:
        self._name, self._extra = name, extra

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = import_module(self._name)
        except ModuleNotFoundError as error:
            package = self._name.partition(".")[0]
            if self._extra is None or error.name != package:
                raise
            raise missing(package, self._extra) from error
        return getattr(module, attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name}>"


def load(name: str, extra: str | None = None) -> Any:
    """Return a stand-in for the module `name`, which is imported at the first attribute access.

    Args:
        name: Dotted name.
        extra: The extra of tokenloom that installs the package. If the package is missing, the error names it.
    """
    return LazyModule(name, extra)
