"""The codec classes, and the functions that build, load and save codecs."""

from __future__ import annotations

import functools
import json
import math
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenloom import devices, errors, memory, own_code, precision

from . import batches, bitstream, checkpoint, registry, restoring, storage, targets, validate
from .hub import Card, Pretrained, cards
from .identity import Identity
from .layers import exact
from .registry import arguments, import_arguments, imports, is_reference
from .streams import LatentStreamable, Streamable
from .targets import Curve
from .types import BitstreamError, Codes, CodeSpec, Modality, Settings, Target


class Codec(Pretrained, precision.Float32Module, Streamable, ABC):
    """Base class of all codecs: signal ↔ integers ↔ bytes.

    A subclass sets `spec` and `settings` (on the class or in its constructor) and implements `_encode(x, setting)` and
    `_decode(codes)`. Both receive validated input only. If the spec has a stride, `_decode` receives items of one size,
    without padding. Validation, targets and containers are inherited. `codecs.register` gives the class its name.

    Signals are float32 images (batch, 3, height, width) in [0, 1], float32 audio (batch, channels, samples) in
    [-1, 1] at `spec.sample_rate`, or a list of str.

    A codec computes on its `device`, which `load(…, device=…)` or `codec.to(…)` sets. Signals and codes may come from
    any device, and results are on the codec's. Containers are read and written on the CPU.
    It computes in float32: `half()`, `double()` and PyTorch's default type do not change that.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` of each transformers model that this codec wraps; see `codecs.load`."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Constructor arguments that `codecs.decompress` tries for a container; () for codecs that need weights."""
    _anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.context = None
        self.register_buffer("counts", None)
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # moves with a codec without weights, too
        self._identity = Identity()

    # -- implemented by a subclass ----------------------------------------------------------

    def _encode(self, x: Any, setting: Any) -> Codes:
        raise NotImplementedError(f"{type(self).__name__} implements neither _encode nor encode")

    def _decode(self, codes: Codes) -> Tensor | list[str]:
        raise NotImplementedError(f"{type(self).__name__} implements neither _decode nor decode")

    def curve(self, x: Tensor) -> Curve:
        """Return all candidate encodings of one image, a batch of one, with their tokens and PSNR. Targets use them."""
        return targets.curve(self, x)

    @classmethod
    def imported(cls, checkpoint: str, **arguments: Any) -> Codec:
        """Build the codec from another project's checkpoint. `codecs.build(name, checkpoint=…)` calls this."""
        raise ValueError(f"{cls.name} takes no checkpoint of other projects; codecs.load opens tokenloom checkpoints")

    # -- public -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device that the codec computes on, and of all results."""
        return self._anchor.device

    @torch.no_grad()
    @precision.float32()
    def encode(self, x: Tensor | list[str], setting: Any = None) -> Codes:
        """Encode a batch of signals, deterministically and in float32. An enclosing autocast has no effect.

        Args:
            x: Signals in the form that the class docstring states.
            setting: A value of `settings`, a `Target`, or None for the default.

        Returns:
            Codes with int64 indices (batch, quantizers, *grid).

        Raises:
            ValueError: If `x` is empty, holds NaN or Inf, or has the wrong rank, channels, dtype or range; or if
                `settings` does not contain `setting`.
            TargetError: If no setting reaches the target.
        """
        validate.signal(x, self)
        self.require_float32(self.name)
        x = x.to(self.device) if isinstance(x, Tensor) else x
        if isinstance(setting, Target):
            return targets.meet(self, x, setting).made_by(self)
        return self._encode(x, validate.setting(setting, self)).to(self.device).made_by(self)

    @torch.no_grad()
    @precision.float32()
    def decode(self, codes: Codes) -> Tensor | list[str]:
        """Decode a batch of codes to signals of their exact sizes, clamped to range.

        Args:
            codes: Codes of this codec.

        Returns:
            Signals in the form that `encode` takes. If sizes differ within the batch, each axis has the largest size,
            and zeros fill each item beyond its own size.

        Raises:
            ValueError: If the codes are not valid for this codec, or take more memory than memory.py allows.
        """
        validate.codes(codes, self)
        self.require_float32(self.name)
        codes, sizes = codes.to(self.device), [tuple(size) for size in codes.sizes.tolist()]
        memory.require(self, sizes)
        if not self.spec.stride:
            signals = self._decode(codes)
            return signals.to(self.device) if isinstance(signals, Tensor) else signals
        parts = batches.by_size(codes, self, memory.batch_samples(self, sizes))
        return batches.spread(((rows, self._decode(part)) for rows, part in parts), codes.sizes).to(self.device)

    def compress(self, x: Tensor | list[str], setting: Any = None) -> list[bytes]:
        """Encode signals and write one self-describing container per item (see bitstream/container.py)."""
        return bitstream.write(self, self.encode(x, setting))

    def decompress(self, data: list[bytes]) -> Tensor | list[str]:
        """Decode containers of this codec.

        Raises:
            BitstreamError: If `data` is not a list of containers of this codec.
        """
        return bitstream.decode(self, bitstream.read(self, data))

    def working_memory(self, size: tuple[int, ...]) -> int:
        count, plain = math.prod(size), super().working_memory(size)
        if next(self.parameters(), None) is None:
            return plain
        if self.spec.window is None:
            return math.ceil(count * self._bytes_per_sample)
        return math.ceil(min(count, self.spec.window[0]) * self._bytes_per_sample) + plain

    @functools.cached_property
    def _bytes_per_sample(self) -> float:
        return memory.per_sample(self, self, self._decode)

    def _write(self, folder: Path, **options: Any) -> None:
        save(self, folder, **options)

    @classmethod
    def _read(cls, source: str) -> Codec:
        return load(source)

    @property
    def export_obstacle(self) -> str | None:
        """Reason why `export` cannot trace this codec; None if it can."""
        return "a library computes its codes; only networks, such as image/fsq or audio/rvq, can be exported"

    def card(self) -> Card:
        """Return the content of the model card."""
        return cards.codec(self, sum(parameter.numel() for parameter in self.parameters()))

    def fresh(self) -> Codec:
        """Build another codec of this name and configuration, with weights of its own."""
        return build_known(self.name, **self.config)

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that change with the name, the configuration and every weight (see identity.py)."""
        return self._identity.fingerprint(self)


class LatentCodec(LatentStreamable, Codec):
    """Base class of learned codecs: `analyze`, a quantizer, and `synthesize` (see layers/tracing.py)."""

    variants = ()
    codes_weight: ClassVar[float | None] = None
    """Default weight of the quantizer's loss; None selects the trainer's default for the modality."""
    start_items: int = 0
    """Number of training signals that `start` needs; 0 if training starts from random weights."""
    counts: Tensor

    def __init__(self, spec: CodeSpec, quantizer: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.quantizer = quantizer
        self.register_buffer("counts", torch.zeros(len(spec.codebook_sizes), max(spec.codebook_sizes)).long())
        if spec.ordered and (count := len(spec.codebook_sizes)) > 1:
            points = sorted({round(1 + i * (count - 1) / min(count - 1, 7)) for i in range(min(count, 8))})
            self.settings = Settings("quantizers", "", count, tuple(points), tuple(range(1, count + 1)))

    def start(self, x: Tensor) -> None:
        """Initialize the weights from `start_items` training signals. The trainer calls this before the first step."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions, not cropped or clamped, and the quantizer's loss, both with gradients."""
        quantized = self.quantizer.quantize(self.analyze(x))
        return self.synthesize(quantized.latents), quantized.loss

    @property
    def truncates(self) -> bool:
        return self.spec.ordered

    def truncate(self, codes: Codes, setting: int) -> Codes:
        return Codes(codes.indices[:, :setting], codes.sizes, None, codes.side)

    def _encode(self, x: Tensor, setting: int | None) -> Codes:
        with torch.autocast(x.device.type, enabled=False):
            indices = exact.indices(self, x, setting)
        return Codes(indices, torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1))

    def _decode(self, codes: Codes) -> Tensor:
        low = -1.0 if self.spec.modality is Modality.AUDIO else 0.0
        with torch.autocast(codes.indices.device.type, enabled=False):
            signals = exact.signals(self, codes).clamp_(low, 1.0)
        return batches.crop(signals, codes.sizes)

    @torch.no_grad()
    @precision.float32()
    def embed(self, codes: Codes) -> Tensor:
        """Return the quantized latents of codes, float32 (batch, dim, *grid), for decoders plugged on.

        Latents beyond an item's own grid are 0. Raises ValueError if the codes are not valid for this codec.
        """
        validate.codes(codes, self)
        codes = codes.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            if not self.spec.stride:
                return self._embed(codes)
            grids = torch.tensor([self.spec.grid(tuple(size)) for size in codes.sizes.tolist()])
            parts = batches.by_size(codes, self)
            return batches.spread(((rows, self._embed(part)) for rows, part in parts), grids)

    def _embed(self, codes: Codes) -> Tensor:
        """Return the latents of items of one size; of any sizes if the number of codes varies."""
        return self.quantizer.lookup(codes.indices)


