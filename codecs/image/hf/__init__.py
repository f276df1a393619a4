"""Image tokenizers of Hugging Face transformers: those of Janus and Emu3."""

from .codec import ImageHF

__all__ = ["ImageHF"]
