"""What may come in: every check that stands between a user and a library's traceback."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .types import MAX_PIXELS, MAX_SAMPLES, CodecInterface, Codes, Modality

_SHAPES = {Modality.IMAGE: "(batch, 3, height, width)", Modality.AUDIO: "(batch, channels, samples)"}
_RANGES = {Modality.IMAGE: (0.0, 1.0), Modality.AUDIO: (-1.0, 1.0)}


def signal(x: Any, codec: CodecInterface) -> None:
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
        raise ValueError(
            f"{name} wants {spec.channels} channels, not {shape[1]} in {shape}; {hint} with channels={spec.channels}"
        )
    if 0 in shape[2:]:
        raise ValueError(f"{name} was given a signal without samples, {shape}; at least 1 is needed along each axis")
    if (count := math.prod(shape[2:])) > (most := limit(spec.modality)):
        raise ValueError(f"{name} takes at most {most} samples a signal, not {count} in {shape}; cut it into pieces")
    low, high = x.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError(f"{name} was given NaN or Inf; clean the signal with torch.nan_to_num")
    floor, ceiling = _RANGES[spec.modality]
    if low < floor or high > ceiling:
        raise ValueError(
            f"{name} wants values in [{floor:g}, {ceiling:g}], not [{low:.4g}, {high:.4g}]; scale or clamp the signal"
        )


def _text(x: Any, codec: CodecInterface) -> None:
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


def setting(value: Any, codec: CodecInterface) -> Any:
    """The setting to use: the default for None; ValueError outside `settings`."""
    settings = codec.settings
    if value is None:
        return settings.default
    if value not in settings:
        if settings.values == (None,):
            raise ValueError(f"{codec.name} has no setting, so {value!r} cannot be one")
        unit = f" {settings.unit}" if settings.unit and settings.unit != settings.name else ""
        label = settings.name or "setting"
        raise ValueError(f"{label} {value!r} of {codec.name} is none of {settings.describe()}{unit}")
    return next(v for v in settings.values if v == value)


def codes(given: Any, codec: CodecInterface) -> None:
    """Raise ValueError unless `given` are codes that `codec` can have made."""
    name, spec = codec.name, codec.spec
    if not isinstance(given, Codes):
        raise ValueError(f"{name} decodes Codes, not {type(given).__name__}; encode() gives them")
    _layout(given, codec)
    if spec.modality is not Modality.TEXT and int(given.sizes.min()) < 1:
        raise ValueError(f"{name} was given a size of {int(given.sizes.min())}; sizes are at least 1")
    largest = given.sizes.amax(0).tolist()
    if int(given.sizes.min()) < 0 or math.prod(largest) > limit(spec.modality):
        raise ValueError(
            f"{name} decodes 0 to {limit(spec.modality)} samples a signal; sizes here go from "
            f"{given.sizes.amin(0).tolist()} to {largest}"
        )
    if spec.stride:
        grid = tuple(given.indices.shape[2:])
        if grid != spec.grid(tuple(largest)):
            raise ValueError(
                f"{name} wants a grid of {spec.grid(tuple(largest))} for sizes up to {largest}, not {grid}"
            )
        if given.lengths is not None:
            raise ValueError(f"{name} takes no lengths: its sizes say how many codes a signal has")
    else:
        _lengths(given, codec)
    _indices(given, codec)
    _side(given, codec)


def _layout(given: Codes, codec: CodecInterface) -> None:
    """Types and ranks, before any arithmetic."""
    name, spec = codec.name, codec.spec
    for key, value in (("indices", given.indices), ("sizes", given.sizes)):
        if not isinstance(value, Tensor) or value.dtype != torch.int64:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} wants {key} as an int64 tensor, not {kind}")
    shape, rank = tuple(given.indices.shape), 2 + (len(spec.stride) or 1)
    axes = 2 if spec.modality is Modality.IMAGE else 1
    quantizers = len(spec.codebook_sizes)
    if len(shape) != rank or not (shape[1] == quantizers or (spec.ordered and 1 <= shape[1] <= quantizers)):
        raise ValueError(f"{name} wants indices (batch, {quantizers}, *grid) of rank {rank}, not {shape}")
    if shape[0] == 0:
        raise ValueError(f"{name} was given an empty batch of codes {shape}")
    if tuple(given.sizes.shape) != (shape[0], axes):
        raise ValueError(f"{name} wants sizes of shape ({shape[0]}, {axes}), not {tuple(given.sizes.shape)}")


def _indices(given: Codes, codec: CodecInterface) -> None:
    """Every index within its codebook; −1 only for whole quantizers, and none used behind one left out."""
    name, spec, indices = codec.name, codec.spec, given.indices
    for q, entries in enumerate(spec.codebook_sizes[: indices.shape[1]]):
        if not indices[:, q].numel():
            continue
        low, high = (int(bound) for bound in indices[:, q].aminmax())
        if low < (-1 if spec.ordered and q else 0) or high >= entries:
            raise ValueError(
                f"{name}: indices of quantizer {q} span {low} to {high}; its codebook has {entries} entries"
            )
    used = (indices >= 0).flatten(2)
    if spec.ordered and not torch.equal(used, used[..., :1].long().cumprod(1).bool().expand_as(used)):
        raise ValueError(f"{name}: −1 leaves out whole quantizers, the last ones of an item; here it leaves holes")


def _lengths(given: Codes, codec: CodecInterface) -> None:
    lengths, width = given.lengths, given.indices.shape[2]
    if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64 or tuple(lengths.shape) != (len(given),):
        raise ValueError(f"{codec.name} wants lengths (batch,) int64: its codes vary in length")
    if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > width):
        raise ValueError(
            f"{codec.name}: lengths span {int(lengths.min())} to {int(lengths.max())} of {width} positions"
        )
    for size, length in zip(given.sizes.tolist(), lengths.tolist(), strict=True):
        span = codec.span(tuple(size))
        if span and not span[0] <= length <= span[1]:
            raise ValueError(f"{codec.name} codes a signal of {size} in {span[0]} to {span[1]} tokens, not {length}")


def _side(given: Codes, codec: CodecInterface) -> None:
    wanted = codec.side_shapes(tuple(given.sizes.amax(0).tolist()))
    if set(wanted) != set(given.side):
        raise ValueError(f"{codec.name} wants side information {sorted(wanted)}, not {sorted(given.side)}")
    for key, shape in wanted.items():
        if tuple(given.side[key].shape) != (len(given), *shape):
            raise ValueError(
                f"{codec.name}: side {key!r} is {tuple(given.side[key].shape)}, wanted {(len(given), *shape)}"
            )


def is_integer(value: Any, low: int, high: int) -> bool:
    """Return whether `value` is an int from `low` to `high`. A bool is not an integer here."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def are_integers(values: Any, low: int, high: int, longest: int = 16) -> bool:
    """Return whether `values` is a list of 1 to `longest` such integers."""
    sized = isinstance(values, list | tuple) and 1 <= len(values) <= longest
    return sized and all(is_integer(value, low, high) for value in values)


def limit(modality: Modality) -> int:
    """Pixels of an image, samples per channel of a sound, bytes of a text."""
    return MAX_PIXELS if modality is Modality.IMAGE else MAX_SAMPLES
