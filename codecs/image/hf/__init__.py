"""Image tokenizers of Hugging Face transformers: Janus and Emu3."""

from .codec import ImageHF

__all__ = ["ImageHF"]
