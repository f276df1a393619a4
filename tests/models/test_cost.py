"""The cost of a transformer against the network itself, and the tables of docs/scale.md against the cost."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest
import torch
from support.recipes import omni_on_meta
from support.tree import ROOT
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenloom.models.cost import CAST_BYTES, TransformerCost
from tokenloom.models.transformer import Transformer

PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")
SIZES = {"small": 6_654_208, "medium": 110e6, "large": 1.3e9}
TINY = {"vocabulary": 101, "places": 7, "width": 192, "layers": 2, "heads": 6, "kv_heads": 2, "context": 256}
PEAK = 989e12
"""FLOP/s of an H100 or H200 SXM in bfloat16, without sparsity."""
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second from memory."""
NETWORK = {"NVLink": 450e9, "400 Gbit/s": 50e9}
"""Bytes a second to one GPU inside a machine, and between machines."""
IMAGENET = 300 * 1_281_167 * 256
"""Tokens of 300 epochs of ImageNet."""


def cost(name: str) -> TransformerCost:
    return TransformerCost(**omni_on_meta(name).transformer.config)


def inputs(n: int) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.zeros(1, n, dtype=torch.int64)
    return ids, {"places": ids, "documents": torch.ones_like(ids)}


# -- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_are_what_their_names_say(name):
    network = omni_on_meta(name).transformer
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert cost(name).parameters == sum(p.numel() for p in network.parameters())
    assert cost(name).parameters == pytest.approx(SIZES[name], rel=0.05)


def test_large_takes_no_memory_and_little_time_on_meta():
    config = omni_on_meta("large").transformer.config
    start = time.process_time()
    with torch.device("meta"):
        network = Transformer(**config)
        cache = network.new_cache(2)
    assert time.process_time() - start < 3
    assert cache.keys.is_meta and network.cos.is_meta


@pytest.mark.parametrize("n", [2, 100, 256])  # one id takes a fused kernel, which PyTorch does not count
def test_flops_are_those_that_pytorch_counts(n):
    network = Transformer(**TINY)
    ids, more = inputs(n)
    with FlopCounterMode(display=False) as counter:
        logits = network.logits(network(ids, **more))
    expected = TransformerCost(**network.config)
    assert counter.get_total_flops() == n * expected.forward_flops(n)
    with FlopCounterMode(display=False) as counter:
        network.logits(network(ids, **more)).sum().backward()
    assert counter.get_total_flops() == n * expected.training_flops(n)
    assert logits.shape == (1, n, TINY["vocabulary"])


@pytest.mark.parametrize("name", SIZES)
def test_the_cache_has_the_bytes_of_its_tensors(name):
    network = omni_on_meta(name).transformer
    cache = network.new_cache(1)
    tensors = (cache.keys, cache.values)
    assert cost(name).cache_bytes() == sum(t.nbytes for t in tensors)
    assert cost(name).cache_bytes(10, itemsize=2) == sum(t[..., :10, :].bfloat16().nbytes for t in tensors)


