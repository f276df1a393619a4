"""What a generated picture costs: tokens and seconds by how much there is to draw, seconds from a prompt on."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs.types import Modality

from .bench import Bench
from .packs import Missing, draw

CODED_SIZE = "WebP at quality 50"
PROMPT = "red heart"


def coded_size(pictures: Sequence[Tensor]) -> Tensor:
    """(pictures,) bytes of each as CODED_SIZE: what says how much there is to draw."""
    return codecs.load("image/webp").encode(torch.stack(list(pictures)), 50).lengths


def variable_length(bench: Bench) -> list[dict]:
    """Tokens and seconds of simple pictures, the lower half by coded size, against the rest.

    Each is asked for by its caption, one after the other, through the channel of variable length.
    """
    channel = next((n for n, c in bench.omni.vocabulary.channels.items() if varies(c.codec)), None)
    if channel is None:
        raise Missing("the model has no picture channel of variable length")
    pack = bench.packs["emoji64-train"]
    rows = draw(len(pack), min(bench.most or 100, 100), bench.seed)
    sizes = coded_size([pack.signals[i] for i in rows])
    simple = (sizes <= sizes.median()).tolist()
    bench.omni.generate([pack.captions[rows[0]]], to=channel, seed=0)  # what a first call sets up is not the picture's
    tokens: list[list[float]] = [[], []]
    seconds: list[list[float]] = [[], []]
    results = []
    for i in bench.track(rows, "variable length"):
        start = time.perf_counter()
        answer = bench.ask([[pack.captions[i]]], channel, "")[0]
        group = not simple[len(results)]
        seconds[group].append(time.perf_counter() - start)
        tokens[group].append(answer.tokens)
        results.append(answer)
    hits = bench.right(results, [pack.captions[i] for i in rows])
    about = {
        "channel": channel,
        "simple": f"{sum(simple)} of {len(rows)} training items, the lower half by {CODED_SIZE}",
        "right picture": sum(hits) / len(hits),
    }
    return [
        {
            "key": f"flexible_{what}",
            "title": f"variable length: {what} of simple pictures, as a share of the others'",
            "goal": "≤ 50 %",
            "value": (few := statistics.mean(values[0])) / (many := statistics.mean(values[1])),
            "reached": few <= 0.5 * many,
            "unit": "share",
            "n": len(rows),
            "detail": {f"mean {what}": f"{few:.{digits}f} against {many:.{digits}f}", **about},
        }
        for what, digits, values in (("tokens", 1, tokens), ("seconds", 3, seconds))
    ]


def varies(codec: codecs.Codec) -> bool:
    """Whether it is a picture codec that spends as many tokens as a picture needs."""
    return codec.spec.modality is Modality.IMAGE and not codec.spec.stride


def seconds(bench: Bench) -> list[dict]:
    """Prompt → picture on two threads: the median of warm calls, and whole cold processes of the command line."""
    with threads(min(2, os.cpu_count() or 1)) as count:
        bench.omni.generate([PROMPT], to="image", seed=0)
        warm = []
        for seed in bench.track(range(9), "prompt → picture, warm"):
            start = time.perf_counter()
            bench.omni.generate([PROMPT], to="image", seed=seed)
            warm.append(time.perf_counter() - start)
        cold = [_cold(bench, count) for _ in bench.track(range(2), "prompt → picture, cold")]
    load = f"{os.getloadavg()[0]:.1f}, this included"  # what else kept the machine busy
    where = {"threads": count, "cores": os.cpu_count(), "load of the machine": load}
    return [
        _seconds("warm_seconds", "prompt → picture, warm", 0.5, warm, where),
        _seconds("cold_seconds", "prompt → picture, a cold process", 6.0, cold, where),
    ]


def _seconds(key: str, title: str, goal: float, taken: list[float], where: dict) -> dict:
    value = statistics.median(taken)
    return {
        "key": key,
        "title": title,
        "goal": f"≤ {goal:g} s",
        "value": value,
        "reached": value <= goal,
        "unit": "s",
        "n": len(taken),
        "detail": {"seconds": f"{min(taken):.2f} to {max(taken):.2f}", **where},
    }


def _cold(bench: Bench, count: int) -> float:
    """Seconds of `tokenloom generate` from the start of the process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        command = [sys.executable, "-m", "tokenloom", "generate", PROMPT, "--to", "image", "-o", str(out)]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--model", bench.model], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(count)},
        )  # fmt: skip
        taken = time.perf_counter() - start
        if done.returncode or not out.is_file():
            raise ValueError(f"tokenloom generate failed: {(done.stderr.strip().splitlines() or ['no picture'])[-1]}")
    return taken


@contextmanager
def threads(count: int) -> Iterator[int]:
    """PyTorch on so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)
