"""Drawing ids from a transformer, one at a time, under a grammar that says which may come."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .transformer import Cache, Transformer


class State(Protocol):
    """Where a sequence stands: which ids may come next (a kind), at which place, and how an id moves it on."""

    kind: int
    place: int

    def advance(self, id: int) -> State: ...


class Grammar(Protocol):
    """What sampling needs of a vocabulary (vocabulary.py)."""

    kinds: list[Tensor]
    over: Any

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]: ...


def sample(
    transformer: Transformer,
    grammar: Grammar,
    prompts: Sequence[Tensor],
    states: Sequence[State],
    *,
    until: Callable[[State], bool] | None = None,
    unconditional: Sequence[Tensor] | None = None,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    first_row: int = 0,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    cached: bool = True,
) -> list[Tensor]:
    """Continue each prompt → the new ids of each row, int64 (n,), on the CPU.

    prompts        int64 (n,) each, of any lengths: documents cut off where the sampling begins
    states         of each prompt the grammar's state after it
    until          a row ends after the id whose state satisfies it; None: where the document has stopped. A row
                   also ends with the document, after `max_tokens` ids and where the context is full
    unconditional  of each row a second prompt at the same place, without what the first is conditioned on
    guidance       w of classifier-free guidance (arXiv 2207.12598, 2306.17806): logits are
                   unconditional + w · (conditional − unconditional); 1 needs no second prompt
    temperature    divides the logits; 0 takes the likeliest id
    top_k, top_p   draw among the k likeliest ids, or (nucleus, 1904.09751) among the fewest that have probability p
    seed           row i draws from a stream of its own, that of (seed, first_row + i); None: different every time
    progress       called after each step with the number of ids that it drew
    cached         False computes every step from the start: slow, and the same

    Rows do not depend on each other. Raises ValueError for values out of range and for prompts that fill the context.
    """
    check(guidance, temperature, top_k, top_p, max_tokens, seed)
    if guidance != 1 and unconditional is None:
        raise ValueError(f"guidance {guidance} needs an unconditional prompt for each row; without them it is 1")
    sides = [prompts] if guidance == 1 else [prompts, unconditional]
    limits = _limits(transformer, grammar, sides, states, max_tokens)
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    uniform = [
        np.random.default_rng([entropy, first_row + row]).random(limit, np.float32) for row, limit in enumerate(limits)
    ]

    def over(state: State) -> bool:
        return state.kind == grammar.over.kind or (until is not None and until(state))

    training = transformer.training
    transformer.eval()
    try:
        with torch.inference_mode(), torch.autocast(transformer.embedding.weight.device.type, enabled=False):
            reader = (_Cached if cached else _Uncached)(transformer, grammar, sides, max(limits))
            head = _Head(transformer, grammar, guidance, temperature=temperature, top_k=top_k, top_p=top_p)
            rows = _run(reader, head, list(states), uniform, over, progress)
    finally:
        transformer.train(training)
    return [torch.tensor(row, dtype=torch.int64) for row in rows]


def _run(
    reader: _Cached | _Uncached,
    head: _Head,
    states: list[State],
    uniform: list[np.ndarray],
    over: Callable[[State], bool],
    progress: Callable[[int], None] | None,
) -> list[list[int]]:
    """Draw until every row is over or has used up its numbers; a row that is leaves the batch."""
    drawn: list[list[int]] = [[] for _ in states]
    active = list(range(len(states)))
    while True:
        u = [uniform[row][len(drawn[row])] for row in active]
        ids = head.draw(
            reader.hidden.view(-1, len(active), reader.hidden.shape[-1]), [states[r].kind for r in active], u
        )
        for row, id in zip(active, ids, strict=True):
            drawn[row].append(id)
            states[row] = states[row].advance(id)
        if progress is not None:
            progress(len(active))
        going = [i for i, row in enumerate(active) if len(drawn[row]) < len(uniform[row]) and not over(states[row])]
        if not going:
            return drawn
        sides = len(reader.hidden) // len(active)
        if len(going) < len(active):
            reader.keep([side * len(active) + i for side in range(sides) for i in going])
            active, ids = [active[i] for i in going], [ids[i] for i in going]
        reader.feed(ids * sides, [states[row].place for row in active] * sides)


def check(
    guidance: float, temperature: float, top_k: int | None = None, top_p: float | None = None,
    max_tokens: int | None = None, seed: int | None = None,
) -> None:  # fmt: skip
    """Raise ValueError unless these are values to sample with."""
    for name, value in (("guidance", guidance), ("temperature", temperature)):
        if not _number(value) or value < 0:
            raise ValueError(f"{name} {value!r} is not a number from 0 on")
    for name, value, low in (("top_k", top_k, 1), ("max_tokens", max_tokens, 1), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ValueError(f"{name} {value!r} is not a whole number from {low} on, or None")
    if top_p is not None and not (_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p {top_p!r} is not above 0 and at most 1, or None")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _limits(
    transformer: Transformer, grammar: Grammar, sides: list, states: Sequence[State], max_tokens: int | None
) -> list[int]:
    """New ids of each row at most; ValueError unless the prompts fit each other and the context."""
    context = transformer.config["context"]
    if not states:
        raise ValueError("there is no prompt to continue; an empty document is DOCUMENT alone")
    if len({len(states), *map(len, sides)}) > 1:
        raise ValueError(f"{len(states)} states do not fit {' and '.join(str(len(side)) for side in sides)} prompts")
    limits = []
    for row, state in enumerate(states):
        length = max(len(side[row]) for side in sides)
        if length >= context:
            raise ValueError(f"a prompt of {length} ids leaves no room in a context of {context}")
        for side in sides:
            if (place := int(grammar.states(side[row])[1][-1])) != state.place:
                raise ValueError(f"a prompt of row {row} ends at place {place}, its state is at {state.place}")
        limits.append(min(context - length, context if max_tokens is None else max_tokens))
    return limits


class _Head:
    """From hidden states to ids: only the logits of what may come are computed, the rows of a kind together."""

    def __init__(self, transformer: Transformer, grammar: Grammar, guidance: float, **choice: Any) -> None:
        self.transformer, self.grammar, self.guidance, self.choice = transformer, grammar, guidance, choice
        self._kinds: dict[int, tuple[Tensor, Tensor]] = {}

    def _kind(self, kind: int) -> tuple[Tensor, Tensor]:
        """The ids of a kind and their embeddings, gathered once."""
        if kind not in self._kinds:
            weight = self.transformer.embedding.weight
            allowed = self.grammar.kinds[kind].to(weight.device)
            self._kinds[kind] = allowed, weight[allowed]
        return self._kinds[kind]

    def draw(self, hidden: Tensor, kinds: list[int], uniform: list[float]) -> list[int]:
        """Hidden states (sides, rows, width), a kind and a number in [0, 1) a row → the next id of each row."""
        groups = defaultdict(list)
        for row, kind in enumerate(kinds):
            groups[kind].append(row)
        ids = [0] * len(kinds)
        for kind, rows in groups.items():
            allowed, weight = self._kind(kind)
            if len(allowed) > 1:
                logits = F.linear(hidden if len(groups) == 1 else hidden[:, rows], weight).float()
                logits = logits[0] if self.guidance == 1 else torch.lerp(logits[1], logits[0], self.guidance)
                u = torch.tensor([uniform[row] for row in rows], dtype=torch.float64, device=hidden.device)
                chosen = allowed[choose(logits, u, **self.choice)].tolist()
            else:
                chosen = [int(allowed)] * len(rows)
            for row, id in zip(rows, chosen, strict=True):
                ids[row] = id
        return ids


def choose(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits (rows, n) and one number in [0, 1) a row → an index each, int64 (rows,).

    The index is where the cumulative probability passes the number: the same draw however many rows there are.
    Top-p counts the probabilities that top-k has left, and always leaves the likeliest. Ties go to the first.
    """
    if temperature == 0:
        return logits.argmax(-1)
    order = None
    if top_k is not None or top_p is not None:
        logits, order = logits.sort(dim=-1, descending=True, stable=True)
        logits, order = logits[:, :top_k], order[:, :top_k]
    probability = (logits.double() / temperature).softmax(-1)
    total = probability.cumsum(-1)
    if top_p is not None:
        probability = probability.masked_fill(total - probability >= top_p, 0)
        total = probability.cumsum(-1)
    index = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)
    return (index if order is None else order.gather(1, index))[:, 0]


