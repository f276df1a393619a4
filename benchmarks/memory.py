"""Measure the memory and the time of long signals through the command line, in processes of their own.

python -m benchmarks.memory --hours 3
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE, CODEC = 24_000, "digits-rvq"


def run(*argv: str) -> tuple[float, float]:
    """Run a command. Return its peak memory in MiB and its seconds."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "tokenloom", *argv], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{argv} ended with status {os.waitstatus_to_exitcode(status)}")
    return used.ru_maxrss / 1024, time.monotonic() - began


def write_sound(path: Path, seconds: float) -> None:
    """Write noise that swells and fades, mono with 16 bits."""
    noise = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for second in range(math.ceil(seconds)):
            loudness = 0.1 + 0.09 * math.sin(second)
            file.write(noise.uniform(-loudness, loudness, RATE).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sound, tokens, back = (str(Path(folder, name)) for name in ("sound.wav", "sound.tlm", "back.wav"))
        for name, seconds in (("a minute", 60), (f"{given.hours:g} hours", 3600 * given.hours)):
            write_sound(Path(sound), seconds)
            for command in (["encode", sound, "-c", CODEC, "-o", tokens], ["decode", tokens, "-o", back]):
                memory, took = run(*command, "--force")
                speed = seconds / took
                print(f"{command[0]} {name}: {memory:,.0f} MiB, {took:,.0f} s, {speed:,.1f} times as fast as real time")


if __name__ == "__main__":
    main()
