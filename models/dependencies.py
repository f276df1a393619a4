"""The codecs that a model checkpoint needs: inside its folder, or shipped or registered by name."""

from __future__ import annotations

import re
from pathlib import Path

from tokenloom import codecs
from tokenloom.codecs import Codec, checkpoint


def subfolder(name: str) -> str:
    """Return the name of the subfolder of a model's folder that holds the codec of a channel."""
    plain = name.replace("/", "-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", plain):
        raise ValueError(f"a channel name must have only letters, digits, '_', '.', '-' and '/', got {name!r}")
    return plain


def _known(name: str) -> Path | str | None:
    """Return the shipped folder or the registered name that `name` stands for in any current directory, or None."""
    return checkpoint.shipped_folder(name) or (name if name in codecs.names() else None)


def resolves(name: str, codec: Codec) -> bool:
    """Return whether `name` alone loads exactly this codec on every installation."""
    if checkpoint.shipped_folder(name) and not checkpoint.is_portable(name):
        return False
    try:
        return (source := _known(name)) is not None and codecs.load(source).fingerprint == codec.fingerprint
    except ValueError:  # a registered name that needs training or arguments, or the name of a model
        return False


def load(folder: Path, name: str, fingerprint: str | None) -> Codec:
    """Load a codec from a model's folder, else by its shipped or registered name. Paths and hub ids are refused.

    Raises ValueError if the codec is missing or its fingerprint (hex) differs.
    """
    own = folder / subfolder(name)
    source = own if checkpoint.holds_config(own) else _known(name)
    if source is None:
        checkpoint.refuse_research(name)
        known = ", ".join((*codecs.shipped(), *codecs.names()))
        raise ValueError(f"the model needs the codec {name}, which must be in {own} or one of {known}")
    codec = codecs.load(source)
    require_fingerprint(name, codec, fingerprint)
    return codec


def require_fingerprint(name: str, codec: Codec, fingerprint: str | None) -> None:
    """Raise ValueError unless the codec called `name` has this fingerprint."""
    if (found := codec.fingerprint.hex()) != fingerprint:
        raise ValueError(f"the codec {name} must have the fingerprint {fingerprint}, the one here has {found}")