def test_activations_are_what_autograd_saves():
    """On a CPU attention is not a fused kernel. It saves its scores, quadratic in n, but repeats no keys and values.

    Three lengths tell the part that is linear in n from casts of weights, which are constant, and from scores.
    """
    network = Transformer(**TINY)
    saved = []
    for n in (64, 128, 192):
        storages, (ids, more) = {}, inputs(n)

        def pack(tensor: Tensor, storages: dict = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            network(ids, **more)
        saved.append(sum(t.untyped_storage().nbytes() for t in storages.values()))
    _, linear, constant = np.polyfit((64, 128, 192), saved, 2)
    expected = TransformerCost(**network.config)
    keys = expected.kv_heads * expected.head_dim
    unfused = 2 * (expected.width - 2 * keys)  # fewer outputs, but the whole projections for keys and values
    ends = 8 * expected.width  # the norms of the embedding and of the last layer
    assert linear == pytest.approx(expected.activation_bytes - expected.layers * unfused + ends, rel=0.01)
    rotations = 2 * 4 * expected.context * expected.head_dim
    casts = CAST_BYTES * (expected.matrices - expected.width * expected.vocabulary)  # the logits are not computed
    assert constant == pytest.approx(casts + rotations, rel=0.01)


def test_training_memory_is_divided_as_fsdp_divides_it():
    """test_fsdp.py shows that weights, gradients, moments and average are sharded, each in float32."""
    large = cost("large")
    assert large.state_bytes(8) * 8 == pytest.approx(large.parameters * 4 * 5)
    alone, parted = large.pass_bytes(4096), large.pass_bytes(4096, accumulate=True)
    assert parted - alone == 4 * large.parameters
    assert large.pass_bytes(8192) - alone == 4096 * (large.activation_bytes + 8 * large.vocabulary)


# -- docs/scale.md --------------------------------------------------------------------------------


def table(*rows: tuple[object, ...]) -> str:
    """Return a table in Markdown. The first row is its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]).replace("|  |", "| |")


def gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def size_table() -> str:
    costs = {name: cost(name) for name in SIZES}

    def row(title: str, value) -> tuple[object, ...]:
        return title, *(value(c) for c in costs.values())

    return table(
        ("", *(f"`omni={name}`" for name in costs)),
        row("width, layers", lambda c: f"{c.width:,}, {c.layers}"),
        row("heads, of keys and values", lambda c: f"{c.heads}, {c.kv_heads}"),
        row("context", lambda c: f"{c.context:,}"),
        row("ids in the vocabulary", lambda c: f"{c.vocabulary:,}"),
        row("parameters", lambda c: f"{c.parameters:,}"),
        row("GFLOPs a token, forward", lambda c: f"{c.forward_flops() / 1e9:.3g}"),
        row("GFLOPs a token, training", lambda c: f"{c.training_flops() / 1e9:.3g}"),
        row("KV cache of a token, float32", lambda c: f"{c.cache_bytes(1) / 1024:.0f} KiB"),
        row("KV cache of the context, float32", lambda c: f"{c.cache_bytes() / 2**20:.1f} MiB"),
        row("weights, float32", lambda c: gb(4 * c.parameters)),
        row("training state", lambda c: gb(c.state_bytes())),
        row("activations of a token", lambda c: f"{c.activation_bytes / 1e3:,.0f} kB"),
    )


def token_table() -> str:
    vocabulary = omni_on_meta("large").vocabulary
    header = {name: len(vocabulary.header(name, size)) for name, size in
              (("pictures", (256, 256)), ("speech", (240_000,)))}  # fmt: skip
    picture, (second, ten) = (
        vocabulary.layout("pictures").count((256, 256))[1],
        (vocabulary.layout("speech").count((n,))[1] for n in (24_000, 240_000)),
    )
    return table(
        ("signal", "codes", "ids with BEGIN and sizes"),
        ("picture of 256 × 256, stride 16", picture, picture + header["pictures"]),
        ("second of speech at 24 kHz, 75 frames of 4 codes", second, second + header["speech"]),
        ("10 seconds of speech", f"{ten:,}", f"{ten + header['speech']:,}"),
    )


def run_table() -> str:
    def row(name: str, what: str, tokens: float) -> tuple[object, ...]:
        flops = tokens * cost(name).training_flops()
        hours = [flops / (share * PEAK) / 3600 for share in (0.4, 0.2)]
        wall = [f"{hours[0] / gpus:.2g}" for gpus in (8, 64)]
        return name, what, f"{tokens / 1e9:.3g}", f"{flops:.2e}", *(f"{h:,.1f}" for h in hours), *wall

    twenty = {name: 20 * cost(name).parameters for name in ("medium", "large")}
    speech = 60_000 * 3600 * 300
    return table(
        ("model", "run", "tokens, billions", "FLOPs", "GPU hours at 40 %", "at 20 %", "hours on 8 GPUs", "on 64"),
        row("medium", "20 tokens per parameter", twenty["medium"]),
        row("medium", "ImageNet, 300 epochs", IMAGENET),
        row("large", "20 tokens per parameter", twenty["large"]),
        row("large", "ImageNet, 300 epochs", IMAGENET),
        row("large", "60,000 hours of speech, one epoch", speech),
    )


def sampling_table() -> str:
    rows = []
    for name in ("medium", "large"):
        c = cost(name)
        for gpu, speed in BANDWIDTH.items():
            # 256 passes of two rows, for guidance; on average the cache holds half of the picture
            wide, narrow = (256 * (b * c.matrices + c.cache_bytes(256, itemsize=b)) / speed for b in (4, 2))
            launches = 256 * 40 * c.layers * 5e-6
            second = (300 * 4 * c.matrices) / speed
            rows.append((name, gpu, f"{wide:.2g} s", f"{narrow:.2g} s", f"{launches:.2g} s", f"{second:.2g} s"))
    head = "model", "GPU", "picture, float32", "picture, bfloat16", "launches of a picture", "second of speech, float32"
    return table(head, *rows)


PLANS = {
    "medium, 8 GPUs": ("medium", 8, "ddp", 256, 1),
    "large, 8 GPUs": ("large", 8, "fsdp", 256, 8),
    "large, 64 GPUs": ("large", 64, "fsdp", 256, 1),
}
"""Plan → model, GPUs, strategy, sequences in a batch, parts of a batch."""


def plan_table() -> str:
    columns = []
    for name, gpus, strategy, batch, parts in PLANS.values():
        c = cost(name)
        sequences = batch // gpus // parts
        ids = sequences * c.context
        state = c.state_bytes(gpus if strategy == "fsdp" else 1)
        work = c.pass_bytes(ids, accumulate=parts > 1)
        compute = ids * c.training_flops() / (0.4 * PEAK)
        moved = [f"{c.gathered_bytes / speed:.2f} s" if strategy == "fsdp" else "–" for speed in NETWORK.values()]
        columns.append((
            f"`{strategy}`", f"{batch} × {c.context:,}", f"{batch * c.context / 1e6:.2f} million", parts, sequences,
            f"{20 * c.parameters / batch / c.context:,.0f}", gb(state), gb(work), gb(state + work), f"{compute:.2f} s",
            *moved,
        ))  # fmt: skip
    titles = (
        "`strategy`", "`batch_size` × context", "tokens a step", "`accumulate`", "sequences a part and GPU",
        "steps for 20 tokens per parameter", "state on a GPU", "passes on a GPU", "together",
        "computing a part, at 40 %", "gathering for a part, NVLink", "gathering for a part, 400 Gbit/s",
    )  # fmt: skip
    return table(("", *PLANS), *zip(titles, *columns, strict=True))


@pytest.mark.parametrize("made", [size_table, token_table, run_table, sampling_table, plan_table])
def test_a_table_of_the_page_is_what_the_cost_says(made):
    assert made() in PAGE, f"docs/scale.md must hold this table:\n{made()}"


def test_the_measured_rates_are_those_of_their_flops():
    small = cost("small")
    for pass_name, flops in (("forward", small.forward_flops()), ("forward and backward", small.training_flops())):
        ((tokens, rate),) = re.findall(rf"^\| {pass_name} \| ([\d,]+) \| ([\d.]+) \|", PAGE, re.MULTILINE)
        assert int(tokens.replace(",", "")) * flops / 1e9 == pytest.approx(float(rate), rel=0.005)


def test_the_sums_of_the_text():
    """What docs/scale.md says of `large` outside its tables."""
    large, pictures = cost("large"), 1_281_167
    attention = 1 - 2 * large.matrices / large.forward_flops()
    host = 8 * 2 * 4 * large.parameters
    cached = 8 * 4 * pictures * 256 + 8 * 4 * 8 * pictures * 261  # the tokens in 8 processes, the ids in 32 workers
    for said in (
        f"{attention:.0%} of the FLOPs".replace("%", " %"), f"at least {host / 1e9:.0f} GB",
        f"takes {16 * large.parameters / 1e9:.0f} GB", f"needs {gb(large.state_bytes())} of state",
        f"room for {large.context // 263} pictures", f"or {(large.context - 6) // 300} seconds",
        f"about {round(cached / 1e9, -1):.0f} GB on a machine",
        f"takes {round(pictures * 3.488 / 3600, -1):,.0f} core hours",
    ):  # fmt: skip
        assert said in " ".join(PAGE.split()), said


def test_the_commands_of_the_page_are_the_plans():
    """A batch divides among GPUs and parts, and each command names the numbers of its plan."""
    commands = re.findall(r"^torchrun [^`]*?(?=\n\n|\n`)", PAGE, re.MULTILINE)
    assert len(commands) == len(PLANS)
    for (name, gpus, strategy, batch, parts), command in zip(PLANS.values(), commands, strict=True):
        machines, processes = re.findall(r"--nnodes (\d+)", command), re.findall(r"--nproc-per-node (\d+)", command)
        assert math.prod(map(int, machines + processes)) == gpus
        wanted = {f"omni={name}", f"strategy={strategy}", f"batch_size={batch}", f"accumulate={parts}"}
        assert wanted <= {*command.split()}
        assert batch % (gpus * parts) == 0
        (steps,) = re.findall(r" steps=(\d+)", command)
        assert int(steps) * batch * cost(name).context == pytest.approx(20 * cost(name).parameters, rel=0.02)
