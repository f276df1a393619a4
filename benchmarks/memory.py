"""Measure the memory and the time of large signals through the command line, in processes of their own.

python -m benchmarks.memory --hours 3
python -m benchmarks.memory --picture 12000x9000
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
import skimage.data
import soundfile
from PIL import Image

RATE, SOUND_CODEC = 24_000, "digits-rvq"
PICTURE_CODECS = ("natural-fsq", "natural-ntc")
SMALL = (1024, 1024)


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


def write_picture(path: Path, width: int, height: int) -> None:
    """Write photographs side by side, each row of them shifted, as a PNG of 8 bits."""
    cat, astronaut = skimage.data.chelsea(), skimage.data.astronaut()
    row = np.concatenate([cat, astronaut[: len(cat)]], 1)
    across = np.tile(row, (1, -(-width // row.shape[1]) + 1, 1))
    rows = [across[:, shift : shift + width] for shift in range(0, row.shape[1], 61)]
    count = -(-height // len(row))
    picture = np.concatenate([rows[i % len(rows)] for i in range(count)])[:height]
    Image.fromarray(picture).save(path, compress_level=1)


def measure_sounds(folder: Path, hours: float) -> None:
    """Print the memory and the speed of a minute and of many hours."""
    sound, tokens, back = (str(folder / name) for name in ("sound.wav", "sound.tlm", "back.wav"))
    for name, seconds in (("a minute", 60), (f"{hours:g} hours", 3600 * hours)):
        write_sound(Path(sound), seconds)
        for command in (["encode", sound, "-c", SOUND_CODEC, "-o", tokens], ["decode", tokens, "-o", back]):
            memory, took = run(*command, "--force")
            speed = seconds / took
            print(f"{command[0]} {name}: {memory:,.0f} MiB, {took:,.0f} s, {speed:,.1f} times as fast as real time")


def measure_pictures(folder: Path, width: int, height: int) -> None:
    """Print the memory and the speed of a small picture and of a large one."""
    picture, tokens, back = (str(folder / name) for name in ("picture.png", "picture.tlm", "back.png"))
    for size in (SMALL, (width, height)):
        write_picture(Path(picture), *size)
        for codec in PICTURE_CODECS:
            for command in (["encode", picture, "-c", codec, "-o", tokens], ["decode", tokens, "-o", back]):
                memory, took = run(*command, "--force")
                name = f"{command[0]} {size[0]} x {size[1]} by {codec}"
                print(
                    f"{name}: {memory:,.0f} MiB, {took:,.0f} s, {math.prod(size) / took / 1e6:.2f} megapixels/s",
                    flush=True,
                )


def extent(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--hours", type=float, help="length of a sound")
    what.add_argument("--picture", type=extent, metavar="WIDTHxHEIGHT", help="size of a picture")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.picture is None:
            measure_sounds(Path(folder), given.hours)
        else:
            measure_pictures(Path(folder), *given.picture)


if __name__ == "__main__":
    main()
