"""Autoregressive sampling from a transformer, restricted to the ids that a grammar allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import check_ranges, choose
from .transformer import Transformer


class SamplingState(Protocol):
    """Position of a sequence in the grammar: the kind of the next id (a set of allowed ids) and its place."""

    @property
    def kind(self) -> int: ...
    @property
    def place(self) -> int: ...
    def advance(self, id: int) -> Any: ...


class SamplingGrammar(Protocol):
    """The part of a vocabulary that sampling uses."""

    kinds: list[Tensor]
    stopped: Any

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]: ...


class Draw(NamedTuple):
    """An id drawn for a row, and the state after it."""

    row: int
    id: int
    state: Any


def sample(
    transformer: Transformer, grammar: SamplingGrammar, prompts: Sequence[Tensor], states: Sequence[SamplingState], *,
    progress: Callable[[int], None] | None = None, **options: Any,
) -> list[Tensor]:  # fmt: skip
    """Continue each prompt, and return the new ids of each row, int64 (n,), on the CPU.

    Args:
        transformer: See `steps`, also for the other arguments and for errors.
        grammar: See `steps`.
        prompts: See `steps`.
        states: See `steps`.
        progress: Function that receives the number of ids drawn in each step.
        **options: Options of `steps`.
    """
    drawn: list[list[int]] = [[] for _ in prompts]
    for step in steps(transformer, grammar, prompts, states, **options):
        for row, id, _ in step:
            drawn[row].append(id)
        if progress is not None:
            progress(len(step))
    return [torch.tensor(row, dtype=torch.int64) for row in drawn]


def steps(
    transformer: Transformer, grammar: SamplingGrammar, prompts: Sequence[Tensor], states: Sequence[SamplingState], *,
    until: Callable[[Any], bool] | None = None, unconditional: Sequence[Tensor] | None = None,
    guidance: float = 1.0, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
    seed: int | None = None, first_row: int = 0, max_tokens: int | None = None,
) -> Iterator[list[Draw]]:  # fmt: skip
    """Continue each prompt by one id per step. Rows do not depend on each other, and leave the batch when they end.

    Args:
        transformer: The network.
        grammar: Its vocabulary.
        prompts: Incomplete documents, int64 (n,) each, of any lengths.
        states: The grammar's state after each prompt.
        until: Predicate of a state that ends its row. A row also ends with its document and with a full context.
        unconditional: A second prompt for each row, without the condition, that ends at the same place.
        guidance: Scale w of classifier-free guidance (arXiv 2207.12598, 2306.17806): logits are
            unconditional + w · (conditional − unconditional).
        temperature: See `sampling.choose`.
        top_k: See `sampling.choose`.
        top_p: See `sampling.choose`.
        seed: Row i draws from its own random stream, (seed, first_row + i). None draws a seed.
        first_row: Number of the first row.
        max_tokens: Largest number of new ids of a row.

    Yields:
        The ids that are drawn in a step, before the network reads them.

    Raises:
        ValueError: If a value is out of range or a prompt fills the context.
    """
    check_ranges(guidance, temperature, top_k, top_p, max_tokens, seed)
    if guidance != 1 and unconditional is None:
        raise ValueError(f"guidance {guidance} needs an unconditional prompt for each row")
    sides = [prompts] if guidance == 1 else [prompts, unconditional]
    limits = _limits(transformer, grammar, sides, states, max_tokens)
    entropy: Any = np.random.SeedSequence().entropy if seed is None else seed
    uniform = [np.random.default_rng([entropy, first_row + i]).random(n, np.float32) for i, n in enumerate(limits)]
    head = _Head(transformer, grammar, guidance, temperature=temperature, top_k=top_k, top_p=top_p)

    def over(state: SamplingState) -> bool:
        return state.kind == grammar.stopped.kind or (until is not None and until(state))

    with _inference(transformer):
        reader = _CachedReader(transformer, grammar, sides, max(limits))
    return _run(reader, head, list(states), uniform, over)


@contextmanager
def _inference(transformer: Transformer) -> Iterator[None]:
    """Compute in eval mode, without gradients and autocast, inside the block."""
    training = transformer.training
    if training:
        transformer.eval()
    try:
        with torch.inference_mode(), torch.autocast(transformer.embedding.weight.device.type, enabled=False):
            yield
    finally:
        if training:
            transformer.train()


def _limits(
    transformer: Transformer, grammar: SamplingGrammar, sides: list, states: Sequence[SamplingState],
    max_tokens: int | None,
) -> list[int]:  # fmt: skip
    """Largest number of new ids of each row. Raises ValueError unless the prompts fit each other and the context."""
    context = transformer.config["context"]
    if not states:
        raise ValueError("prompts must not be empty; an empty document is DOCUMENT alone")
    if len({len(states), *map(len, sides)}) > 1:
        raise ValueError(f"{len(states)} states do not fit {' and '.join(str(len(side)) for side in sides)} prompts")
    limits = []
    for row, state in enumerate(states):
        length = max(len(side[row]) for side in sides)
        if length >= context:
            raise ValueError(f"a prompt of {length} ids leaves no room in a context of {context}")
        for side in sides:
            if (place := int(grammar.states(side[row])[1][-1])) != state.place:
                raise ValueError(f"the prompt of row {row} ends at place {place}, but its state is at {state.place}")
        limits.append(min(context - length, context if max_tokens is None else max_tokens))
    return limits


def _run(
    reader: _CachedReader, head: _Head, states: list[SamplingState], uniform: list[np.ndarray],
    over: Callable[[SamplingState], bool],
) -> Iterator[list[Draw]]:  # fmt: skip
    """Draw until every row has ended or has used all its random numbers. Rows that end leave the batch."""
    active, step = list(range(len(states))), 0
    while True:
        with _inference(head.transformer):  # which must not hold while the caller has the ids
            hidden = reader.hidden.view(-1, len(active), reader.hidden.shape[-1])
            u = [uniform[row][step] for row in active]
            ids = head.draw(hidden, [states[row].kind for row in active], u)
        for row, id in zip(active, ids, strict=True):
            states[row] = states[row].advance(id)
        yield [Draw(row, id, states[row]) for row, id in zip(active, ids, strict=True)]
        step += 1
        going = [i for i, row in enumerate(active) if step < len(uniform[row]) and not over(states[row])]
        if not going:
            return
        with _inference(head.transformer):
            sides = len(hidden)
            if len(going) < len(active):
                reader.keep([side * len(active) + i for side in range(sides) for i in going])
                active, ids = [active[i] for i in going], [ids[i] for i in going]
            reader.feed(ids * sides, [states[row].place for row in active] * sides)


class _CachedReader:
    """Feeds ids to the transformer. `hidden` (rows, width) follows the last id of each row of each side."""

    def __init__(self, transformer: Transformer, grammar: SamplingGrammar, sides: list, limit: int) -> None:
        self.transformer = transformer
        device = transformer.embedding.weight.device
        rows = [row for side in sides for row in side]
        keys = [tuple(row.tolist()) for row in rows]
        unique = {key: row for key, row in zip(keys, rows, strict=True)}  # equal prompts are read once
        number = {key: i for i, key in enumerate(unique)}
        lengths = torch.tensor([len(row) for row in unique.values()], device=device)
        capacity = min(int(lengths.max()) + limit, transformer.config["context"])
        self.cache = transformer.new_cache(len(unique), capacity)
        ids = _pad(unique.values(), device)
        places = _pad([grammar.states(row)[1] for row in unique.values()], device)
        hidden = transformer(ids, places, cache=self.cache)
        if not hidden.isfinite().all():
            raise ValueError("the transformer's hidden states are not finite: its weights are damaged")
        self.cache.lengths = lengths
        index = torch.tensor([number[key] for key in keys], device=device)
        self.hidden = hidden[torch.arange(len(unique), device=device), lengths - 1][index]
        self.cache.select(index)

    def feed(self, ids: list[int], places: list[int]) -> None:
        """Append one id to each row; `places` holds the place of the id after it."""
        new = torch.tensor([ids, places], device=self.hidden.device)[:, :, None]
        self.hidden = self.transformer(new[0], new[1], cache=self.cache)[:, 0]

    def keep(self, rows: list[int]) -> None:
        """Keep these rows of the cache. `feed` must follow, because `hidden` keeps all rows."""
        self.cache.select(torch.tensor(rows, dtype=torch.int64, device=self.hidden.device))


def _pad(rows: Iterable[Tensor], device: torch.device) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)


class _Head:
    """Draws ids from hidden states. Rows of one kind share the logits' computation, for allowed ids only."""

    def __init__(self, transformer: Transformer, grammar: SamplingGrammar, guidance: float, **choice: Any) -> None:
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
        """Draw the next id of each row from hidden (sides, rows, width), its kind and its number in [0, 1)."""
        groups = defaultdict(list)
        for row, kind in enumerate(kinds):
            groups[kind].append(row)
        ids = [0] * len(kinds)
        for kind, rows in groups.items():
            allowed, weight = self._kind(kind)
            logits = F.linear(hidden[:, rows], weight).float()
            logits = logits[0] if self.guidance == 1 else torch.lerp(logits[1], logits[0], self.guidance)
            u = torch.tensor([uniform[row] for row in rows], dtype=torch.float64)  # which not every device has
            chosen = allowed[choose(logits.cpu(), u, **self.choice)].tolist()
            for row, id in zip(rows, chosen, strict=True):
                ids[row] = id
        return ids
