"""Imports at the first use, for heavy packages and for packages of an extra.

Unlike with importlib.util.LazyLoader, `sys.modules` does not hold a lazy package before its first use. Code that
inspects the loaded modules therefore does not load it, and several threads can start to use it at once.
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
            package = (error.name or "").partition(".")[0]
            if self._extra is None or package in ("", "tokenloom"):
                raise
            raise missing(package, self._extra) from error
        return getattr(module, attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name}>"


def load(name: str, extra: str | None = None) -> Any:
    """Return a placeholder that imports the module `name` at the first access to an attribute.

    Args:
        name: A package or module, of tokenloom too.
        extra: The extra of tokenloom that installs the package, or the packages that the module imports. The error for
            one that is not installed names it. None for packages that every installation has.
    """
    return LazyModule(name, extra)
