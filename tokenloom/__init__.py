"""tokenloom: every signal becomes integers, every integer has a price in bits.

    from tokenloom import codecs, compare, models, train

`codecs`, `data`, `metrics` and `models` are packages; `compare` and `train` are functions (see `tokenloom.api`). Each
is imported at its first use, so `import tokenloom` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "codecs", "compare", "data", "metrics", "models", "train"]

if TYPE_CHECKING:
    from . import codecs, data, metrics, models
    from .api import compare, train
else:

    def __getattr__(name: str) -> Any:
        if name == "compare":
            return import_module("tokenloom.api").compare
        if name in __all__:  # the package `train` is itself a function, see train/__init__.py
            return import_module(f"tokenloom.{name}")
        raise AttributeError(f"module 'tokenloom' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
