"""Error messages in one form for the whole package."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable

LISTED = 80
"""Largest number of characters of the names that a message lists."""


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


def unknown(kind: str, name: object, names: Iterable[object], listing: str = "") -> str:
    """Return the message for a name that is not in a set: the nearest names, or else the first ones.

    Args:
        kind: Singular noun of the names, such as "codec", "loss" or "key".
        name: The unknown name.
        names: The known names.
        listing: How to see all names, such as "tokenloom codecs lists all".

    Returns:
        For example "unknown codec 'natural-fsk' (did you mean natural-fsq?); tokenloom codecs lists all", or
        "unknown loss 'dists'; known: l1, l2, msssim". It is the text of the ValueError to raise.
    """
    known = list(dict.fromkeys(map(str, names)))
    guess = suggestion(name, known)
    shown = str(name) if len(str(name)) <= LISTED else f"{str(name)[:LISTED]}…"
    parts = [f"unknown {kind} {shown!r}{guess}"]
    if not guess or (not listing and len(", ".join(known)) <= LISTED):
        parts += [f"known: {listed(known)}" if known else f"no {kind} is known"]
    return "; ".join(parts + [listing] * bool(listing))


def suggestion(name: object, names: Iterable[object]) -> str:
    """Return " (did you mean A or B?)" for the nearest of `names`, or an empty text."""
    near = nearest(str(name), map(str, names))
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def choice(name: object, names: Iterable[object]) -> str:
    """Return the end of a message of the form "X takes no 'name'": the nearest of `names`, and all of them."""
    known = [str(known) for known in names]
    return f"{suggestion(name, known)}; it takes {listed(known) or 'no arguments'}"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to two of `names` that resemble `name`, the nearest first.

    Upper and lower case are equal, and so are "-", "_" and a blank. The last parts of dotted or slashed names are
    compared, too: "lr" resembles "optimizer.lr", and "image/opus" resembles "audio/opus".
    """
    scores = {known: _likeness(_plain(name), _plain(known)) for known in names}
    least = max(0.7, max(scores.values(), default=0.0) - 0.05)
    return sorted((known for known in scores if scores[known] >= least), key=lambda known: -scores[known])[:2]


def listed(names: Iterable[object]) -> str:
    """Return the names with commas between them, shortened to about `LISTED` characters."""
    texts = [str(name) for name in names]
    shown, length = 0, 0
    while shown < len(texts) and (length + len(texts[shown]) <= LISTED or shown == 0):
        length += len(texts[shown]) + 2
        shown += 1
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more" if shown < len(texts) else "")


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]+", "-", name.casefold())


def _likeness(a: str, b: str) -> float:
    """Return how alike two names are: by their most similar last parts (up to 1), and a little as a whole."""
    whole = difflib.SequenceMatcher(None, a, b).ratio()
    while (head := re.match(r"[^./]*[./]", a)) and b.startswith(head[0]):  # a common group says nothing
        a, b = a[head.end() :], b[head.end() :]
    if len(a) >= 3 and b.startswith(a) and a != b:
        return 0.9 + 0.1 * whole
    ends = [[text[cut:] for cut in (0, *(m.end() for m in re.finditer(r"[./]", text)))] for text in (a, b)]
    pairs = itertools.product(*map(enumerate, ends))
    best = max(difflib.SequenceMatcher(None, x, y).ratio() - 0.01 * (i + j) for (i, x), (j, y) in pairs)
    return best + 0.1 * whole if best >= 0.65 else 0.0  # one letter of three may differ


class MissingPackage(ValueError):
    """An optional package is not installed. The message names the extra of tokenloom that installs it."""


def missing(package: str, extra: str, feature: str = "this") -> MissingPackage:
    """Return the error to raise when `feature` needs an optional package that is not installed."""
    return MissingPackage(f"{feature} needs {package}, which is not installed: pip install 'tokenloom[{extra}]'")


def describe(error: BaseException) -> str:
    """Return an error's type and message on one line, without the type for a ValueError."""
    message = " ".join(str(error).split())
    return message if type(error) is ValueError and message else f"{type(error).__name__}: {message}".rstrip(": ")


def printable(text: str) -> str:
    """Return text with escapes for line breaks, other control characters and bytes of names that are not UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: ascii(found[0])[1:-1], text)
