"""What Python and notebooks show of codecs, codes and signals. The HTML holds all of its data and runs no script."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tokenloom import lazy
from tokenloom.errors import first_line

from . import media, rate
from .hub import Card, number
from .types import Codes, CodeSpec, Modality

soundfile = lazy.load("soundfile")

SHOWN = 4
"""Most items of a batch, and most quantizers of an item, that are shown."""
SIDE, SAMPLES, CHARACTERS = 256, 240_000, 1000
"""Longest side of a shown image in pixels, samples of a shown sound over all channels, and length of a shown text."""
DECODED = 2**21
"""Largest signal, in pixels or samples, that is decoded to be shown."""
MAP_SIDE = 128
"""Most rows and columns of the map of one quantizer."""
MAP_ROW = 64
"""Tokens in a row of a map, where the codec gives them no grid."""
LABEL = {Modality.IMAGE: "bits per pixel", Modality.AUDIO: "kbit/s"}


def codec_line(codec: Any) -> str:
    """Return a codec as one line: name, modality, rate, stride, parameters, fingerprint and license."""
    kind = type(codec).__name__
    if not isinstance(spec := getattr(codec, "spec", None), CodeSpec):  # its constructor has not set it yet
        return f"{kind}()"
    parts = [f"{codec.name}: {spec.modality}", _rate(spec)]
    parts += [f"stride {' x '.join(map(str, spec.stride))}"] if spec.stride else []
    parts.append(parameters(codec))
    if not any(value.is_meta for value in codec.state_dict().values() if isinstance(value, Tensor)):
        parts.append(f"fingerprint {codec.fingerprint.hex()}")
    return f"{kind}({', '.join([*parts, *license_of(codec)])})"


def license_of(model: Any) -> list[str]:
    """Return the license of a model's weights as text; nothing for a model without weights."""
    if next(model.parameters(), None) is None and model.license is None:
        return []
    return [f"license {model.license}" if model.license else "no license stated"]


def parameters(model: nn.Module) -> str:
    """Return the number of a model's parameters as text."""
    return f"{number(sum(p.numel() for p in model.parameters()))} parameters"


def _rate(spec: CodeSpec) -> str:
    """Return the nominal rate of all quantizers, in the unit of the modality."""
    if not spec.stride or spec.modality not in LABEL:
        return "rate varies"
    bits = rate.bits_per_position(spec.codebook_sizes) / math.prod(spec.stride)
    value = bits * (spec.sample_rate or 0) / 1000 if spec.modality is Modality.AUDIO else bits
    most = "up to " if spec.ordered and len(spec.codebook_sizes) > 1 else ""
    return f"{most}{value:.3g} {LABEL[spec.modality]} nominal"


def codes_line(codes: Codes) -> str:
    """Return codes as one line: shapes, sizes of the signals, and bits if the spec of their codec is known."""
    sizes = [" x ".join(map(str, size)) for size in codes.sizes[:SHOWN].tolist()]
    more = ", …" if len(codes) > SHOWN else ""
    parts = [f"indices {tuple(codes.indices.shape)}", f"sizes {', '.join(dict.fromkeys(sizes))}{more}"]
    parts += [f"{name} {tuple(value.shape)}" for name, value in codes.side.items()]
    if codes.lengths is not None:
        parts.append(f"lengths {', '.join(map(str, codes.lengths[:SHOWN].tolist()))}{more}")
    if codes.spec is not None:
        parts.append(f"{float(rate.nominal(codes.spec, codes).sum()):,.0f} bits nominal")
    return f"Codes({'; '.join(parts)})"


# -- HTML -----------------------------------------------------------------------------------------


def codes_html(codes: Codes) -> str:
    """Return a map of the tokens of each item, and the signal that its codec decodes from them."""
    rows = []
    for one in codes[:SHOWN]:
        codec = codes.codec
        signal = "" if codec is None else _decoded(codec, one)
        rows.append(f"<tr><td>{image(_map(one), 'map of the tokens')}</td><td>{signal}</td></tr>")
    more = f"<p>and {len(codes) - SHOWN} more</p>" if len(codes) > SHOWN else ""
    return f"<div><code>{html.escape(codes_line(codes))}</code><table>{''.join(rows)}</table>{more}</div>"


def _decoded(codec: Any, codes: Codes) -> str:
    if math.prod(codes.sizes[0].tolist()) > DECODED:
        return "too large to show"
    try:
        (signal,) = codec.decode(codes)
    except (ValueError, RuntimeError) as error:
        return html.escape(first_line(error))
    return signal_html(signal, codec.spec.sample_rate)


class Shown:
    """Signals that a notebook shows as pictures, players or texts; see `show`."""

    def __init__(self, signals: Sequence[Tensor | str], sample_rate: int | None) -> None:
        self.signals, self.sample_rate = signals, sample_rate

    def __repr__(self) -> str:
        first = self.signals[0]
        what = f"{len(first)} characters" if isinstance(first, str) else f"shape {tuple(first.shape)}"
        return f"Shown({len(self.signals)} of {what})"

    def _repr_html_(self) -> str:
        return "".join(f"<div>{signal_html(one, self.sample_rate)}</div>" for one in self.signals[:SHOWN])


