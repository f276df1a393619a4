"""A codec's encoder and decoder as programs that run without this package: ONNX, or PyTorch's own `torch.export`.

A codec states itself how it is traced, see `codecs/layers/tracing.py`; nothing here knows a family of codecs.
"""

from .agreement import Agreement
from .exporting import export
from .programs import FORMATS, load

__all__ = ["FORMATS", "Agreement", "export", "load"]
