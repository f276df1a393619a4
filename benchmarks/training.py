"""Training steps: of a codec beside a plain loop, of the transformer beside Qwen3, and in each precision."""

from __future__ import annotations

import atexit
import copy
import itertools
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_msssim
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tokenloom.models.transformer import Transformer
from tokenloom.train.loop import Run
from tokenloom.train.tasks.codec import CodecConfig

from .case import Case

FSQ = {"levels": [8, 8, 5, 5, 5], "stride": 8, "patch": 4, "widths": [128, 256], "depths": [2, 2]}
BLOCKS = [3, 5]
"""Blocks of the decoder, as in conf/codec/image/fsq.yaml."""
LR, BETAS, DECAY, CLIP, EMA = 9e-4, (0.9, 0.95), 0.01, 1.0, 0.999
SIZES = {"width": 256, "layers": 6, "heads": 4, "kv_heads": 2, "hidden": 704}
VOCABULARY, PLACES, CONTEXT = 6617, 2074, 320
"""Sizes of omni-small."""


def cases() -> Iterator[Case]:
    yield _codec(batch=4, side=128)
    yield _transformer(batch=4)
    for precision in ("32-true", "bf16-mixed"):
        yield _precision(precision, batch=1, side=64)


# -- a codec --------------------------------------------------------------------------------------


def _codec(batch: int, side: int) -> Case:
    run, x = _run("32-true", side), _pictures(batch, side)
    plain = PlainLoop(run)
    work = f"image/fsq, {batch} crops of {side}², float32, with clipping, AdamW and the moving average"
    peer = "plain PyTorch: the same network, losses and optimizer"
    return Case("training step", work, peer, _steps(run, x), lambda: plain.step(x), _equal_losses)


def _precision(precision: str, batch: int, side: int) -> Case:
    x = _pictures(batch, side)
    auto, other = _run("auto", side), _run(precision, side)
    work = f"image/fsq, {batch} crop of {side}², precision=auto, which takes {auto.cfg.precision} here"
    return Case("training step", work, f"precision={precision}", _steps(auto, x), _steps(other, x), _equal_losses)


def _steps(run: Run, x: Tensor) -> Callable[[], float]:
    """Return a function that makes one more step, and returns its loss."""
    numbers = itertools.count()

    def step() -> float:
        terms = run._update(next(numbers), x)
        assert terms is not None  # the loss is finite
        return terms["loss"].item()

    return step


