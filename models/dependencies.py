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


def _is_known(name: str) -> bool:
    return checkpoint.is_shipped(name) or name in codecs.names()


def resolves(name: str, codec: Codec) -> bool:
    """Return whether `name` alone loads exactly this codec on every installation."""
    try:
        return _is_known(name) and codecs.load(name).fingerprint == codec.fingerprint
    except ValueError:  # a registered name that needs training or arguments, or the name of a model
        return False


def load(folder: Path, name: str, fingerprint: str | None) -> Codec:
    """Load a codec from a model's folder, else by its shipped or registered name. Paths and hub ids are refused.

    Raises ValueError if the codec is missing or its fingerprint (hex) differs.
    """
    own = folder / subfolder(name)
    if not (own / checkpoint.CONFIGS[0]).is_file() and not _is_known(name):
        known = ", ".join((*codecs.shipped(), *codecs.names()))
        raise ValueError(f"the model needs the codec {name}, which must be in {own} or one of {known}")
    codec = codecs.load(own if (own / checkpoint.CONFIGS[0]).is_file() else name)
    require_fingerprint(name, codec, fingerprint)
    return codec


def require_fingerprint(name: str, codec: Codec, fingerprint: str | None) -> None:
    """Raise ValueError unless the codec called `name` has this fingerprint."""
    if (found := codec.fingerprint.hex()) != fingerprint:
        raise ValueError(f"the codec {name} must have the fingerprint {fingerprint}, the one here has {found}")