# -- build, load, save ----------------------------------------------------------------------------


@precision.building()
def build(
    name: str, *, checkpoint: str | Path | None = None, device: str | torch.device | None = None, **kwargs: Any
) -> Codec:
    """Build a codec by its registered name. Learned codecs are untrained unless a checkpoint is given.

    Args:
        name: Registered name; or `folder/my_codec.py:MyCodec`, a class of your own file, which is run.
        checkpoint: Path or hub id of another project's weights. The codec's config then holds only its architecture,
            so a saved copy does not need the file.
        device: auto, cpu, cuda, cuda:1 or mps (see `devices.resolve`); None for PyTorch's default, the CPU.
        **kwargs: Constructor arguments. With `checkpoint`: arguments of the codec's `imported` method.

    Raises:
        ValueError: If the name is unknown, an argument is invalid, or this machine lacks the device.
        FileNotFoundError: If there is no such file.
    """
    return build_known(registry.resolve(name), checkpoint=checkpoint, device=device, **kwargs)


@precision.building()
def build_known(
    name: str, *, checkpoint: str | Path | None = None, device: str | torch.device | None = None, **kwargs: Any
) -> Codec:
    """Build a codec as `build` does, by a name of unknown origin, such as that in a config: no file runs."""
    place = None if device is None else devices.resolve(device)
    cls = registry.codec_class(name)
    allowed = arguments(cls) if checkpoint is None else import_arguments(cls)
    if unknown := sorted(set(kwargs) - allowed):
        raise ValueError(f"{name} takes no {unknown[0]!r}{errors.choice(unknown[0], sorted(allowed))}")
    try:
        if checkpoint is not None:
            codec = cls.imported(str(checkpoint), **kwargs)
            registry.remember(codec)
        else:
            codec = cls(**kwargs)
            codec.config = json.loads(json.dumps(kwargs))  # plain values, as in a config file
            codec.name = name  # a file may be known by several names
            codec._identity.settle(codec)
    except (ValueError, OSError):
        raise
    except restoring.unfit(cls) as error:
        raise ValueError(f"{name} cannot be built from {kwargs!r:.200}: {errors.first_line(error)}") from error
    if not isinstance(getattr(codec, "spec", None), CodeSpec):
        raise ValueError(f"{name} must have a CodeSpec as its spec, got {getattr(codec, 'spec', None)!r:.80}")
    return codec.to(place).eval()


