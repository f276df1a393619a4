"""Why a metric has no value."""

from __future__ import annotations

from pathlib import Path

import torch


class Unmeasurable(ValueError):
    """This metric has no value on this item; the message is the reason. It is counted, never imputed."""


def cached_weights(filename: str) -> str | None:
    """None where `filename` lies in the local torch hub cache, else the reason why it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    return None if path.is_file() else f"its weights {filename} are not in the local torch hub cache"
