"""What may come in: every check that stands between a user and a library's traceback."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import MAX_PIXELS, MAX_SAMPLES, Codec, Codes, Modality

_SHAPES = {Modality.IMAGE: "(batch, 3, height, width)", Modality.AUDIO: "(batch, channels, samples)"}
_RANGES = {Modality.IMAGE: (0.0, 1.0), Modality.AUDIO: (-1.0, 1.0)}


def signal(x: Any, codec: Codec) -> None:
    """Raise ValueError unless `x` is a batch of signals that `codec` takes."""
    if codec.spec.modality is Modality.TEXT:
        _text(x, codec)
        return
    spec, name = codec.spec, codec.name
    wanted = f"float32 {_SHAPES[spec.modality]} in [{_RANGES[spec.modality][0]:g}, {_RANGES[spec.modality][1]:g}]"
    hint = "codecs.read(path) makes one from a file"
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} encodes a tensor {wanted}, not {type(x).__name__}; {hint}")
    rank = 4 if spec.modality is Modality.IMAGE else 3
    shape = tuple(x.shape)
    if x.ndim != rank:
        extra = "; add the batch with x[None]" if x.ndim == rank - 1 else ""
        raise ValueError(f"{name} wants {wanted}, not rank {x.ndim} {shape}{extra}")
    if x.dtype != torch.float32:
        scale = "x.float() / 255" if x.dtype == torch.uint8 else "x.float()"
        raise ValueError(f"{name} wants float32, not {x.dtype}; convert with {scale}")
    if shape[0] == 0:
        raise ValueError(f"{name} was given an empty batch {shape}")
    if shape[1] != spec.channels:
        raise ValueError(f"{name} wants {spec.channels} channels, not {shape[1]} in {shape}; {hint} with channels={spec.channels}")
    if 0 in shape[2:]:
        raise ValueError(f"{name} was given a signal without samples, {shape}; at least 1 is needed along each axis")
    count, limit = math.prod(shape[2:]), _limit(spec.modality)
    if count > limit:
        raise ValueError(f"{name} takes at most {limit} samples a signal, not {count} in {shape}; cut it into pieces")
    low, high = x.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError(f"{name} was given NaN or Inf; clean the signal with torch.nan_to_num")
    floor, ceiling = _RANGES[spec.modality]
    if low < floor or high > ceiling:
        raise ValueError(f"{name} wants values in [{floor:g}, {ceiling:g}], not [{low:.4g}, {high:.4g}]; scale or clamp the signal")


def _text(x: Any, codec: Codec) -> None:
    if isinstance(x, str) or not isinstance(x, list | tuple):
        raise ValueError(f"{codec.name} encodes a list of str, not {type(x).__name__}; a batch of one is [text]")
    if not x:
        raise ValueError(f"{codec.name} was given an empty batch []")
    for item in x:
        if not isinstance(item, str):
            raise ValueError(f"{codec.name} encodes str, not {type(item).__name__} ({item!r:.40})")
        try:
            item.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{codec.name} was given a lone surrogate at character {error.start} of {item!r:.40}; "
                "replace it with text.encode('utf-8', 'replace').decode()"
            ) from error


def setting(value: Any, codec: Codec) -> Any:
    """The setting to use: the default for None; ValueError outside `settings`."""
    settings = codec.settings
    if value is None:
        return settings.default
    if value not in settings:
        unit = f" {settings.unit}" if settings.unit and settings.unit != settings.name else ""
        label = settings.name or "setting"
        raise ValueError(f"{label} {value!r} of {codec.name} is none of {settings.describe()}{unit}")
    return next(v for v in settings.values if v == value)


def codes(given: Any, codec: Codec) -> None:  # noqa: PLR0912 - one check a line
    """Raise ValueError unless `given` are codes that `codec` can have made."""
    name, spec = codec.name, codec.spec
    if not isinstance(given, Codes):
        raise ValueError(f"{name} decodes Codes, not {type(given).__name__}; encode() gives them")
    indices, sizes = given.indices, given.sizes
    axes = {Modality.IMAGE: 2, Modality.AUDIO: 1, Modality.TEXT: 1}[spec.modality]
    if indices.dtype != torch.int64 or sizes.dtype != torch.int64:
        raise ValueError(f"{name} wants int64 indices and sizes, not {indices.dtype} and {sizes.dtype}")
    if sizes.ndim != 2 or tuple(sizes.shape) != (indices.shape[0], axes):
        raise ValueError(f"{name} wants sizes of shape ({indices.shape[0]}, {axes}), not {tuple(sizes.shape)}")
    if indices.shape[0] == 0:
        raise ValueError(f"{name} was given an empty batch of codes {tuple(indices.shape)}")
    if spec.modality is not Modality.TEXT and int(sizes.min()) < 1:
        raise ValueError(f"{name} was given a size of {int(sizes.min())}; sizes are at least 1")
    if (count := int(sizes.double().prod(1).max())) > _limit(spec.modality):
        raise ValueError(f"{name} decodes at most {_limit(spec.modality)} samples a signal, not {count}")
    quantizers = len(spec.codebook_sizes)
    rank = 2 + (len(spec.stride) or 1)
    fits = indices.shape[1] == quantizers or (spec.ordered and 1 <= indices.shape[1] <= quantizers)
    if indices.ndim != rank or not fits:
        raise ValueError(f"{name} wants indices (batch, {quantizers}, *grid) of rank {rank}, not {tuple(indices.shape)}")
    if spec.stride:
        grid = spec.grid(tuple(sizes.amax(0).tolist()))
        if tuple(indices.shape[2:]) != grid:
            raise ValueError(f"{name} wants a grid of {grid} for sizes up to {sizes.amax(0).tolist()}, not {tuple(indices.shape[2:])}")
    else:
        _lengths(given, codec)
    for q, entries in enumerate(spec.codebook_sizes[: indices.shape[1]]):
        floor = -1 if spec.ordered and q else 0
        if indices[:, q].numel() and (int(indices[:, q].min()) < floor or int(indices[:, q].max()) >= entries):
            raise ValueError(
                f"{name}: indices of quantizer {q} span {int(indices[:, q].min())} to {int(indices[:, q].max())}; "
                f"its codebook has {entries} entries"
            )
    _side(given, codec)


def _lengths(given: Codes, codec: Codec) -> None:
    lengths, width = given.lengths, given.indices.shape[2]
    if lengths is None or lengths.dtype != torch.int64 or tuple(lengths.shape) != (len(given),):
        raise ValueError(f"{codec.name} wants lengths (batch,) int64: its codes vary in length")
    if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > width):
        raise ValueError(f"{codec.name}: lengths span {int(lengths.min())} to {int(lengths.max())} of {width} positions")


def _side(given: Codes, codec: Codec) -> None:
    wanted = codec.side_shapes(tuple(given.sizes.amax(0).tolist()))
    if set(wanted) != set(given.side):
        raise ValueError(f"{codec.name} wants side information {sorted(wanted)}, not {sorted(given.side)}")
    for key, shape in wanted.items():
        if tuple(given.side[key].shape) != (len(given), *shape):
            raise ValueError(f"{codec.name}: side {key!r} is {tuple(given.side[key].shape)}, wanted {(len(given), *shape)}")


def _limit(modality: Modality) -> int:
    return MAX_PIXELS if modality is Modality.IMAGE else MAX_SAMPLES

