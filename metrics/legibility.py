"""Whether the text in a picture can still be read: character error rate of optical character recognition."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from tokenloom import lazy

from .errors import Unmeasurable
from .image import pixels, prepare

rapidocr = lazy.load("rapidocr", "judges")
torchmetrics = lazy.load("torchmetrics", "judges")

QUIET = {
    "EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Global.log_level": "critical",
}  # fmt: skip


def text_error(
    reference: Tensor, output: Tensor, *, text: str | None, rounding: str, space: str, confidence: float
) -> float:
    """Return the character error rate of what RapidOCR reads in the output. It can exceed 1.

    Both texts are compared in lower case, with one space between words and lines.

    Args:
        reference: The original, float32 (3, height, width) in [0, 1].
        output: Its reconstruction.
        text: What the picture says; None: what is read in the original.
        rounding: As for all metrics of images.
        space: As for all metrics of images.
        confidence: Lines that are read with less are left out.

    Raises:
        Unmeasurable: If the picture says nothing.
    """
    said, heard = text, _line(read(prepare(output, rounding, space)[0], confidence))
    if said is None:
        said = read(prepare(reference, rounding, space)[0], confidence)
    if not (said := _line(said)):
        raise Unmeasurable("no text is read in the original")
    return float(torchmetrics.functional.text.char_error_rate([heard], [said]))


def read(x: Tensor, confidence: float) -> str:
    """Return the lines of text in an image (3, height, width) in [0, 1], from top to bottom."""
    levels = pixels(x)
    return _read(levels.tobytes(), levels.shape, confidence)


@functools.lru_cache(maxsize=64)  # the same original comes again with each setting
def _read(data: bytes, shape: tuple[int, ...], confidence: float) -> str:
    rgb = np.frombuffer(data, np.uint8).reshape(shape)
    found = _engine()(rgb[..., ::-1].copy())  # it takes BGR
    lines = zip(found.txts or (), found.scores or (), strict=True)
    return " ".join(line for line, score in lines if score >= confidence)


@functools.cache
def _engine() -> Any:
    return rapidocr.RapidOCR(params=QUIET)


def _line(text: str) -> str:
    return " ".join(text.casefold().split())
