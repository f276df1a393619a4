"""Small tar shards of captioned pictures and sounds."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tokenloom.codecs import media
from tokenloom.data.documents.kinds import DIGITS


def flac(samples: np.ndarray, rate: int = 8000) -> bytes:
    waveform = torch.from_numpy(np.atleast_2d(samples).astype(np.float32))
    return media.encode_audio(waveform, rate, format="FLAC", subtype="PCM_16")


def write_tar(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


FIGURES = ("waving hand", "raised fist", "thumbs up")
TONES = (None, "light", "medium", "dark")
RATE = 8000


def toned(figure: str, tone: str | None) -> str:
    return f"{figure} {tone} skin tone" if tone else figure


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels (height, width, 3) in [0, 1] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_packs(
    folder: Path, side: int = 32, samples: int = 120, names: tuple[str, str] = ("emoji.tar", "digits.tar")
) -> Path:
    """Write two captioned tar shards: 12 pictures with skin tones, a heart and 10 keycaps; two sounds of each digit."""
    captions = [toned(figure, tone) for figure in FIGURES for tone in TONES]
    captions += ["red heart", *(f"keycap {digit}" for digit in range(10))]
    files = {}
    for i, caption in enumerate(captions):
        y, x = np.mgrid[:side, :side] / side
        rng = np.random.default_rng(i)
        across, down, radius, *color = rng.uniform(0.3, 0.7, 6)
        disc = ((x - across) ** 2 + (y - down) ** 2 < radius**2 / 4)[..., None]
        files[f"e{i:02d}.png"] = png(np.where(disc, color, 1.0))
        files[f"e{i:02d}.txt"] = caption.encode()
    write_tar(folder / names[0], files)
    t = np.arange(samples) / RATE
    sounds = {}
    for i in range(20):
        sounds[f"d{i:02d}.flac"] = flac(0.4 * np.sin(2 * np.pi * (200 + 90 * (i % 10) + 20 * (i // 10)) * t), RATE)
        sounds[f"d{i:02d}.txt"] = DIGITS[i % 10].encode()
    write_tar(folder / names[1], sounds)
    return folder