def show(signal: Tensor | str | Sequence[str], sample_rate: int | None = None) -> Shown:
    """Show a signal, or the first signals of a batch, in a notebook.

    Args:
        signal: An image (3, height, width) or a batch of images in [0, 1]; with `sample_rate`, audio
            (channels, samples) or a batch of audio in [-1, 1]; or texts.
        sample_rate: Sample rate of audio in Hz.

    Raises:
        ValueError: If the signal has another type or shape.
    """
    if isinstance(signal, str):
        return Shown([signal], None)
    if not isinstance(signal, Tensor):
        if isinstance(signal, list | tuple) and signal and all(isinstance(one, str) for one in signal):
            return Shown(list(signal), None)
        raise ValueError(f"show takes a tensor or texts, got {type(signal).__name__}")
    axes = 3 if sample_rate is None else 2
    batch = signal[None] if signal.ndim == axes else signal
    if batch.ndim != axes + 1 or not batch.numel() or (axes == 3 and batch.shape[1] != 3):
        wanted = (
            "an image (3, height, width), or audio with sample_rate=…" if axes == 3 else "audio (channels, samples)"
        )
        raise ValueError(f"show takes {wanted}, got a tensor of shape {tuple(signal.shape)}")
    return Shown(list(batch), sample_rate)


def signal_html(signal: Tensor | str, sample_rate: int | None = None) -> str:
    """Return a picture, a player or a text as HTML. See `show` for the signals."""
    if isinstance(signal, str):
        cut = signal if len(signal) <= CHARACTERS else f"{signal[:CHARACTERS]}…"
        return f"<pre style='white-space: pre-wrap'>{html.escape(cut)}</pre>"
    signal = signal.detach().cpu().float()
    if signal.ndim == 3:
        if (factor := SIDE / max(signal.shape[1:])) < 1:
            size = [max(1, round(n * factor)) for n in signal.shape[1:]]
            signal = F.interpolate(signal[None], size, mode="area")[0]
        return image(Image.fromarray(media.to_uint8(signal).permute(1, 2, 0).numpy()), "picture")
    file, most = io.BytesIO(), SAMPLES // len(signal)
    soundfile.write(file, signal[:, :most].clamp(-1, 1).T.numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    note = f" the first {most / (sample_rate or 1):.3g} s" if most < signal.shape[1] else ""
    return f'<audio controls aria-label="sound" src="data:audio/flac;base64,{_encode(file)}"></audio>{note}'


def image(picture: Image.Image, label: str) -> str:
    """Return an image as an element that holds its data."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    enlarged = max(1, 192 // max(picture.size))
    size = f'width="{picture.width * enlarged}" height="{picture.height * enlarged}"'
    style = "image-rendering: pixelated" if enlarged > 1 else ""
    return f'<img alt="{html.escape(label)}" {size} style="{style}" src="data:image/png;base64,{_encode(file)}">'


def card_html(title: str, card: Card) -> str:
    """Return the facts of a model card as a table."""
    rows = "".join(
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='text-align: left'>{html.escape(value.replace('`', ''))}</td></tr>"
        for name, value in card.facts.items()
    )
    return f"<div><code>{html.escape(title)}</code><p>{html.escape(card.summary)}</p><table>{rows}</table></div>"


def table_html(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    start = f"<table><caption>{html.escape(caption)}</caption>"
    return f"{start}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _map(codes: Codes) -> Image.Image:
    """Draw the tokens of one item, the quantizers side by side, or one below another where the grid is a line."""
    indices = codes.indices[0, :SHOWN].cpu()
    if codes.lengths is not None:
        indices = indices[:, : int(codes.lengths[0])]
    elif codes.spec is not None and codes.spec.stride:
        indices = indices[(slice(None), *(slice(n) for n in codes.spec.grid(tuple(codes.sizes[0].tolist()))))]
    if indices.ndim == 2:
        rows = -(-indices.shape[1] // MAP_ROW)
        flat = F.pad(indices, (0, rows * MAP_ROW - indices.shape[1]), value=-1)[:, : MAP_ROW * MAP_SIDE]
        indices = flat.reshape(len(indices), -1, MAP_ROW).transpose(0, 1).flatten(0, 1)[None]
    tiles = [F.pad(tile[:MAP_SIDE, :MAP_SIDE], (0, 1), value=-1) for tile in indices]
    grid = torch.cat(tiles, 1)[:, :-1].numpy()
    grid = grid if grid.size else np.full((1, 1), -1)  # an empty text has no tokens
    hue = (grid * 0.61803399 % 1 * 255).astype("uint8")  # neighbors in the codebook get colors far apart
    value = np.where(grid < 0, 0, 200 + grid % 4 * 18).astype("uint8")
    return Image.fromarray(np.stack([hue, np.full_like(hue, 150), value], -1), "HSV").convert("RGB")


def _encode(file: io.BytesIO) -> str:
    return base64.b64encode(file.getvalue()).decode("ascii")
