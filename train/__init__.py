"""Training: one loop, its tasks, adversaries, losses, state and logs.

The package is also the function `tokenloom.train` (see `tokenloom.api.train`): `train("image/fsq", "photos")` trains,
and `from tokenloom.train import loop` imports a module.
"""

import sys
from types import ModuleType
from typing import Any

from tokenloom import lazy

api = lazy.load("tokenloom.api")  # it imports this package


class _Package(ModuleType):
    """A package that can be called."""

    def __call__(self, codec: Any = None, data: Any = None, **overrides: Any) -> Any:
        """Train; see `tokenloom.api.train`."""
        return api.train(codec, data, **overrides)


sys.modules[__name__].__class__ = _Package
