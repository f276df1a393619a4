"""Types that all modules of this folder share. This module imports no other module of the folder."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenloom import lazy

display = lazy.load("tokenloom.codecs.display")  # it imports this module

MAX_PIXELS = 2**27
"""Largest image, in pixels. The limit bounds allocation on any input."""
MAX_SAMPLES = 2**28
"""Longest waveform, in samples per channel. The limit bounds allocation on any input."""


class BitstreamError(ValueError):
    """A container that is malformed, damaged, or written by a codec that is not available."""


class TargetError(ValueError):
    """A target that no setting of the codec reaches on this item."""


class Modality(StrEnum):
    """Kind of signal."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True)
class CodeSpec:
    """Description of a codec for rates, bitstreams, token streams and transformers."""

    modality: Modality
    codebook_sizes: tuple[int, ...]
    """Number of entries of each quantizer's codebook."""
    stride: tuple[int, ...]
    """Signal samples per code along each axis; () if the number of codes varies."""
    channels: int
    """3 for images, 1 or 2 for audio, 0 for text."""
    sample_rate: int | None = None
    """In Hz; None unless the modality is audio."""
    total: bool = True
    """Whether every index array within range decodes. False for the bytes of a file."""
    ordered: bool = False
    """Whether a prefix (of quantizers, or of 1-D tokens) decodes."""
    causal: bool = False
    """Whether the codec can be streamed exactly."""
    window: tuple[int, int] | None = None
    """Length and hop of a chunk in samples; None unless the codec splits audio into chunks."""

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of codes along each axis for a signal of `size` samples: ceil(size / stride) per chunk."""
        if self.window is None:
            return tuple(-(-n // s) for n, s in zip(size, self.stride, strict=True))
        return (sum(-(-n // self.stride[0]) for n in self.chunks(size[0])),)

    def chunks(self, samples: int) -> list[int]:
        """Return the length of each chunk of a waveform; one chunk if the codec has no window."""
        if self.window is None:
            return [samples]
        longest, hop = self.window
        return [min(longest, samples - start) for start in range(0, samples, hop)]


@dataclass(frozen=True, eq=False)
class Codes:
    """A batch of encoded signals: a sequence of batches of one. Tensors are contiguous.

    Codes are equal if all their tensors are, on any device, and then have the same hash. They can be pickled, saved
    with `torch.save`, loaded with `torch.load`, and collated by a DataLoader.

    Attributes:
        indices: int64 (batch, quantizers, *grid). −1 marks a quantizer that an item does not use. Only codecs with
            `spec.ordered` produce −1.
        sizes: int64 (batch, axes). Size of each signal before padding: height and width, samples, or UTF-8 bytes.
        lengths: int64 (batch,). Number of valid positions; None unless the codec's number of codes varies.
        side: Side information that decoding needs: float32 arrays, batch first, padded with NaN. Every rate includes
            its cost.
        spec: Spec of the codec that made the codes, if known. `repr` states their bits with it.
        origin: Weak reference to that codec, with which notebooks show what the codes decode to; not pickled.
    """

    indices: Tensor
    sizes: Tensor
    lengths: Tensor | None = None
    side: dict[str, Tensor] = field(default_factory=dict)
    spec: CodeSpec | None = None
    origin: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("indices", "sizes", "lengths"):
            if isinstance(value := getattr(self, name), Tensor):
                object.__setattr__(self, name, value.contiguous())

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __getitem__(self, item: int | slice) -> Codes:
        """Return one item, or a slice of items, as a batch. Raises IndexError beyond the batch."""
        if not isinstance(item, slice):
            item = range(len(self))[operator.index(item)]
            item = slice(item, item + 1)
        return self._map(lambda tensor: tensor[item])

    def __iter__(self) -> Iterator[Codes]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, Codes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[Any, ...]:
        """Return types, shapes and values as plain values. NaN equals NaN."""
        named = {"indices": self.indices, "sizes": self.sizes, "lengths": self.lengths, **self.side}
        tensors = [(name, value.detach().cpu()) for name, value in sorted(named.items()) if value is not None]
        return tuple((name, t.dtype, tuple(t.shape), t.contiguous().numpy().tobytes()) for name, t in tensors)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling, without the other items of a larger batch that share its memory."""
        return vars(self._map(torch.clone)) | {"origin": None}

    def made_by(self, codec: CodecInterface) -> Codes:
        """Return the same codes with `codec` as the one that made them."""
        return dataclasses.replace(self, spec=codec.spec, origin=weakref.ref(codec))

    @property
    def codec(self) -> Any:
        """The codec that made the codes, if it is known and still in memory; else None."""
        return None if self.origin is None else self.origin()

    def __repr__(self) -> str:
        return display.codes_line(self)

    def _repr_html_(self) -> str:
        return display.codes_html(self)

    def to(self, device: torch.device | str) -> Codes:
        """Return the same codes on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Codes:
        lengths = None if self.lengths is None else function(self.lengths)
        side = {name: function(value) for name, value in self.side.items()}
        return Codes(function(self.indices), function(self.sizes), lengths, side, self.spec, self.origin)

    def quantizers(self) -> Tensor:
        """Return the number of quantizers that each item uses, int64 (batch,)."""
        return (self.indices.flatten(2) >= 0).all(2).sum(1)


torch.serialization.add_safe_globals([Codes, CodeSpec, Modality])  # torch.load reads codes with weights_only


@dataclass(frozen=True)
class Settings:
    """Quality control of a codec: its allowed values, in the order of rising rate.

    Attributes:
        name: Name of the control; "" if the codec has none. The only value is then None.
        unit: Unit of the values.
        default: Value that `encode` uses if none is given.
        sweep: Values that `compare` measures, 1 to 8, lowest rate first.
        values: All allowed values, lowest rate first; () means the values of `sweep`.
    """

    name: str = ""
    unit: str = ""
    default: Any = None
    sweep: tuple[Any, ...] = (None,)
    values: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            object.__setattr__(self, "values", tuple(self.sweep))
        if not 1 <= len(self.sweep) <= 8:
            raise ValueError(f"a sweep must have 1 to 8 points, got {len(self.sweep)}")
        if stray := [v for v in (*self.sweep, self.default) if v not in self.values]:
            raise ValueError(f"{self.name} must be one of {self.values}, got {stray[0]}")

    def __contains__(self, value: Any) -> bool:
        return not isinstance(value, bool) and any(
            value is v or (v is not None and isinstance(value, int | float | str) and value == v) for v in self.values
        )

    def __len__(self) -> int:
        return len(self.values)

    def describe(self) -> str:
        """Return the allowed values as text."""
        if self.values == (None,):
            return "no setting"
        v = self.values
        numeric = all(isinstance(x, int | float) for x in v)
        steps: Iterable[float] = {round(b - a, 9) for a, b in itertools.pairwise(v)} if numeric else ()
        if len(v) > 8 and len(set(steps)) == 1:
            return f"{v[0]}, {v[1]}, …, {v[-1]}"
        return "(" + ", ".join(map(str, v)) + ")"


@dataclass(frozen=True)
class Target:
    """Quality or rate to reach, in place of a setting. Each item gets the setting that meets it best.

    Exactly one attribute must be given.

    Attributes:
        psnr: PSNR in dB of 8-bit RGB. Selects the lowest setting that reaches it.
        slope: dB per token. Selects the setting with the largest PSNR − slope · tokens. One slope for a whole set
            maximizes the set's mean PSNR at its number of tokens. A token of a file codec is a byte.
        bits_per_pixel: Container bits per pixel. Selects the highest setting that does not exceed it.
        kbps: Container rate in kbit/s. Selects the highest setting that does not exceed it.
    """

    psnr: float | None = None
    slope: float | None = None
    bits_per_pixel: float | None = None
    kbps: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in dataclasses.asdict(self).items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"a Target must have exactly one of psnr, slope, bits_per_pixel, kbps, got {given or 'none'}"
            )
        if not (isinstance(self.value, int | float) and math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"{self.name} of a Target must be a positive number, got {self.value}")

    @property
    def name(self) -> str:
        """Name of the given attribute."""
        return next(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    @property
    def value(self) -> float:
        """Value of the given attribute."""
        return getattr(self, self.name)

    def __str__(self) -> str:
        return f"Target({self.name}={self.value:g})"


class CodecInterface(ABC):
    """Interface that rates, bitstreams and targets use. `Codec` implements it."""

    name: str = ""
    """Registered name, "modality/kind"; or "my_codec.py:MyCodec" for a class of the user's file."""
    config: dict[str, Any]
    """Keyword arguments of the constructor, as plain values."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Those that are the path of a JSON file or its content. A checkpoint holds the content."""
    spec: CodeSpec
    settings: Settings = Settings()
    counts: Tensor | None
    """Uses of each entry in the training split, int64 (quantizers, entries); None if they were not counted."""
    context: Any
    """Context model, which predicts each code from earlier codes (see context.py); None if the codec has none."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device that the codec computes on."""

    @property
    @abstractmethod
    def fingerprint(self) -> bytes:
        """8 bytes that identify the name, the configuration and the weights."""

    @abstractmethod
    def encode(self, x: Tensor | list[str], setting: Any = None) -> Codes:
        """Encode a batch of signals."""

    @abstractmethod
    def decode(self, codes: Codes) -> Tensor | list[str]:
        """Decode a batch of codes."""

    @property
    def truncates(self) -> bool:
        """Whether `truncate` reduces codes of the highest setting to any lower setting."""
        return False

    def truncate(self, codes: Codes, setting: int) -> Codes:
        """Reduce codes of the highest setting to a lower setting, without the signal."""
        raise NotImplementedError(f"{self.name} does not truncate codes")

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each side array of one signal of `size`. Containers do not store shapes."""
        return {}

    def span(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the fewest and the most tokens of one signal of `size`; None if the bounds are unknown."""
        return None

    def pieces(self, size: tuple[int, ...]) -> int:
        """Return the number of parts of one signal of `size` that can have separate settings."""
        return 1

    def working_memory(self, size: tuple[int, ...]) -> int:
        """Return the bytes that decoding one signal of `size` takes besides the result (see memory.py)."""
        return 32 * self.spec.channels * math.prod(size)

    @abstractmethod
    def curve(self, x: Tensor) -> Any:
        """Return all candidate encodings of one image, a batch of one, as a `Curve` (see targets.py)."""

    def condition(self, side: dict[str, Tensor]) -> float:
        """Return the condition of the context model for one item. Raises ValueError for invalid side arrays."""
        return 0.0
