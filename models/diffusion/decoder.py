"""Diffusion decoders, which decode the codes of a learned codec with a rectified flow.

config.yaml         decoder: {codec: name, steps, temperature, noise, conditional, patch, widths, depths}
                    fingerprints: {codec: hex}, and what the trainer adds
model.safetensors   the flow's weights
codec/              the codec, unless it ships
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import codecs, errors, memory, precision
from tokenloom.codecs import Codec, Codes, LatentCodec, batches, checkpoint, display, rate, validate
from tokenloom.codecs.hub import Card, Pretrained
from tokenloom.codecs.types import CodeSpec

from .. import cards, dependencies
from . import samplers
from .flow import Conditioning, Flow, build_flow
from .planes import planes
from .unet import UNet

SAMPLERS = {"shortcut": samplers.shortcut, "euler": samplers.euler, "heun": samplers.heun}
MAX_POSITIONS = 2**20
"""Largest number of plane positions decoded at once, over the items of a batch."""
OWN_CODEC = "codec"
"""Folder, and name in the config, of a codec that is stored with its decoder."""
_loaded: weakref.WeakValueDictionary[bytes, DiffusionDecoder] = weakref.WeakValueDictionary()


class DiffusionDecoder(Pretrained, precision.Float32Module):
    """A decoder that adds detail beyond what the codes determine.

    Args:
        codec: The codec of the codes. It is not changed.
        flow: A flow of this codec; see `build_flow`.
        steps: Default number of sampling steps of `decode`.
        temperature: Default temperature of `decode`.
    """

    def __init__(self, codec: LatentCodec, flow: Flow, *, steps: int = 4, temperature: float = 0.3) -> None:
        super().__init__()
        self.codec = codec.eval()
        self.flow = flow
        self.steps = len(samplers.times(steps)) - 1
        self.temperature = _check_temperature(temperature)
        self.planes = planes(codec.spec)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this decoder, except the codec."""
        return {"steps": self.steps, "temperature": self.temperature, **self.flow.config}

    def __repr__(self) -> str:
        parts = [f"of {self.codec.name} {self.codec.fingerprint.hex()}", f"{self.steps} steps"]
        parts += [f"temperature {self.temperature:g}", display.parameters(self.flow), *display.license_of(self)]
        return f"DiffusionDecoder({', '.join(parts)})"

    def card(self) -> Card:
        """Return the content of the model card."""
        weights = sum(parameter.numel() for parameter in self.flow.parameters())
        return cards.decoder(self.codec, self.steps, self.temperature, weights)

    def _write(self, folder: Path, **options: Any) -> None:
        save(self, folder, **options)

    @classmethod
    def _read(cls, source: str) -> DiffusionDecoder:
        return load(source)

    @property
    def device(self) -> torch.device:
        """Device of codec and flow, and of all results. Codes may come from any device."""
        return self.codec.device

    def with_flow(self, flow: Flow) -> DiffusionDecoder:
        """Return the same decoder with another flow, such as an average of its weights over training."""
        return DiffusionDecoder(self.codec, flow, steps=self.steps, temperature=self.temperature)

    def train(self, mode: bool = True) -> DiffusionDecoder:
        """Set the flow's mode. The codec always stays in eval mode."""
        super().train(mode)
        self.codec.eval()
        return self

    @property
    def spec(self) -> CodeSpec:
        """Spec of the codec."""
        return self.codec.spec

    def working_memory(self, size: tuple[int, ...]) -> int:
        """Return the bytes that decoding one signal of `size` takes besides the result."""
        return math.ceil(math.prod(size) * self._bytes_per_sample)

    @functools.cached_property
    def _bytes_per_sample(self) -> float:
        return memory.per_sample(self.codec, self, lambda codes: self.decode(codes, steps=1))

    @torch.no_grad()
    @precision.float32()
    def decode(
        self, codes: Codes, steps: int | None = None, seed: int = 0, *, temperature: float | None = None,
        sampler: str = "shortcut",
    ) -> Tensor:  # fmt: skip
        """Decode a batch of codes to signals, in the form of `codec.decode`.

        Args:
            codes: Codes of the decoder's codec.
            steps: 1 to 1000 sampling steps; None for the decoder's default.
            seed: Seed of the noise, 0 or more. The noise of an item depends on the seed and its codes only.
            temperature: Scale of the noise, 0 to 1; None for the decoder's default. At 0 the signal is closest to the
                original, and the same for every seed. Higher values add texture and distortion.
            sampler: "shortcut" needs few steps; "euler" and "heun" integrate the flow and need many.

        Returns:
            float32 signals of their exact sizes, clamped to range.

        Raises:
            ValueError: If the codes do not fit the codec, an argument is out of range, or decoding takes more memory
                than codecs/memory.py allows.
        """
        validate.codes(codes, self.codec)
        self.require_float32("the decoder")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        samplers.check_seed(seed)
        times = samplers.times(self.steps if steps is None else steps)
        scale = self.flow.noise * (self.temperature if temperature is None else _check_temperature(temperature))
        memory.require(self, [tuple(size) for size in codes.sizes.tolist()])

        def signals(part: Codes) -> Tensor:
            reconstruction = self.codec.decode(part)
            given = self.conditioning(part, reconstruction)
            shape = given.reconstruction.shape[1:]
            noise = torch.stack([samplers.noise(seed, _number(item), shape) for item in part])
            return self._sample(given, reconstruction, scale * noise.to(self.device), times, sampler)

        parts = batches.by_size(codes.to(self.device), self.codec, MAX_POSITIONS)
        return batches.spread(((rows, signals(part)) for rows, part in parts), codes.sizes)

    def _sample(
        self, given: Conditioning, reconstruction: Tensor, z: Tensor, times: Sequence[float], sampler: str
    ) -> Tensor:
        """Return signals from states z at time 0, for codes of one size."""

        def average(z: Tensor, t: float, d: float = 0.0) -> Tensor:
            return self.flow.average(z, z.new_full((len(z),), t), z.new_full((len(z),), d), given)

        with torch.autocast(reconstruction.device.type, enabled=False):
            z = SAMPLERS[sampler](average, z, times)
            end = given.reconstruction + self.flow.scale(given) * z
            return self.planes.inverse(end, reconstruction, refine=True)

    @torch.no_grad()
    @precision.float32()
    def conditioning(self, codes: Codes, reconstruction: Tensor | None = None) -> Conditioning:
        """Return the flow's conditioning for codes of one size. `reconstruction` may pass `codec.decode(codes)`."""
        reconstruction = self.codec.decode(codes) if reconstruction is None else reconstruction
        known = self.planes.forward(reconstruction)
        bits = rate.nominal(self.codec.spec, codes) / rate.samples(codes)
        log_rate = (bits.clamp_min(2**-24).log2() / 8).float().to(known.device)
        if self.flow.network.latents is None:
            return Conditioning(known, log_rate, None)
        return Conditioning(known, log_rate, self._align(self.codec.embed(codes), known.shape[2:]))

    def _align(self, latents: Tensor, size: Sequence[int]) -> Tensor:
        """Resample latents (batch, dim, *grid) to one per position of the network's coarsest stage."""
        latents = latents[:, :, None] if latents.ndim == 3 else latents
        coarsest = self.flow.network.coarsest
        for axis, (n, stride) in enumerate(zip(size, self.planes.strides, strict=True), 2):
            index = (torch.arange(-(-n // coarsest), device=latents.device) * coarsest / stride).long()
            latents = latents.index_select(axis, index.clamp_max(latents.shape[axis] - 1))
        return latents


def _check_temperature(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"temperature must be a number from 0 to 1, got {value!r:.80}")
    return float(value)


def _number(codes: Codes) -> int:
    """Return a number that the codes of an item, a batch of one, determine without their padding."""
    used, length = int(codes.quantizers()), None if codes.lengths is None else int(codes.lengths)
    indices = codes.indices[0, :used].flatten(1)[:, :length].cpu().contiguous()
    return zlib.crc32(indices.numpy().tobytes(), zlib.crc32(codes.sizes.cpu().numpy().tobytes()))


# -- build, load, save ----------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of the decoders that ship with the package."""
    return checkpoint.shipped("decoder")


@precision.building()
def build(config: Mapping[str, Any]) -> DiffusionDecoder:
    """Build an untrained decoder.

    Args:
        config: `codec`, a folder, shipped name or hub id; and, optionally, steps and temperature of
            `DiffusionDecoder`, noise and conditional of `Flow`, patch, widths and depths of `UNet`.

    Raises:
        ValueError: If the config has unknown keys or invalid values.
    """
    return _assemble(config, codecs.load(_codec_name(config)))


def save(
    decoder: DiffusionDecoder, folder: str | Path, *, store: str = "float32",
    config_file: str = checkpoint.CONFIGS[0], **extra: Any,
) -> None:  # fmt: skip
    """Write a decoder, and its codec unless the codec ships. See `models.save`."""
    folder, fingerprint = Path(folder), decoder.codec.fingerprint.hex()
    name = checkpoint.shipped_with(fingerprint)
    if name is None or not checkpoint.is_portable(name):  # the codec first: a decoder must never lack it
        name = OWN_CODEC
        codecs.save(decoder.codec, folder / OWN_CODEC)
    config = {"decoder": {"codec": name, **decoder.config}, "fingerprints": {"codec": fingerprint}}
    checkpoint.write(folder, config | decoder.terms, checkpoint.state(decoder.flow, store), config_file, **extra)


def load(source: str | Path) -> DiffusionDecoder:
    """Load a trained decoder. See `models.load`."""
    folder = checkpoint.find(str(source), "decoder")
    return read(folder, checkpoint.read_config(folder))


@precision.building()
def read(folder: Path, config: dict[str, Any]) -> DiffusionDecoder:
    """Load the decoder in a checkpoint folder that has this config. Raises as `models.load` does."""
    given, fingerprints = checkpoint.section(folder, config, "decoder", "codec")
    try:
        codec = dependencies.load(folder, _codec_name(given), fingerprints.get("codec"))
        state = checkpoint.weights(folder, config)
        decoder = _assemble(given, codec, state)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    checkpoint.load_state(decoder.flow, state, folder)
    decoder.license = checkpoint.license_of(config)
    _loaded[codec.fingerprint] = decoder
    return decoder.eval()


def decoder_for(codec: Codec) -> DiffusionDecoder:
    """Return the decoder of a codec that was loaded last, else one that ships, else raise ValueError."""
    if (decoder := _loaded.get(codec.fingerprint)) is not None:
        return decoder
    if name := checkpoint.shipped_with(codec.fingerprint.hex(), "decoder"):
        return load(checkpoint.shipped_folder(name) or name)
    raise ValueError(
        f"no diffusion decoder for this {codec.name} was loaded, and none ships ({errors.listed(names())})"
    )


def _codec_name(config: Mapping[str, Any]) -> str:
    if not isinstance(name := config.get("codec"), str):
        raise ValueError(f"decoder.codec must be a folder, a shipped name or a hub id, got {name!r:.80}")
    return name


def _assemble(config: Mapping[str, Any], codec: Codec, state: dict[str, Tensor] | None = None) -> DiffusionDecoder:
    """Build a decoder. Check before that `state`, if given, has enough weights: allocation may be large."""
    if not isinstance(codec, LatentCodec):
        raise ValueError(f"a diffusion decoder needs a learned codec with latents, got {codec.name}")
    known = [name for cls in (DiffusionDecoder, Flow, UNet) for name in _options(cls)]
    given = {key: value for key, value in config.items() if key != "codec"}
    if unknown := sorted(map(str, set(given) - set(known))):
        raise ValueError(f"decoder has no option {unknown[0]!r}; its options are codec, {', '.join(known)}")
    if state is not None:
        checkpoint.check_size(state, UNet.min_weights(**{k: given[k] for k in _options(UNet) if k in given}))
    own = {key: given.pop(key) for key in _options(DiffusionDecoder) if key in given}
    return DiffusionDecoder(codec, build_flow(codec, **given), **own).eval()


def _options(cls: type) -> list[str]:
    """Names of a constructor's keyword-only arguments that have a default."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
