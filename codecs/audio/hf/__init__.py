"""Audio tokenizers of Hugging Face transformers: EnCodec, DAC, Mimi, X-Codec, X-Codec 2 and Higgs Audio 2."""

from .codec import AudioHF

__all__ = ["AudioHF"]