def _padded(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)


class _Cached:
    """The hidden state behind the last id of every row, kept up to date id by id."""

    def __init__(self, transformer: Transformer, grammar: Grammar, sides: list, limit: int) -> None:
        self.transformer = transformer
        device = transformer.embedding.weight.device
        rows = [row for side in sides for row in side]
        keys = [tuple(row.tolist()) for row in rows]
        once = {key: row for key, row in zip(keys, rows, strict=True)}  # equal prompts are read once
        number = {key: i for i, key in enumerate(once)}
        lengths = torch.tensor([len(row) for row in once.values()], device=device)
        capacity = min(int(lengths.max()) + limit, transformer.config["context"])
        self.cache = Cache(transformer, len(once), capacity)
        ids = _padded(once.values(), device)
        places = _padded([grammar.states(row)[1] for row in once.values()], device)
        hidden = transformer(ids, places, cache=self.cache)
        if not hidden.isfinite().all():
            raise ValueError("the transformer's hidden states are not finite: its weights are damaged")
        self.cache.lengths = lengths
        index = torch.tensor([number[key] for key in keys], device=device)
        self.hidden = hidden[torch.arange(len(once), device=device), lengths - 1][index]
        self.cache.select(index)

    def feed(self, ids: list[int], places: list[int]) -> None:
        new = torch.tensor([ids, places], device=self.hidden.device)[:, :, None]
        self.hidden = self.transformer(new[0], new[1], cache=self.cache)[:, 0]

    def keep(self, rows: list[int]) -> None:
        self.cache.select(torch.tensor(rows, dtype=torch.int64, device=self.hidden.device))


class _Uncached:
    """The same from nothing but the ids: each step reads everything again."""

    def __init__(self, transformer: Transformer, grammar: Grammar, sides: list, limit: int) -> None:
        self.transformer = transformer
        self.rows = [torch.stack([row, grammar.states(row)[1]], 1) for side in sides for row in side]
        self._read()

    def _read(self) -> None:
        device = self.transformer.embedding.weight.device
        both = _padded(self.rows, device)
        last = torch.tensor([len(row) - 1 for row in self.rows], device=device)
        hidden = self.transformer(both[..., 0], both[..., 1])
        self.hidden = hidden[torch.arange(len(last), device=device), last]

    def feed(self, ids: list[int], places: list[int]) -> None:
        new = torch.tensor([ids, places]).T[:, None]
        self.rows = [torch.cat([row, one]) for row, one in zip(self.rows, new, strict=True)]
        self._read()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[i] for i in rows]
