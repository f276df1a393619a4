"""A codec's tokens in another project's language model: tokenizer, embeddings, prompts, sampling, results.

    bridge = Bridge.merge(tokenizer, model, [Channel("picture", codecs.load("emoji-fsq"))])
    inputs = bridge(["a red circle", picture])
    ids = model.generate(**inputs, logits_processor=[bridge.logits_processor(only="picture", size=(64, 64))])
    bridge.decode(ids[0])

A sequence consists of the host's own ids with segments between them: BEGIN of a channel, its sizes, its codes (see
vocabulary/grammar.py). The host is the language model and its tokenizer.
"""

from ..vocabulary import Channel
from .bridge import Bridge

__all__ = ["Bridge", "Channel"]
