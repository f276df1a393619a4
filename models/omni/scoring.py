"""Bits of ids under a model, and the fit of a sampled segment to its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenloom.codecs import Modality

from ..transformer import Transformer
from ..vocabulary import DOCUMENT, Vocabulary


@torch.no_grad()
def bits(transformer: Transformer, vocabulary: Vocabulary, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Return the bits of the ids in each pair (prompt, ids), under a softmax over the ids that the grammar allows."""
    device = transformer.embedding.weight.device
    found, allowed = [], [ids.to(device) for ids in vocabulary.kinds]
    for prompt, new in pairs:
        ids, first = torch.cat([prompt, new]), len(prompt) - 1
        kinds, places = (x.to(device) for x in vocabulary.states(ids))
        ids = ids.to(device)
        hidden = transformer(ids[None, :-1], places[None, :-1])[0, first:]
        nats = transformer.losses(hidden, ids[first + 1 :], kinds[first:-1], allowed)
        found.append(float(nats.sum()) / math.log(2))
    return found


def fit(transformer: Transformer, vocabulary: Vocabulary, prompt: Tensor, segment: Tensor) -> float:
    """Return the fit of a segment to a prompt, in bits. Higher is better; an incomplete segment gives −∞.

    If the prompt consists of texts, the fit is their log-probability as a caption that follows the segment. Otherwise
    it is the pointwise mutual information of prompt and segment.
    """
    start = torch.tensor([DOCUMENT])
    alone = torch.cat([start, segment])
    if not vocabulary.read(alone).between_segments:
        return -math.inf
    modalities = {vocabulary.channels[name].modality for name, _ in vocabulary.parse(prompt)}
    if modalities == {Modality.TEXT}:
        return -bits(transformer, vocabulary, [(alone, prompt[1:])])[0]
    after, without = bits(transformer, vocabulary, [(prompt, segment), (start, segment)])
    return without - after


def best(
    transformer: Transformer, vocabulary: Vocabulary, pairs: Sequence[tuple[Tensor, Tensor]], count: int
) -> list[int]:
    """Return the index of the best pair (prompt, segment) in every group of `count` consecutive pairs."""
    fits = [fit(transformer, vocabulary, *pair) for pair in pairs]
    groups = (range(at, at + count) for at in range(0, len(fits), count))
    return [max(group, key=lambda i: (fits[i], -i)) for group in groups]
