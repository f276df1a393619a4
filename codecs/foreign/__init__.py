"""Find checkpoints of other projects, read them without running code, and load them into our modules."""

from .files import INDEX, WEIGHTS, locate, read
from .library import from_transformers
from .states import adopt, fold, sizes, tensors

__all__ = [
    "INDEX", "WEIGHTS", "adopt", "fold", "from_transformers", "locate", "read", "sizes", "tensors",
]  # fmt: skip
