"""The one interface: what a codec is, what its codes are, and what it promises."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from abc import ABC
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .hub import Card, Pretrained

if TYPE_CHECKING:
    from .context import ContextModel
    from .targets import Curve

MAX_PIXELS = 2**26
"""Images of more pixels are refused: allocation stays bounded on any input."""
MAX_SAMPLES = 2**28
"""Waveforms of more samples per channel are refused, for the same reason."""


class BitstreamError(ValueError):
    """Bytes that are no container of ours, or damaged, or of a codec that is not at hand."""


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True)
class CodeSpec:
    """All that rates, bitstreams, token streams and a transformer need to know of a codec."""

    modality: Modality
    codebook_sizes: tuple[int, ...]
    """Entries of each quantizer's codebook."""
    stride: tuple[int, ...]
    """Signal samples per code along each axis; () where lengths vary."""
    channels: int
    """3 for images, 1 or 2 for audio, 0 for text."""
    sample_rate: int | None
    """Hz; None for what is not audio."""
    total: bool
    """Every index array within range decodes (not so for the bytes of a file)."""
    ordered: bool
    """A prefix (of quantizers, or of one-dimensional tokens) decodes."""
    causal: bool
    """Can be streamed exactly."""
    window: tuple[int, int] | None = None
    """Sounds that are coded in chunks: samples of one, and from the beginning of one to that of the next."""

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Codes along each axis for a signal of `size` samples: ceil(size / stride), of each chunk if it has some."""
        if self.window is None:
            return tuple(-(-n // s) for n, s in zip(size, self.stride, strict=True))
        return (sum(-(-n // self.stride[0]) for n in self.chunks(size[0])),)

    def chunks(self, samples: int) -> list[int]:
        """Samples of each chunk of a sound; the whole where it is not coded in chunks."""
        if self.window is None:
            return [samples]
        longest, hop = self.window
        return [min(longest, samples - start) for start in range(0, samples, hop)]


@dataclass(frozen=True)
class Codes:
    """A batch of encoded signals.

    indices  (batch, quantizers, *grid) int64; −1 where an item uses fewer quantizers than the
             widest of its batch (only codecs with `spec.ordered`)
    sizes    (batch, axes) int64: each signal's own size before padding: height and width,
             samples, or bytes of UTF-8
    lengths  (batch,) int64: valid positions, for codecs whose lengths vary; None otherwise
    side     what else decoding needs, float32 with the batch first, NaN where an item has less of it than its
             batch; priced in every rate
    """

    indices: Tensor
    sizes: Tensor
    lengths: Tensor | None = None
    side: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __getitem__(self, item: int | slice) -> Codes:
        """One item (or a slice of them), still as a batch."""
        rows = slice(item, item + 1 or None) if isinstance(item, int) else item
        return Codes(
            self.indices[rows],
            self.sizes[rows],
            None if self.lengths is None else self.lengths[rows],
            {name: value[rows] for name, value in self.side.items()},
        )

    def to(self, device: torch.device | str) -> Codes:
        return Codes(
            self.indices.to(device),
            self.sizes.to(device),
            None if self.lengths is None else self.lengths.to(device),
            {name: value.to(device) for name, value in self.side.items()},
        )

    def quantizers(self) -> Tensor:
        """(batch,) int64: how many quantizers each item uses."""
        return (self.indices.flatten(2) >= 0).all(2).sum(1)


@dataclass(frozen=True)
class Settings:
    """The one dial of a codec: which values it takes, in the order of rising rate.

    values  every value allowed, lowest rate first; () means: those of `sweep`
    A codec without a dial has the one value None.
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
            raise ValueError(f"a sweep has 1 to 8 points, not {len(self.sweep)}")
        if stray := [v for v in (*self.sweep, self.default) if v not in self.values]:
            raise ValueError(f"{self.name}: {stray[0]} is none of its values {self.values}")

    def __contains__(self, value: Any) -> bool:
        return not isinstance(value, bool) and any(
            value is v or (v is not None and isinstance(value, int | float | str) and value == v) for v in self.values
        )

    def __len__(self) -> int:
        return len(self.values)

    def describe(self) -> str:
        """The allowed values as a person writes them."""
        if self.values == (None,):
            return "no setting at all"
        v = self.values
        steps = (
            {round(b - a, 9) for a, b in itertools.pairwise(v)} if all(isinstance(x, int | float) for x in v) else ()
        )
        if len(v) > 8 and len(steps) == 1:
            return f"{v[0]}, {v[1]}, …, {v[-1]}"
        return "(" + ", ".join(map(str, v)) + ")"


