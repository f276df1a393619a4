"""Checks of the input of a codec. They raise ValueError before invalid data reaches a library."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .types import MAX_PIXELS, MAX_SAMPLES, CodecInterface, Codes, Modality

SHAPES = {Modality.IMAGE: "(batch, 3, height, width)", Modality.AUDIO: "(batch, channels, samples)"}
RANGES = {Modality.IMAGE: (0.0, 1.0), Modality.AUDIO: (-1.0, 1.0)}


def signal(x: Any, codec: CodecInterface) -> None:
    """Raise ValueError unless `x` is a batch of signals that `codec` encodes."""
    spec, name = codec.spec, f"the input of {codec.name}"
    if spec.modality is Modality.TEXT:
        _check_text(x, name)
        return
    floor, ceiling = RANGES[spec.modality]
    form = f"float32 {SHAPES[spec.modality]} in [{floor:g}, {ceiling:g}]"
    hint = "codecs.read(path) makes one from a file"
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor {form}, got {type(x).__name__}; {hint}")
    shape, rank = tuple(x.shape), 4 if spec.modality is Modality.IMAGE else 3
    if x.ndim != rank:
        extra = "; add the batch axis with x[None]" if x.ndim == rank - 1 else ""
        raise ValueError(f"{name} must be {form}, got rank {x.ndim} {shape}{extra}")
    if x.dtype != torch.float32:
        scale = "x.float() / 255" if x.dtype == torch.uint8 else "x.float()"
        raise ValueError(f"{name} must be float32, got {x.dtype}; convert it with {scale}")
    if shape[0] == 0:
        raise ValueError(f"{name} must have at least 1 item, got an empty batch {shape}")
    if shape[1] != (channels := spec.channels):
        hint = f"{hint} with channels={channels}"
        raise ValueError(f"{name} must have {channels} channels, got {shape[1]} in {shape}; {hint}")
    if 0 in shape[2:]:
        raise ValueError(f"{name} must have at least 1 sample along each axis, got {shape}")
    if (count := math.prod(shape[2:])) > (most := limit(spec.modality)):
        raise ValueError(f"{name} must have at most {most} samples per item, got {count} in {shape}; cut it up")
    low, high = x.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError(f"{name} must be finite, got NaN or Inf; clean it with torch.nan_to_num")
    if low < floor or high > ceiling:
        raise ValueError(f"{name} must be in [{floor:g}, {ceiling:g}], got [{low:.4g}, {high:.4g}]; scale or clamp it")


def _check_text(x: Any, name: str) -> None:
    if isinstance(x, str) or not isinstance(x, list | tuple):
        raise ValueError(f"{name} must be a list of str, got {type(x).__name__}; a batch of one is [text]")
    if not x:
        raise ValueError(f"{name} must have at least 1 item, got an empty batch []")
    for item in x:
        if not isinstance(item, str):
            raise ValueError(f"{name} must be a list of str, got {type(item).__name__} ({item!r:.40}) in it")
        try:
            item.encode("utf-8")
        except UnicodeEncodeError as error:
            where = f"a lone surrogate at character {error.start} of {item!r:.40}"
            fix = "replace it with text.encode('utf-8', 'replace').decode()"
            raise ValueError(f"{name} must be valid Unicode, got {where}; {fix}") from error


def setting(value: Any, codec: CodecInterface) -> Any:
    """Return the setting; for None, the default. Raises ValueError if `settings` does not contain it."""
    settings = codec.settings
    if value is None:
        return settings.default
    if value not in settings:
        if settings.values == (None,):
            raise ValueError(f"{codec.name} has no setting, so setting must be None, got {value!r}")
        unit = f" {settings.unit}" if settings.unit and settings.unit != settings.name else ""
        label = settings.name or "setting"
        raise ValueError(f"{label} of {codec.name} must be one of {settings.describe()}{unit}, got {value!r}")
    return next(v for v in settings.values if v == value)


def codes(given: Any, codec: CodecInterface) -> None:
    """Raise ValueError unless these codes are valid for `codec`."""
    name, spec = codec.name, codec.spec
    if not isinstance(given, Codes):
        raise ValueError(f"the codes of {name} must be a Codes object, as encode() returns, got {type(given).__name__}")
    _check_layout(given, codec)
    smallest, largest = given.sizes.amin(0).tolist(), given.sizes.amax(0).tolist()
    least, most = int(spec.modality is not Modality.TEXT), limit(spec.modality)
    if min(smallest) < least or math.prod(largest) > most:
        raise ValueError(f"sizes of {name} must be {least} to {most} samples per item, got {smallest} to {largest}")
    if spec.stride:
        grid, expected = tuple(given.indices.shape[2:]), spec.grid(tuple(largest))
        if grid != expected:
            raise ValueError(f"the grid of {name} must be {expected} for sizes up to {largest}, got {grid}")
        if given.lengths is not None:
            raise ValueError(f"lengths of {name} must be None: its sizes determine the number of codes")
    else:
        _check_lengths(given, codec)
    _check_indices(given, codec)
    _check_side(given, codec)


def _check_layout(given: Codes, codec: CodecInterface) -> None:
    """Check types and ranks."""
    name, spec = codec.name, codec.spec
    for key, value in (("indices", given.indices), ("sizes", given.sizes)):
        if not isinstance(value, Tensor) or value.dtype != torch.int64:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{key} of {name} must be an int64 tensor, got {kind}")
    shape, rank = tuple(given.indices.shape), 2 + (len(spec.stride) or 1)
    axes = 2 if spec.modality is Modality.IMAGE else 1
    quantizers = len(spec.codebook_sizes)
    if len(shape) != rank or not (shape[1] == quantizers or (spec.ordered and 1 <= shape[1] <= quantizers)):
        raise ValueError(f"indices of {name} must be (batch, {quantizers}, *grid) of rank {rank}, got {shape}")
    if shape[0] == 0:
        raise ValueError(f"codes of {name} must have at least 1 item, got an empty batch {shape}")
    if tuple(given.sizes.shape) != (shape[0], axes):
        raise ValueError(f"sizes of {name} must have the shape ({shape[0]}, {axes}), got {tuple(given.sizes.shape)}")


def _check_indices(given: Codes, codec: CodecInterface) -> None:
    """Check that indices are in range, and that −1 marks all positions of an item's last quantizers."""
    name, spec, indices = codec.name, codec.spec, given.indices
    for q, entries in enumerate(spec.codebook_sizes[: indices.shape[1]]):
        if not indices[:, q].numel():
            continue
        low, high = (int(bound) for bound in indices[:, q].aminmax())
        if low < (-1 if spec.ordered and q else 0) or high >= entries:
            raise ValueError(f"indices of {name} must be below {entries} in quantizer {q}, got {low} to {high}")
    used = (indices >= 0).flatten(2)
    if spec.ordered and not torch.equal(used, used[..., :1].long().cumprod(1).bool().expand_as(used)):
        raise ValueError(f"indices of {name} must be −1 at all positions of an item's last quantizers, or at none")