def _run(precision: str, side: int) -> Run:
    """Return a run that is not started, on one thread and without files to keep."""
    out = tempfile.mkdtemp(prefix="tokenloom-bench-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    options = {"lr": LR, "betas": BETAS, "weight_decay": DECAY, "clip": CLIP, "warmup": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bf16-mixed is slow here is what the row says
        cfg = CodecConfig(
            codec={"name": "image/fsq", **FSQ, "decoder_depths": BLOCKS}, data={"name": "scenes", "count": 64},
            precision=precision, device="cpu", steps=10_000, out=out, ema=EMA, logger="csv",
        )  # fmt: skip
        for key, value in options.items():
            setattr(cfg.optimizer, key, value)
        cfg.crop.size = side
        run = Run(cfg)
    run.logs.close()
    run.module.train()
    return run


def _pictures(batch: int, side: int) -> Tensor:
    """Return smooth pictures."""
    coarse = torch.rand(batch, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def _equal_losses(ours: float, theirs: float) -> str:
    """Both sides start from the same weights. The losses of the first steps are compared."""
    assert math.isclose(ours, theirs, rel_tol=2e-2)
    return "losses equal" if math.isclose(ours, theirs, rel_tol=1e-5) else f"losses within {abs(ours / theirs - 1):.1%}"


class Block(nn.Module):
    """The residual block as one would write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(self.norm(x))))


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.gain


class PlainLoop:
    """A network and a loop as one would write them with PyTorch alone, with the weights of a run."""

    def __init__(self, run: Run) -> None:
        (a, b), (down_a, down_b), (up_a, up_b), dim = FSQ["widths"], FSQ["depths"], BLOCKS, len(FSQ["levels"])
        patch = FSQ["patch"]
        encoder = nn.Sequential(
            nn.PixelUnshuffle(patch), nn.Conv2d(3 * patch**2, a, 3, padding=1), *(Block(a) for _ in range(down_a)),
            nn.Conv2d(a, b, 4, stride=2, padding=1), *(Block(b) for _ in range(down_b)), Norm(b), nn.Conv2d(b, dim, 1),
        )  # fmt: skip
        decoder = nn.Sequential(
            nn.Conv2d(dim, b, 3, padding=1), *(Block(b) for _ in range(up_b)), nn.Conv2d(b, 4 * a, 3, padding=1),
            nn.PixelShuffle(2), *(Block(a) for _ in range(up_a)), Norm(a),
            nn.Conv2d(a, 3 * patch**2, 3, padding=1), nn.PixelShuffle(patch),
        )  # fmt: skip
        for part, network in (("encoder", encoder), ("decoder", decoder)):
            network.load_state_dict(run.model.get_submodule(part).state_dict())
        self.model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LR, BETAS, weight_decay=DECAY)
        levels = torch.tensor(FSQ["levels"], dtype=torch.float32)[:, None, None]
        self.half, self.width = (levels - 1) * (1 + 1e-3) / 2, levels // 2
        self.offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        self.shift = torch.atanh(self.offset / self.half)

    def step(self, x: Tensor) -> float:
        z = torch.tanh(self.model["encoder"](x * 2 - 1) + self.shift) * self.half - self.offset
        z = (z + (z.round() - z).detach()) / self.width
        y = (self.model["decoder"](z) + 1) / 2
        window = min(11, 2 * ((x.shape[-1] - 1) // 32) + 1)
        loss = F.mse_loss(y, x) + 0.01 * (1 - pytorch_msssim.ms_ssim(y, x, data_range=1.0, win_size=window))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(weight, 1 - EMA)
        return loss.item()


# -- the transformer ------------------------------------------------------------------------------


def _transformer(batch: int) -> Case:
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (batch, CONTEXT + 1))
    lengths = [70, 120, 50, 80]  # of the documents in a row
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]).expand(batch, -1)
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(batch, -1)
    targets = ids[:, 1:].flatten()
    network = Transformer(VOCABULARY, PLACES, **SIZES, context=CONTEXT)
    everything = [torch.arange(VOCABULARY)]

    def our_loss() -> Tensor:
        hidden = network(ids[:, :-1], positions, documents=documents, positions=positions).flatten(0, 1)
        return network.losses(hidden, targets, torch.zeros_like(targets), everything).mean()

    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=SIZES["width"], intermediate_size=SIZES["hidden"],
        num_hidden_layers=SIZES["layers"], num_attention_heads=SIZES["heads"], num_key_value_heads=SIZES["kv_heads"],
        head_dim=SIZES["width"] // SIZES["heads"],
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    qwen = transformers.Qwen3ForCausalLM(config).train()
    same = documents[:, None, :, None] == documents[:, None, None, :]
    allowed = same & torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf)

    def their_loss() -> Tensor:
        out = qwen(input_ids=ids[:, :-1], position_ids=positions, attention_mask=mask)
        return F.cross_entropy(out.logits.flatten(0, 1), targets)

    work = f"the transformer of omni-small, {batch} × {CONTEXT} tokens of packed documents, float32, with AdamW"
    return Case("training step", work, "transformers: Qwen3ForCausalLM, a mask of documents", _learn(network, our_loss),
                _learn(qwen, their_loss), _alike)  # fmt: skip


def _learn(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step() -> float:
        value: Any = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def _alike(ours: float, theirs: float) -> str:
    """Ours has an embedding of places besides. Before training, both know nothing."""
    assert all(abs(loss - math.log(VOCABULARY)) < 1 for loss in (ours, theirs))
    return f"networks of their own; losses {ours:.2f} and {theirs:.2f}, ln {VOCABULARY:,} is {math.log(VOCABULARY):.2f}"