@dataclass(frozen=True)
class Target:
    """A goal in place of a setting; each item gets the setting that reaches it best.

    psnr            dB, of 8-bit rounded RGB: the lowest setting that reaches it
    slope           dB per token: the setting of largest PSNR − slope · tokens, which is where one more
                    token stops to gain that much. The same slope for all pictures of a set gives the
                    set the highest mean PSNR for its tokens; tokens are bytes in codecs of files
    bits_per_pixel  bits of the whole container per pixel: the highest setting within it
    kbps            kbit/s of the whole container: the highest setting within it
    """

    psnr: float | None = None
    slope: float | None = None
    bits_per_pixel: float | None = None
    kbps: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in dataclasses.asdict(self).items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"a Target names exactly one of psnr, slope, bits_per_pixel, kbps, not {given or 'none'}")
        if not (isinstance(self.value, int | float) and math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"Target({self.name}={self.value}) is not a positive number")

    @property
    def name(self) -> str:
        return next(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    @property
    def value(self) -> float:
        return getattr(self, self.name)

    def __str__(self) -> str:
        return f"Target({self.name}={self.value:g})"


class TargetError(ValueError):
    """A target that no setting of the codec reaches on this item."""


class Codec(Pretrained, nn.Module, ABC):
    """Signal ↔ integers ↔ bytes.

    A codec sets `spec` and `settings` (on the class or in its constructor) and implements
    `_encode(x, setting)` and `_decode(codes)`, which see validated input only; validation,
    targets and containers are inherited. `codecs.register` gives it its name.

    Signals: images are float32 (batch, 3, height, width) in [0, 1]; audio is float32
    (batch, channels, samples) in [-1, 1] at `spec.sample_rate`; text is a list of str.
    """

    name: ClassVar[str] = ""
    spec: CodeSpec
    settings: Settings = Settings()
    config: dict[str, Any]
    """The keyword arguments that built it; filled in by `codecs.build`."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """The `model_type` of the models of transformers that this codec stands before; see `codecs.load`."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Arguments under which `codecs.decompress` looks for the codec of a container; () where weights are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self._fingerprint: tuple[Any, bytes] | None = None

    # -- what a codec implements ------------------------------------------------------------

    def _encode(self, x: Tensor | list[str], setting: Any) -> Codes:
        raise NotImplementedError(f"{type(self).__name__} implements neither _encode nor encode")

    def _decode(self, codes: Codes) -> Tensor | list[str]:
        raise NotImplementedError(f"{type(self).__name__} implements neither _decode nor decode")

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each side array of one signal of `size`: what a container needs to read it."""
        return {}

    def span(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        """Fewest and most positions of one signal of `size`, where lengths vary within known bounds."""
        return None

    def pieces(self, size: tuple[int, ...]) -> int:
        """Parts of one signal of `size` that can have settings of their own."""
        return 1

    def curve(self, x: Tensor) -> Curve:
        """One picture, as a batch of one → the ways to code it, tokens and PSNR of each: what targets choose from."""
        from tokenloom.codecs import targets

        return targets.curve(self, x)

    @classmethod
    def imported(cls, checkpoint: str, **arguments: Any) -> Codec:
        """A codec with the weights of another project's checkpoint: what `codecs.build(name, checkpoint=…)` calls."""
        raise ValueError(f"{cls.name} takes no checkpoint of other projects; codecs.load opens its own")

    # -- what everyone calls ----------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor | list[str], setting: Any = None) -> Codes:
        """Signals → codes; deterministic, float32, whatever autocast says around it.

        setting  a value of `settings`, a `Target`, or None for the default
        Raises ValueError on a wrong rank, channels, dtype or range, on NaN, Inf, an empty batch
        or a value outside `settings`; TargetError where no setting reaches the target.
        """
        from tokenloom.codecs import targets, validate

        validate.signal(x, self)
        if isinstance(setting, Target):
            return targets.meet(self, x, setting)
        return self._encode(x, validate.setting(setting, self))

    @torch.no_grad()
    def decode(self, codes: Codes) -> Tensor | list[str]:
        """Codes → signals of their exact sizes, clamped to range.

        Where the sizes in a batch differ, the result has the largest of each axis and is zero
        beyond an item's own size. Raises ValueError on codes that are not this codec's.
        """
        from tokenloom.codecs import validate

        validate.codes(codes, self)
        return self._decode(codes)

    def compress(self, x: Tensor | list[str], setting: Any = None) -> list[bytes]:
        """Signals → one self-describing container of bytes per item (see bitstream.py)."""
        from tokenloom.codecs import bitstream

        return bitstream.write(self, self.encode(x, setting))

    def decompress(self, data: list[bytes]) -> Tensor | list[str]:
        """Containers → signals. Raises BitstreamError on anything else."""
        from tokenloom.codecs import bitstream

        return bitstream.decode(self, bitstream.read(self, data))

    def _write(self, folder: Path, **options: Any) -> None:
        from tokenloom.codecs import registry

        registry.save(self, folder, **options)

    @classmethod
    def _read(cls, source: str) -> Codec:
        from tokenloom.codecs import registry

        return registry.load(source)

    def card(self) -> Card:
        from tokenloom.codecs import cards

        return cards.codec(self)

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that change with the name, the configuration and every weight."""
        tensors = [(k, v) for k, v in self.state_dict().items() if isinstance(v, Tensor)]
        key = tuple((v.data_ptr(), v._version) for _, v in tensors)
        if self._fingerprint is None or self._fingerprint[0] != key:
            digest = hashlib.sha256(json.dumps([self.name, self.config], sort_keys=True, default=str).encode())
            for name, value in tensors:
                digest.update(name.encode())
                value = value.detach().cpu()
                value = value.float() if value.is_floating_point() else value.long()
                digest.update(value.contiguous().numpy().tobytes())
            self._fingerprint = (key, digest.digest()[:8])
        return self._fingerprint[1]


class LatentCodec(Codec):
    """A learned codec: `analyse`, a quantizer (see quantizers.py), `synthesise`.

    analyse     signals (batch, channels, …) → latents (batch, dim, *grid), padded to whole strides
    synthesise  quantised latents → signals, neither cropped nor clamped
    counts      (quantizers, entries) int64, a buffer: how often the training split used each entry
    context     what predicts each code from those before it (see context.py), where a codec has it
    """

    variants = ()
    codes_weight: ClassVar[float | None] = None
    """Weight of the codes' own loss where a run names none; None: the trainer's default for the modality."""
    starts_on: int = 0
    """Training signals that `start` wants to see before the first step; 0: it starts from random weights."""
    quantizer: nn.Module
    counts: Tensor
    context: ContextModel | None

    def __init__(self, spec: CodeSpec, quantizer: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.quantizer = quantizer
        self.context = None
        self.register_buffer("counts", torch.zeros(len(spec.codebook_sizes), max(spec.codebook_sizes)).long())
        if spec.ordered and (count := len(spec.codebook_sizes)) > 1:
            points = sorted({round(1 + i * (count - 1) / min(count - 1, 7)) for i in range(min(count, 8))})
            self.settings = Settings("quantizers", "", count, tuple(points), tuple(range(1, count + 1)))

    def analyse(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def synthesise(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def start(self, x: Tensor) -> None:
        """Before the first training step: weights that suit `starts_on` signals of the data."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Training, with gradients: signals → (reconstructions, not yet cropped or clamped; the codes' own loss)."""
        quantized = self.quantizer.quantize(self.analyse(x))
        return self.synthesise(quantized.latents), quantized.loss

    def truncate(self, codes: Codes, setting: int) -> Codes:
        """Codes at the highest setting → at a lower one, where the codec is ordered: no signal is needed."""
        return Codes(codes.indices[:, :setting], codes.sizes, None, codes.side)

    def condition(self, side: dict[str, Tensor]) -> float:
        """What the context model is told beside the codes of one item; ValueError for side information that is none."""
        return 0.0

    def _encode(self, x: Tensor, setting: int | None) -> Codes:
        with torch.autocast(x.device.type, enabled=False):
            indices = self.quantizer.search(self.analyse(x), setting)
        return Codes(indices, torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1))

    def _decode(self, codes: Codes) -> Tensor:
        from tokenloom.codecs import batches

        low = -1.0 if self.spec.modality is Modality.AUDIO else 0.0
        with torch.autocast(codes.indices.device.type, enabled=False):
            signals = self.synthesise(self.embed(codes)).float().clamp(low, 1.0)
        return batches.crop(signals, codes.sizes)

    def embed(self, codes: Codes) -> Tensor:
        """Codes → quantised latents, float32 (batch, dim, *grid), for decoders plugged on."""
        with torch.autocast(codes.indices.device.type, enabled=False):
            return self.quantizer.lookup(codes.indices)