@precision.building()
def load(source: str | Path | Mapping[str, Any], *, device: str | torch.device | None = None) -> Codec:
    """Load a trained codec in eval mode. No code in a checkpoint runs.

    A checkpoint of the user's own class runs its file if the user has imported it before (tokenloom/own_code.py).

    Args:
        source: A folder with `model.safetensors` and `config.yaml` or `config.json`; a shipped name; a hub id; the
            folder or hub id of a transformers tokenizer of audio or images; the registered name of a codec that needs
            no training (`image/jpeg`); a class of your own file, which is run (`my_codec.py:MyCodec`); or a mapping of
            `build` arguments ({name: image/taming, checkpoint: …}, {name: my_codec.py:MyCodec, width: 64}).
        device: auto, cpu, cuda, cuda:1 or mps (see `devices.resolve`); None for PyTorch's default, the CPU.

    Raises:
        ValueError: If the source is unknown, damaged, or needs training or weights, or this machine lacks the device.
        FileNotFoundError: If there is no checkpoint, or no such Python file.
    """
    place = None if device is None else devices.resolve(device)
    name, given = restoring.request(source) if isinstance(source, Mapping) else (str(source), {})
    if is_reference(name) and given.get("checkpoint") is None:
        return restoring.trained(name, lambda: build(name, **given)).to(place)
    registered = isinstance(source, Mapping) or name in registry.names()
    if registered and given.get("checkpoint") is None and imports(registry.codec_class(name)):
        raise restoring.weightless(name)
    if isinstance(source, Mapping):
        return build(name, **given).to(place)
    if registered:
        if not registry.codec_class(name).variants:
            ships = ", ".join(checkpoint.shipped())
            raise ValueError(f"{name} must be trained first; the shipped trained codecs are {ships}")
        return build_known(name, device=place)
    folder = checkpoint.find(name)
    config = checkpoint.read_config(folder)
    if "codec" not in config and (cls := registry.wrapper(config.get("model_type"))):
        return build_known(cls.name, checkpoint=folder if Path(name).exists() else name, device=place)
    name, given = restoring.arguments(folder, config)
    state = checkpoint.weights(folder, config)
    restoring.check_size(folder, name, state, lambda: build_known(name, **given))
    codec = build_known(name, **given)
    checkpoint.load_state(codec, state, folder)
    codec.license = checkpoint.license_of(config)
    registry.remember(codec)
    return codec.to(place).eval()


