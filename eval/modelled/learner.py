"""The transformer behind the modelled rate: codes as rows of ids, a training of a stated length, bits under it.

Every constant below is the same for every codec, so that the figures of two codecs can be compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, CodeSpec
from tokenloom.models.vocabulary import streams

NETWORK = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 2, "context": 512}
PATTERN = "raster"
STEP = 1024
"""Tokens of a training step, in rows of the context's length."""
LEARNING_RATE = 5e-3
CHECKS = 8
"""How often, in equal parts of the training, it is measured on items held back; the best state counts."""
HELD, MOST_HELD = 16, 2**14
"""One training item in so many is held back; at most so many tokens of them."""
ROWS, COLUMNS = 16, 64
"""Places that are told apart: of a picture rows up to the 16th and columns up to the 64th, else 1,024 positions."""
BEGIN, END = 0, 1

Advance = Callable[[float, str | None], None]
"""Told of tokens seen since the last call, and what is being done where that is news."""


class Layout:
    """The codes of one codec as ids: BEGIN, END, then a range for each quantizer.

    END follows the last code where lengths vary, so that knowing where an item ends is paid for; where the grid
    follows from the signal's size there is none, and the size is not charged.
    """

    def __init__(self, spec: CodeSpec) -> None:
        self.spec = spec
        borders = list(itertools.accumulate(spec.codebook_sizes, initial=2))
        self.starts = torch.tensor(borders[:-1])
        self.size = borders[-1]
        self.allowed = [torch.arange(*pair) for pair in itertools.pairwise(borders)]
        if not spec.stride:
            self.allowed[0] = torch.cat([torch.tensor([END]), self.allowed[0]])

    def row(self, codes: Codes, item: int) -> Tensor:
        """One item → int64 (4, tokens): input ids, target ids, their quantizers, their places.

        The input of a token is the token before it; the place says where the token to be guessed stands.
        """
        one = codes[item].to("cpu")
        grid = tuple(one.indices.shape[2:])
        if one.lengths is not None:
            grid = (int(one.lengths[0]),)
        elif self.spec.stride:
            grid = self.spec.grid(tuple(one.sizes[0].tolist()))
        indices = one.indices[(0, slice(int(one.quantizers()[0])), *(slice(n) for n in grid))]
        values, quantizer = streams.flatten(indices, PATTERN)
        position = streams.order(grid, len(indices), PATTERN)[:, 0]
        if len(grid) == 2:
            row, column = position // grid[1], position % grid[1]
            place = row.clamp(max=ROWS - 1) * COLUMNS + column.clamp(max=COLUMNS - 1)
        else:
            place = position.clamp(max=ROWS * COLUMNS - 1)
        targets = values + self.starts[quantizer]
        if not self.spec.stride:
            targets, quantizer = _append(targets, END), _append(quantizer, 0)
            place = _append(place, min(len(place), ROWS * COLUMNS - 1))
        inputs = torch.cat([torch.tensor([BEGIN]), targets[:-1]])
        return torch.stack([inputs, targets, quantizer, place])


def _append(x: Tensor, value: int) -> Tensor:
    return torch.cat([x, torch.tensor([value])])


@dataclass
class Learned:
    """A transformer that has learned a codec's codes.

    facts  the budget as it was spent: parameters, tokens seen, steps, items and tokens learned from, …
    """

    layout: Layout
    transformer: torch.nn.Module
    facts: dict[str, Any] = field(default_factory=dict)

    def bits(self, codes: Codes) -> Tensor:
        """(batch,) float64 bits of each item: its codes under the model, side information as in every rate."""
        return rate.modelled(self.nats([self.layout.row(codes, i) for i in range(len(codes))]), codes)

    @torch.no_grad()
    def nats(self, rows: Sequence[Tensor]) -> Tensor:
        """(len(rows),) float64: cost of each row.

        Rows longer than the context are cut into windows half a context apart; each but the first scores
        its second half only, so that every token sees at least half a context of what came before it.
        """
        self.transformer.eval()
        total = torch.zeros(len(rows), dtype=torch.float64)
        for batch, scored in _packed(rows, self.transformer.config["context"]):
            losses = self.losses(batch).double()
            of, counts = scored
            total.index_add_(0, of[counts], losses[counts])
        return total

    def losses(self, batch: Tensor) -> Tensor:
        """(5, rows, length): a row's four lines and the number of its document → (rows · length,) nats."""
        inputs, targets, quantizers, places, documents = batch
        hidden = self.transformer(inputs, places, documents=documents)
        return self.transformer.losses(
            hidden.flatten(0, 1), targets.flatten(), quantizers.flatten(), self.layout.allowed
        )