def _check_lengths(given: Codes, codec: CodecInterface) -> None:
    name, lengths, width = codec.name, given.lengths, given.indices.shape[2]
    if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64 or tuple(lengths.shape) != (len(given),):
        raise ValueError(f"lengths of {name} must be int64 ({len(given)},), since its codes vary in length")
    if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > width):
        raise ValueError(f"lengths of {name} must be in 0 to {width}, got {int(lengths.min())} to {int(lengths.max())}")
    for size, length in zip(given.sizes.tolist(), lengths.tolist(), strict=True):
        span = codec.span(tuple(size))
        if span and not span[0] <= length <= span[1]:
            raise ValueError(f"a signal of size {size} must have {span[0]} to {span[1]} tokens of {name}, got {length}")


def _check_side(given: Codes, codec: CodecInterface) -> None:
    shapes = codec.side_shapes(tuple(given.sizes.amax(0).tolist()))
    if set(shapes) != set(given.side):
        raise ValueError(f"side information of {codec.name} must be {sorted(shapes)}, got {sorted(given.side)}")
    for key, shape in shapes.items():
        expected, found = (len(given), *shape), tuple(given.side[key].shape)
        if found != expected:
            raise ValueError(f"side information {key!r} of {codec.name} must have shape {expected}, got {found}")


def is_integer(value: Any, low: int, high: int) -> bool:
    """Return whether `value` is an int from `low` to `high`. A bool is not an integer here."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def require_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raise ValueError unless `value` is an int from `low` to `high`. The message calls it `name`."""
    if not is_integer(value, low, high):
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r:.80}")


def are_integers(values: Any, low: int, high: int, longest: int = 16) -> bool:
    """Return whether `values` is a list of 1 to `longest` integers from `low` to `high`."""
    sized = isinstance(values, list | tuple) and 1 <= len(values) <= longest
    return sized and all(is_integer(value, low, high) for value in values)


def limit(modality: Modality) -> int:
    """Return the largest size of a signal: pixels of an image, samples per channel, or bytes of a text."""
    return MAX_PIXELS if modality is Modality.IMAGE else MAX_SAMPLES
