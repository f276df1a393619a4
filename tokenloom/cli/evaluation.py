"""The kind of evaluation that suits a name, as `tokenloom evaluate` chooses it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenloom.cli import hydra_app
from tokenloom.codecs import checkpoint


def run(name: str, overrides: list[str], *, modelled: bool, multirun: bool = False, flags: Sequence[str] = ()) -> int:
    """Evaluate a codec, a model for text, images and sound, or a diffusion decoder; return the exit status."""
    for kind in ("omni", "decoder"):
        if checkpoint.describes(name, kind):
            if modelled:
                raise ValueError(f"--modelled needs a codec, {name} is a model")
            return hydra_app.run(kind, [f"model={name}", *overrides], multirun=multirun, flags=flags)
    given = [f"codecs=[{name}]", *(["modelled=true"] if modelled else []), *overrides]
    return hydra_app.run("evaluate", given, multirun=multirun, flags=flags)
