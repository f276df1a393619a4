"""Export of a codec's encoder and decoder to ONNX or `torch.export`. The programs run without tokenloom.

This folder does not depend on kinds of codecs. `codecs/layers/tracing.py` defines what a codec provides.
"""

from .agreement import Agreement
from .exporting import export
from .programs import FORMATS, load

__all__ = ["FORMATS", "Agreement", "export", "load"]
