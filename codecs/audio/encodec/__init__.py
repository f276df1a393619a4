"""EnCodec: a SEANet with an LSTM and reflection padding, and residual vector quantization.

Défossez et al., "High Fidelity Neural Audio Compression" (arXiv 2210.13438). The weights of the `encodec` package and
of transformers' EncodecModel load into these modules and give the same codes and waveforms.
"""

from .codec import Encodec

__all__ = ["Encodec"]