def _windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(first, end, first that is scored) of the windows of a row."""
    half, done = context // 2, 0
    while done < length:
        first = max(0, done - half)
        end = min(first + context, length)
        yield first, end, done
        done = end


def _packed(rows: Sequence[Tensor], context: int) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Windows of all rows, packed → batches for `losses`; whose each token is, and whether it is scored."""
    width = context
    bins: list[list[tuple[int, int, int, int]]] = [[]]
    room = width
    for i, row in enumerate(rows):
        for first, end, scored in _windows(row.shape[1], context):
            if end - first > room:
                bins.append([])
                room = width
            bins[-1].append((i, first, end, scored))
            room -= end - first
    size = max(1, STEP // width)
    for chunk in (bins[i : i + size] for i in range(0, len(bins), size)):
        batch = torch.zeros(5, len(chunk), width, dtype=torch.int64)
        batch[1] = 2  # a target that is allowed; what pads is not scored
        of, counts = torch.zeros(2, len(chunk), width, dtype=torch.int64)
        for r, pieces in enumerate(chunk):
            at = 0
            for document, (i, first, end, scored) in enumerate(pieces, start=1):
                here = slice(at, at + end - first)
                batch[:4, r, here] = rows[i][:, first:end]
                batch[4, r, here] = document
                of[r, here] = i
                counts[r, at + scored - first : at + end - first] = 1
                at += end - first
        yield batch, (of.flatten(), counts.flatten().bool())


def learn(spec: CodeSpec, rows: Sequence[Tensor], tokens: int, seed: int, advance: Advance | None = None) -> Learned:
    """Train the transformer on the rows of items, as `Layout.row` gives them, until it has seen so many tokens.

    One row in sixteen is held back to measure by; the state that did best on those counts, the one before the
    first step included, so that little data leads to nominal bits and not far above them. The same seed gives
    the same transformer on the same machine. Raises ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} items to learn from are too few; the modelled rate needs 2")
    from tokenloom.models.transformer import Transformer

    layout = Layout(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learned = Learned(layout, Transformer(layout.size, ROWS * COLUMNS, **NETWORK))
    held = _held(rows)
    mine = rows[: len(rows) - len(held)]
    steps = steps_of(tokens)
    optimizer = torch.optim.AdamW(learned.transformer.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, max(0.02, 1 - max(0, step - warm_up) / (steps - warm_up + 1)))
    )
    best = _check(learned, held, 0)
    checks = {-(-steps * i // CHECKS) for i in range(1, CHECKS + 1)}
    for step, batch in enumerate(itertools.islice(_batches(mine, seed), steps), start=1):
        learned.transformer.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = learned.losses(batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if advance is not None:
            advance(STEP, None)
        if step in checks:
            best = min(best, _check(learned, held, step), key=lambda found: found[0])
    learned.transformer.load_state_dict(best[2])
    learned.transformer.eval()
    whole = sum(p.numel() for p in learned.transformer.parameters())
    embeddings = sum(m.weight.numel() for m in learned.transformer.modules() if isinstance(m, torch.nn.Embedding))
    learned.facts = {
        "parameters": whole, "parameters_of_embeddings": embeddings, "tokens_seen": steps * STEP, "steps": steps,
        "step_taken": best[1], "seed": seed, "items": len(mine), "tokens": sum(row.shape[1] for row in mine),
        "items_held": len(held),
    }  # fmt: skip
    return learned


def steps_of(tokens: int) -> int:
    """Training steps that it takes to see so many tokens."""
    return max(1, math.ceil(tokens / STEP))


def _held(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """The last rows: at least one, at most one in sixteen, and no more tokens than MOST_HELD where it is several."""
    most = max(1, len(rows) // HELD)
    ends = itertools.accumulate(row.shape[1] for row in reversed(rows[len(rows) - most :]))
    count = max(1, sum(end <= MOST_HELD for end in ends))
    return rows[len(rows) - count :]


def _check(learned: Learned, held: Sequence[Tensor], step: int) -> tuple[float, int, dict[str, Tensor]]:
    """Nats of the items held back, the step, and a copy of the weights."""
    state = {name: value.clone() for name, value in learned.transformer.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        nats = learned.nats(held).sum()
    return float(nats), step, state


def _batches(rows: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """Endless (5, rows, context): the rows in ever new orders end to end, cut where a batch's row is full."""
    generator = torch.Generator().manual_seed(seed)
    context = NETWORK["context"]
    waiting, count, document = [], 0, 0
    while True:
        for i in torch.randperm(len(rows), generator=generator).tolist():
            document += 1
            waiting.append(torch.cat([rows[i], torch.full((1, rows[i].shape[1]), document)]))
            count += rows[i].shape[1]
            if count >= STEP:
                stream = torch.cat(waiting, 1)
                whole = count // STEP * STEP
                for part in stream[:, :whole].split(STEP, 1):
                    yield part.reshape(5, -1, context)
                waiting, count = [stream[:, whole:]], count - whole
