"""Cost of generated pictures: tokens and seconds by complexity, and seconds from the prompt."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tokenloom import codecs, threads
from tokenloom.codecs.types import Modality

from .packs import Missing
from .records import OmniRecord, share
from .session import Answer, OmniSession, track

COMPLEXITY = "WebP at quality 50"
"""File format whose size measures the complexity of a picture."""
PROMPT = "red heart"


def coded_size(pictures: Sequence[Tensor]) -> Tensor:
    """Return the bytes of each picture in the format COMPLEXITY, (pictures,)."""
    return codecs.load("image/webp").encode(torch.stack(list(pictures)), 50).lengths


def variable_length(session: OmniSession) -> list[OmniRecord]:
    """Measure tokens and seconds of simple pictures, the half with smaller files, relative to the others.

    Pictures are generated one at a time from their captions, with the channel of variable length.
    """
    channel = next((n for n, c in session.omni.vocabulary.channels.items() if varies(c.codec)), None)
    if channel is None:
        raise Missing("the model has no picture channel of variable length")
    pack = session.packs["emoji64-train"]
    rows = session.draw(len(pack), session.at_most(100))
    sizes = coded_size([pack.signals[i] for i in rows])
    simple = (sizes <= sizes.median()).tolist()
    session.omni.generate([pack.captions[rows[0]]], to=channel, seed=0)  # warm-up
    answers, seconds = _generate(session, [pack.captions[i] for i in rows], channel)
    hits = session.images.hits([answer.result for answer in answers], [pack.captions[i] for i in rows])
    about = {
        "channel": channel,
        "simple": f"{sum(simple)} of {len(rows)} training items, the lower half by {COMPLEXITY}",
        "right picture": share(hits),
    }
    tokens = [float(answer.tokens) for answer in answers]
    records = []
    for name, digits, values in (("tokens", 1, tokens), ("seconds", 3, seconds)):
        few = statistics.mean(v for v, is_simple in zip(values, simple, strict=True) if is_simple)
        many = statistics.mean(v for v, is_simple in zip(values, simple, strict=True) if not is_simple)
        records.append(
            OmniRecord(
                key=f"flexible_{name}",
                title=f"variable length: {name} of simple pictures, as a share of the others'",
                goal="≤ 50 %",
                value=few / many,
                unit="share",
                n=len(rows),
                reached=few <= 0.5 * many,
                detail={f"mean {name}": f"{few:.{digits}f} against {many:.{digits}f}", **about},
                trained=True,
            )
        )
    return records


def _generate(session: OmniSession, captions: Sequence[str], channel: str) -> tuple[list[Answer], list[float]]:
    """Return the answers to captions, and their seconds."""
    answers, seconds = [], []
    for caption in track(captions, "variable length", "pictures"):
        start = time.perf_counter()
        answers += session.ask([[caption]], channel)
        seconds.append(time.perf_counter() - start)
    return answers, seconds


def varies(codec: codecs.Codec) -> bool:
    """Return whether a codec is for pictures with a variable number of tokens."""
    return codec.spec.modality is Modality.IMAGE and not codec.spec.stride


def seconds(session: OmniSession) -> list[OmniRecord]:
    """Measure the seconds from prompt to picture on two threads, of warm calls and of cold processes."""
    count = min(2, os.cpu_count() or 1)
    with threads.limit(count):
        session.omni.generate([PROMPT], to="image", seed=0)
        warm = []
        for seed in track(range(9), "prompt → picture, warm", "calls"):
            start = time.perf_counter()
            session.omni.generate([PROMPT], to="image", seed=seed)  # waits for the device
            warm.append(time.perf_counter() - start)
        cold = [_cold(session, count) for _ in track(range(2), "prompt → picture, cold", "processes")]
    load = f"{os.getloadavg()[0]:.1f}, this included"  # a high load explains slow results
    about = {"threads": count, "cores": os.cpu_count(), "load of the machine": load}
    return [
        _seconds("warm_seconds", "prompt → picture, warm", 0.5, warm, about),
        _seconds("cold_seconds", "prompt → picture, a cold process", 6.0, cold, about),
    ]


def _seconds(key: str, title: str, goal: float, taken: list[float], about: dict) -> OmniRecord:
    value = statistics.median(taken)
    detail = {"seconds": f"{min(taken):.2f} to {max(taken):.2f}", **about}
    return OmniRecord(key=key, title=title, goal=f"≤ {goal:g} s", value=value, unit="s", n=len(taken),
                      reached=value <= goal, detail=detail, trained=True)  # fmt: skip


def _cold(session: OmniSession, count: int) -> float:
    """Return the seconds of a whole process `tokenloom generate`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        command = [sys.executable, "-m", "tokenloom", "generate", PROMPT, "--to", "image", "-o", str(out)]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--model", session.model, "--device", str(session.omni.device)], capture_output=True, text=True,
            check=False, env={**os.environ, "OMP_NUM_THREADS": str(count)},
        )  # fmt: skip
        taken = time.perf_counter() - start
        if done.returncode or not out.is_file():
            raise ValueError(f"tokenloom generate failed: {(done.stderr.strip().splitlines() or ['no picture'])[-1]}")
    return taken