def save(codec: Codec, folder: str | Path, *, store: str = "float32", **extra: Any) -> None:
    """Write a codec to a folder that `load` reads.

    Args:
        codec: The codec.
        folder: Folder of `model.safetensors` and the config.
        store: Type of the stored weights: float32, float16 or int8 (see storage.py).
        **extra: `config_file` ("config.yaml" or "config.json"), and plain values for the config: `trained={…}`, or
            `license="CC-BY-4.0"` in place of `codec.license`.

    Raises:
        ValueError: If no name builds the codec, as for one of `codecs.wrap`.
        OSError: If the files cannot be written.
    """
    state = checkpoint.state(codec, store)
    clone = codec.fresh()
    checkpoint.load_state(clone, storage.widen(state), Path(folder))
    config = {"codec": {"name": codec.name, **codec.config}, "fingerprint": clone.fingerprint.hex()}
    if own := own_code.record(type(codec)):
        config["imports"] = own
    checkpoint.write(Path(folder), config | codec.terms, state, **extra)


def find(fingerprint: bytes) -> Codec:
    """Return the codec with this fingerprint: a loaded one, one without weights, or a shipped one.

    Raises:
        BitstreamError: If no such codec is available.
    """
    if (codec := registry.recall(fingerprint)) is not None:
        return codec
    for name in registry.names():
        for variant in registry.codec_class(name).variants:
            try:
                codec = build_known(name, **variant)
            except ValueError:  # it has required arguments
                continue
            if codec.fingerprint == fingerprint:
                return codec
    name = checkpoint.shipped_with(fingerprint.hex())
    if name and (codec := load(checkpoint.shipped_folder(name) or name)).fingerprint == fingerprint:
        return codec
    raise BitstreamError(
        f"no codec with fingerprint {fingerprint.hex()} is available; first load the codec that wrote the container "
        f"(codecs.load), or use a shipped one: {', '.join(checkpoint.shipped())} ({checkpoint.VARIABLE} adds a folder)"
    )


def decompress(data: bytes | list[bytes]) -> Tensor | list[str]:
    """Decode one container, or several of one codec. The fingerprint selects the codec; see `find`.

    Raises:
        BitstreamError: If the data is damaged or not a container, or its codec is not available.
    """
    data = list(data) if isinstance(data, list | tuple) else [data]
    if not data:
        raise BitstreamError("decompress needs at least one container, got an empty list")
    return find(bitstream.fingerprint(data[0])).decompress([bytes(d) for d in data])
