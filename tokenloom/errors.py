"""Error messages that every room composes the same way."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def missing(package: str, extra: str) -> ValueError:
    """Return the error to raise when an optional package is not installed."""
    return ValueError(f"this needs {package}, which is not installed: pip install 'tokenloom[{extra}]'")


def describe(error: BaseException) -> str:
    """Return an error as one line: its type unless that is ValueError, and its message."""
    message = " ".join(str(error).split())
    return message if type(error) is ValueError and message else f"{type(error).__name__}: {message}".rstrip(": ")
