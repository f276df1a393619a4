"""A codec's tokens in somebody else's language model: tokenizer, embeddings, prompts, sampling, and back.

    bridge = Bridge.merge(tokenizer, model, [Channel("picture", codecs.load("emoji-fsq"))])
    inputs = bridge(["a red circle", picture])
    ids = model.generate(**inputs, logits_processor=[bridge.logits_processor(only="picture", size=(64, 64))])
    bridge.decode(ids[0])

A sequence is the host's own ids, with segments between them: BEGIN of a channel, its sizes, its codes (vocabulary.py).
"""

from ..vocabulary.vocabulary import Channel
from .bridge import Bridge

__all__ = ["Bridge", "Channel"]
