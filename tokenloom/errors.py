"""Error messages in one form for the whole package."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line; the file and the reason for an error of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def missing(package: str, extra: str, feature: str = "this") -> ValueError:
    """Return the error to raise when `feature` needs an optional package that is not installed."""
    return ValueError(f"{feature} needs {package}, which is not installed: pip install 'tokenloom[{extra}]'")


def describe(error: BaseException) -> str:
    """Return an error's type and message on one line, without the type for a ValueError."""
    message = " ".join(str(error).split())
    return message if type(error) is ValueError and message else f"{type(error).__name__}: {message}".rstrip(": ")
