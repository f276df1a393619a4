"""A codec from two functions: `wrap(encode, decode, spec, …)`, for a model that exists already."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import batches, registry, validate
from ..codec import Codec
from ..types import Codes, CodeSpec, Modality, Settings


class FunctionCodec(Codec):
    """The codec that `wrap` returns. Its fingerprint is that of name, version, spec, settings and weights."""

    variants = ()

    def __init__(
        self, functions: tuple[Callable[..., Any], Callable[..., Any]], spec: CodeSpec, settings: Settings, name: str,
        version: str | None, weights: nn.Module | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._functions = functions  # a tuple, since modules among them are not weights unless they are given as such
        self.spec, self.settings, self.name = spec, settings, name
        self.weights, self.version = weights, version
        self.config = {"version": version, "spec": asdict(spec), "settings": asdict(settings)}
        tensor = None if weights is None else next(iter((*weights.parameters(), *weights.buffers())), None)
        if tensor is not None:
            self._anchor = torch.empty(0, device=tensor.device)

    def __repr__(self) -> str:
        return super().__repr__() if self._identified else f"FunctionCodec({self.name}, without a fingerprint)"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"  # a card would tell how to load it

    @property
    def _identified(self) -> bool:
        return self.version is not None or self.weights is not None

    @property
    def fingerprint(self) -> bytes:
        if not self._identified:
            raise ValueError(
                f"{self.name} has no fingerprint, which containers and comparisons need, since functions cannot be "
                "told from one another: give codecs.wrap a version, or the weights that they use"
            )
        return super().fingerprint

    @property
    def export_obstacle(self) -> str | None:
        return "its functions are unknown to tokenloom; only networks, such as image/fsq or audio/rvq, can be exported"

    def fresh(self) -> Codec:
        raise ValueError(f"{self.name} cannot be saved: a checkpoint holds no functions; write a class of Codec for it")

    def _encode(self, x: Any, setting: Any) -> Codes:
        given = self._padded(x) if isinstance(x, Tensor) else x
        arguments = (given,) if self.settings.values == (None,) else (given, setting)
        made = self._functions[0](*arguments)
        codes = made if isinstance(made, Codes) else self._codes(x, made)
        try:
            validate.codes(codes, self)
        except ValueError as error:
            raise ValueError(f"encode of {self.name} returned invalid codes: {error}") from error
        if len(codes) != len(x):
            raise ValueError(f"encode of {self.name} must return codes of {len(x)} items, got {len(codes)}")
        return codes

    def _codes(self, x: Any, indices: Any) -> Codes:
        """Return the codes of an integer tensor."""
        kind = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        plain = isinstance(indices, Tensor) and not (indices.is_floating_point() or indices.is_complex())
        if not self.spec.stride or not plain or kind is torch.bool:
            needed = "an integer tensor or Codes" if self.spec.stride else "Codes, since their number varies"
            raise ValueError(f"encode of {self.name} must return {needed}, got {kind}")
        quantizers, grid = len(self.spec.codebook_sizes), self.spec.grid(tuple(x.shape[2:]))
        expected, found = (len(x), quantizers, *grid), tuple(indices.shape)
        if found != expected:
            hint = "; add the axis of the quantizer with [:, None]" if found == (len(x), *grid) else ""
            raise ValueError(f"encode of {self.name} must return indices of the shape {expected}, got {found}{hint}")
        return Codes(indices.long(), torch.tensor(x.shape[2:], device=indices.device).repeat(len(x), 1))

    def _padded(self, x: Tensor) -> Tensor:
        """Repeat the last row, column or sample up to whole strides."""
        if not self.spec.stride or self.spec.window is not None:
            return x
        sizes = zip(x.shape[2:], self.spec.stride, strict=True)
        padding = [part for size, stride in reversed([*sizes]) for part in (0, -size % stride)]
        return F.pad(x, padding, mode="replicate") if any(padding) else x

    def _decode(self, codes: Codes) -> Any:
        made = self._functions[1](codes.indices if self.spec.stride else codes)
        if self.spec.modality is Modality.TEXT:
            if not isinstance(made, list) or len(made) != len(codes) or not all(isinstance(t, str) for t in made):
                raise ValueError(f"decode of {self.name} must return a list of {len(codes)} str, got {made!r:.80}")
            return made
        size = tuple(codes.sizes.amax(0).tolist())
        expected = (len(codes), self.spec.channels, *size)
        if not isinstance(made, Tensor) or not made.is_floating_point():
            kind = made.dtype if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"decode of {self.name} must return a tensor of floats {expected}, got {kind}")
        shape = tuple(made.shape)
        enough = len(shape) == len(expected) and all(n >= least for n, least in zip(shape[2:], size, strict=True))
        if shape[:2] != expected[:2] or not enough:
            raise ValueError(f"decode of {self.name} must return signals of at least {expected}, got {shape}")
        low, high = validate.RANGES[self.spec.modality]
        signals = made[(..., *(slice(n) for n in size))].float()
        if not signals.isfinite().all():
            raise ValueError(f"decode of {self.name} returned NaN or infinity")
        return batches.crop(signals.clamp(low, high), codes.sizes)


def wrap(
    encode: Callable[..., Tensor | Codes],
    decode: Callable[..., Tensor | list[str]],
    spec: CodeSpec,
    *,
    name: str,
    settings: Settings | None = None,
    version: str | None = None,
    weights: nn.Module | Mapping[str, Tensor] | None = None,
) -> Codec:
    """Make a codec of two functions. It validates, compresses, and takes part in `compare` as every codec does.

        codec = codecs.wrap(model.tokenize, model.detokenize, spec, name="image/mine", weights=model)

    Args:
        encode: `encode(x)`, or `encode(x, setting)` with settings. x is a list of str, or float32 signals
            (batch, channels, *size) in the range of the modality, whose sizes are multiples of the stride. It returns
            integers (batch, quantizers, *grid), or `Codes`; always `Codes` if the spec has no stride.
        decode: `decode(indices)` for int64 indices (batch, quantizers, *grid); `decode(codes)` if the spec has no
            stride. It returns a list of str, or floats (batch, channels, *size), which are cropped and clamped.
        spec: What the codes are.
        name: "modality/kind", which no registered codec has.
        settings: The quality control; None: the codec has none.
        version: Text that identifies what the functions do. Change it whenever their codes or signals change.
        weights: The module, or the tensors, that the functions use. They join the fingerprint, and `codec.to(device)`
            moves a module.

    Returns:
        The codec, in eval mode, as is the module of `weights`. Containers, comparisons and fingerprints need a version
        or weights: functions alone cannot be told from one another. The codec cannot be saved.

    Raises:
        ValueError: If an argument is of another form. `encode` and `decode` of the codec raise it for results of
            another type, shape or range.
    """
    for key, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise ValueError(f"{key} must be a function, got {type(function).__name__}")
    if not isinstance(spec, CodeSpec):
        raise ValueError(f"spec must be a CodeSpec, got {type(spec).__name__}")
    if not (isinstance(name, str) and re.fullmatch(registry.NAME, name)) or not name.startswith(f"{spec.modality}/"):
        raise ValueError(f"name must be {spec.modality}/kind, such as '{spec.modality}/mine', got {name!r:.80}")
    if name in registry.names():
        raise ValueError(f"{name} is the name of a registered codec; choose another")
    if settings is not None and not isinstance(settings, Settings):
        raise ValueError(f"settings must be Settings, got {type(settings).__name__}")
    if version is not None and not (isinstance(version, str) and version):
        raise ValueError(f"version must be a text, such as '1', got {version!r:.80}")
    codec = FunctionCodec((encode, decode), spec, settings or Settings(), name, version, _module(weights)).eval()
    if codec._identified:
        registry.remember(codec)
    return codec


def _module(weights: Any) -> nn.Module | None:
    """Return weights as a module. The tensors of a mapping become its buffers."""
    if weights is None or isinstance(weights, nn.Module):
        return weights
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"weights must be a module, or a mapping of names to tensors, got {type(weights).__name__}")
    module = nn.Module()
    for key, value in weights.items():
        module.register_buffer(str(key).replace(".", "/"), value)
    return module
