"""Tables of named classes and functions: codecs, losses, metrics, data sources and tasks are all registered alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from . import errors

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """The entries of one kind by name. Reading an unknown name raises a ValueError with the nearest names.

    Args:
        kind: Singular noun for error messages, such as "loss".
        entries: The first entries.
        pattern: Regular expression of valid names.
        form: Description of valid names for error messages.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, Entry] | None = None, *, pattern: str = r"[a-z0-9][a-z0-9_-]*",
        form: str = "lower-case letters, digits, - and _",
    ) -> None:  # fmt: skip
        super().__init__(entries or {})
        self.kind, self.pattern, self.form = kind, pattern, form

    def __missing__(self, name: object) -> Entry:
        raise ValueError(errors.unknown(self.kind, name, self))

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that adds a class or a function as `name`. A class gets the attribute `name`.

        A second definition of the same module and qualified name replaces the first, as after a reload.

        Raises:
            ValueError: If the name is malformed, or another class or function has it.
        """
        if not re.fullmatch(self.pattern, name):
            raise ValueError(f"a {self.kind} name must be {self.form}, got {name!r}")

        def add(entry: Entry) -> Entry:
            known = self.get(name)
            if known is not None and _place(known) != _place(entry):
                raise ValueError(f"{self.kind} {name!r} is already registered by {_place(known)}")
            if isinstance(entry, type):
                entry.name = name  # type: ignore[attr-defined]
            self[name] = entry
            return entry

        return add


def _place(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', repr(entry))}"
