"""Training of the transformer of the modelled rate, and the bits of codes under it.

The constants are the same for every codec, so that rates can be compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, CodeSpec
from tokenloom.models.transformer import Transformer
from tokenloom.progress import Bar

from .layout import PLACES, CodeLayout, endless, packed

NETWORK = {"width": 128, "layers": 3, "heads": 4, "kv_heads": 2, "context": 512}
BATCH_TOKENS = 1024
"""Number of tokens of a training step."""
LEARNING_RATE = 5e-3
CHECKS = 8
"""Number of validations during a training, equally spaced."""
HELD, MOST_HELD = 16, 2**14
"""One in HELD training items is held back for validation, with at most MOST_HELD tokens in total."""


@dataclass
class CodeTraining:
    """Numbers of a training. `ModelledRecord` has the same fields."""

    parameters: int
    parameters_of_embeddings: int
    tokens_seen: int
    steps: int
    step_taken: int
    seed: int
    items: int
    tokens: int
    items_held: int


class CodeModel:
    """Transformer over the codes of one codec."""

    training: CodeTraining

    def __init__(self, spec: CodeSpec, seed: int) -> None:
        self.layout = CodeLayout(spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.transformer = Transformer(self.layout.size, PLACES, **NETWORK)

    def bits(self, codes: Codes) -> Tensor:
        """Return the bits of each item, float64 (batch,): its codes under the model, and its side information."""
        return rate.modelled(self.nats([self.layout.row(codes, i) for i in range(len(codes))]), codes)

    @torch.no_grad()
    def nats(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the cost of each row in nats, float64 (rows,).

        Rows longer than the context are cut into windows half a context apart. Later windows score their second half
        only, so that every token has at least half a context before it.
        """
        self.transformer.eval()
        total = torch.zeros(len(rows), dtype=torch.float64)
        context = NETWORK["context"]
        for batch, owner, scored in packed(rows, context, max(1, BATCH_TOKENS // context)):
            total.index_add_(0, owner[scored], self.losses(batch).double()[scored])
        return total

    def losses(self, batch: Tensor) -> Tensor:
        """Return the nats of each token, (rows · length,), of a batch (5, rows, length) of `packed`."""
        inputs, targets, quantizers, places, documents = batch
        hidden = self.transformer(inputs, places, documents=documents)
        return self.transformer.losses(
            hidden.flatten(0, 1), targets.flatten(), quantizers.flatten(), self.layout.allowed
        )

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of all parameters and of those in embeddings."""
        embeddings = [m.weight for m in self.transformer.modules() if isinstance(m, torch.nn.Embedding)]
        return sum(p.numel() for p in self.transformer.parameters()), sum(w.numel() for w in embeddings)


def train(spec: CodeSpec, rows: Sequence[Tensor], tokens: int, seed: int, advance: Bar | None = None) -> CodeModel:
    """Train a transformer on rows of codes until it has seen a number of tokens.

    The last rows are held back for validation, and the state with the lowest validation loss is used. The state before
    the first step counts, so that little data gives a rate near the nominal one, not far above it. The same seed gives
    the same transformer on the same machine. Raises ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"the modelled rate needs 2 items to learn from, got {len(rows)}")
    model, held = CodeModel(spec, seed), _held(rows)
    transformer, kept = model.transformer, rows[: len(rows) - len(held)]
    steps = steps_for(tokens)
    optimizer = torch.optim.AdamW(transformer.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, max(0.02, 1 - max(0, step - warm_up) / (steps - warm_up + 1)))
    )
    best = _validate(model, held, 0)
    checks = {-(-steps * i // CHECKS) for i in range(1, CHECKS + 1)}
    batches = endless(kept, NETWORK["context"], BATCH_TOKENS, seed)
    for step, batch in enumerate(itertools.islice(batches, steps), start=1):
        transformer.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.losses(batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if advance is not None:
            advance(BATCH_TOKENS)
        if step in checks:
            best = min(best, _validate(model, held, step), key=lambda state: state.nats)
    transformer.load_state_dict(best.weights)
    transformer.eval()
    seen, learned = steps * BATCH_TOKENS, sum(row.shape[1] for row in kept)
    model.training = CodeTraining(*model.sizes(), seen, steps, best.step, seed, len(kept), learned, len(held))
    return model


def steps_for(tokens: int) -> int:
    """Return the number of training steps that see a number of tokens."""
    return max(1, math.ceil(tokens / BATCH_TOKENS))


def _held(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the last rows, at least one: one in HELD, and fewer if they exceed MOST_HELD tokens."""
    most = max(1, len(rows) // HELD)
    ends = itertools.accumulate(row.shape[1] for row in reversed(rows[len(rows) - most :]))
    count = max(1, sum(end <= MOST_HELD for end in ends))
    return rows[len(rows) - count :]


@dataclass
class _ValidatedState:
    nats: float
    step: int
    weights: dict[str, Tensor]


def _validate(model: CodeModel, held: Sequence[Tensor], step: int) -> _ValidatedState:
    weights = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        return _ValidatedState(float(model.nats(held).sum()), step, weights)
