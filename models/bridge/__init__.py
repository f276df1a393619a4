"""Tokens of codecs in a language model of transformers: tokenizer, embeddings, prompts, sampling, results.

    bridge = Bridge.merge(tokenizer, model, [Channel("picture", codecs.load("emoji-fsq"))])
    inputs = bridge(["a red circle", picture])
    ids = model.generate(**inputs, logits_processor=[bridge.logits_processor(only="picture", size=(64, 64))])
    bridge.decode(ids[0])

The host is the language model and its tokenizer. A sequence consists of its own ids and of segments between them, each
with the BEGIN of a channel, sizes and codes (see vocabulary/grammar.py).
"""

from ..vocabulary import Channel
from .bridge import Bridge

__all__ = ["Bridge", "Channel"]
