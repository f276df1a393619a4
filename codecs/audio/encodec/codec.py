"""The EnCodec codec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import foreign
from ...codec import Codec, LatentCodec, build
from ...layers import tracing
from ...quantizers import MAX_CODEBOOK, MAX_QUANTIZERS, ResidualVQ
from ...quantizers.codebooks import MAX_DISTANCES
from ...registry import register
from ...streams.stages import Stage
from ...types import Codes, CodeSpec, Modality, Settings
from ...validate import require_integer
from .. import seanet, stages
from ..overlap import overlap_add
from . import weights
from .kinds import BY_RATE, KINDS, OVERLAP, bits_per_second


class ReferenceVQ(ResidualVQ):
    """Residual vector quantization with EnCodec's rounding, which decides between close entries."""

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        indices, residual = [], latents
        for book in self.codebook[:count]:
            rows = residual.transpose(1, 2).reshape(-1, self.dim)
            index = torch.cat([_nearest(some, book) for some in tracing.chunks(rows, MAX_DISTANCES // len(book))])
            indices.append(index.reshape(latents.shape[0], -1))
            residual = residual - F.embedding(indices[-1], book).transpose(1, 2)
        return torch.stack(indices, 1)


def _nearest(rows: Tensor, book: Tensor) -> Tensor:
    """Maximize 2 r·e − ‖r‖² − ‖e‖², summed in EnCodec's order with its memory layout."""
    entries = book.T
    products = (2 * rows) @ entries
    closeness = products.sub_(rows.square().sum(1, keepdim=True)).sub_(entries.square().sum(0, keepdim=True))
    return closeness.max(1).indices  # faster than argmin


@register("audio/encodec")
class Encodec(LatentCodec):
    """EnCodec (arXiv 2210.13438). Setting: bandwidth in kbit/s of all channels together, without scales.

    At 48 kHz, chunks of one second start 0.99 s apart. A chunk is divided by its `scale`: 1e-8 plus the root mean
    square of the mean of its channels. Scales are side information, float32 (batch, chunks). Decoded chunks are
    cross-faded.

    Args:
        sample_rate: In Hz.
        kind: Published model with the same layers: "24khz" (mono, causal), "32khz" (MusicGen's) or "48khz" (stereo,
            overlapping chunks). None for the model with this sample rate, or "24khz".
        channels: 1 or 2; None for that of the kind.
        ratios: See `WaveAutoencoder`, also for filters, residual and lstm.
        codebook_size: Entries of each quantizer.
        dim: Channels of a codeword.
        bandwidths: 1 to 8 rising rates in kbit/s; None for those of the kind. The last one determines the number of
            quantizers.
    """

    def __init__(
        self, sample_rate: int = 24000, *, kind: str | None = None, channels: int | None = None,
        ratios: Sequence[int] = (8, 5, 4, 2), filters: int = 32, residual: int = 1, lstm: int = 2,
        codebook_size: int = 1024, dim: int = 128, bandwidths: list[float] | None = None,
    ) -> None:  # fmt: skip
        kind = BY_RATE.get(sample_rate, "24khz") if kind is None else kind
        if kind not in KINDS:
            raise ValueError(f"kind of {self.name} must be one of {', '.join(KINDS)}, got {kind!r:.80}")
        like = KINDS[kind]
        channels = like.channels if channels is None else channels
        seanet.check(
            self.name, ratios, channels=channels, sample_rate=sample_rate, filters=filters, residual=residual, lstm=lstm
        )
        require_integer(f"sample_rate of {self.name}", sample_rate, 100, 384_000)
        require_integer(f"codebook_size of {self.name}", codebook_size, 2, MAX_CODEBOOK)
        ratios = list(ratios)
        stride = math.prod(ratios)
        self.bits_per_second = bits_per_second(sample_rate, stride, codebook_size)
        settings = self._bandwidth_settings(like.bandwidths if bandwidths is None else bandwidths)
        quantizer = ReferenceVQ(codebook_size, dim, self.count(settings.default))
        # not causal even with causal layers: with reflection, the first frame depends on the next six
        spec = CodeSpec(
            Modality.AUDIO, quantizer.sizes, (stride,), channels, sample_rate, ordered=quantizer.ordered,
            window=(sample_rate, int((1 - OVERLAP) * sample_rate)) if like.chunked else None,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.settings = settings
        self.encoder, self.decoder = seanet.autoencoder(
            channels, filters, ratios, dim, residual=residual, lstm=lstm, layers=like.layers
        )

    def _bandwidth_settings(self, bandwidths: Any) -> Settings:
        """Return the bandwidths as settings. Raises ValueError for invalid rates."""
        numbers = list(bandwidths) if isinstance(bandwidths, list | tuple) else []
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e6 for v in numbers)
        if not plain or not 1 <= len(numbers) <= 8 or sorted(set(numbers)) != numbers:
            raise ValueError(f"bandwidths of {self.name} must be 1 to 8 rising rates in kbit/s, got {bandwidths!r:.80}")
        if self.count(numbers[-1]) > MAX_QUANTIZERS:
            raise ValueError(
                f"{self.name} must have at most {MAX_QUANTIZERS} quantizers, but {numbers[-1]} kbit/s needs "
                f"{self.count(numbers[-1])} of {self.bits_per_second / 1000:g} kbit/s each"
            )
        return Settings("bandwidth", "kbit/s", numbers[-1], tuple(numbers))

    def count(self, bandwidth: float) -> int:
        """Return the number of quantizers of a bandwidth in kbit/s, at least one."""
        return max(1, math.floor(1000 * bandwidth / self.bits_per_second + 1e-6))

    # -- signals ----------------------------------------------------------------------------------

    def analyze(self, x: Tensor) -> Tensor:
        """Map (batch, channels, samples), at most one chunk divided by its scale, to (batch, dim, frames)."""
        return self.encoder(x)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map quantized latents of at most one chunk to (batch, channels, frames · stride)."""
        return self.decoder(latents)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.window is None:
            return super().reconstruct(x)
        if x.shape[-1] > self.spec.window[0]:
            raise ValueError(
                f"a training signal must have at most {self.spec.window[0]} samples, one chunk, got {x.shape[-1]}"
            )
        scale = loudness(x)
        y, loss = super().reconstruct(x / scale)
        return y * scale, loss

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {} if self.spec.window is None else {"scale": (len(self.spec.chunks(size[0])),)}

    def truncate(self, codes: Codes, setting: float) -> Codes:
        return super().truncate(codes, self.count(setting))

    @property
    def stream_obstacle(self) -> str | None:
        if self.spec.window is not None:
            return super().stream_obstacle
        return stages.obstacle(self.encoder) or stages.obstacle(self.decoder)

    def search(self, latents: Tensor, setting: Any) -> Tensor:
        return super().search(latents, self.count(setting))

    def analysis_stage(self) -> Stage:
        return stages.stage(self.encoder)

    def synthesis_stage(self) -> Stage:
        return stages.stage(self.decoder)

    def _encode(self, x: Tensor, setting: Any) -> Codes:
        hop = 0 if self.spec.window is None else self.spec.window[1]
        indices, scales = [], []
        with torch.autocast(x.device.type, enabled=False):
            for i, length in enumerate(self.spec.chunks(x.shape[-1])):
                chunk = x[..., i * hop : i * hop + length]
                if self.spec.window is not None:
                    scales.append(loudness(chunk))
                    chunk = chunk / scales[-1]
                indices.append(self.encode_indices(chunk, setting))
        side = {"scale": torch.cat(scales, 1)[..., 0]} if scales else {}
        return Codes(torch.cat(indices, 2), torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1), None, side)

    def _decode(self, codes: Codes) -> Tensor:
        samples = int(codes.sizes[0])
        with torch.autocast(codes.indices.device.type, enabled=False):
            latents = self.quantizer.lookup(codes.indices)
            if self.spec.window is None:
                waveforms = self.synthesize(latents)
            else:
                lengths, hop = self.spec.chunks(samples), self.spec.window[1]
                waveforms = self._joined_chunks(latents, codes.side["scale"], lengths, hop)
        return waveforms[..., :samples].float().clamp(-1, 1).contiguous()

    def _joined_chunks(self, latents: Tensor, scales: Tensor, lengths: list[int], hop: int) -> Tensor:
        """Decode and cross-fade the chunks."""
        if not scales[:, : len(lengths)].isfinite().all():
            raise ValueError(f"the scales of {self.name} must be finite, got NaN or Inf")
        frames = [-(-length // self.spec.stride[0]) for length in lengths]
        chunks = [
            self.synthesize(chunk) * scale[:, None, None]
            for chunk, scale in zip(latents.split(frames, -1), scales.unbind(1), strict=False)
        ]
        return overlap_add(chunks, hop)

    # -- weights of other projects ------------------------------------------------------------------

    @classmethod
    def imported(
        cls, checkpoint: str, *, sample_rate: int | None = None, kind: str | None = None,
        bandwidths: list[float] | None = None,
    ) -> Codec:  # fmt: skip
        """Build the codec from weights of the `encodec` package, AudioCraft, or transformers' EncodecModel.

        Args:
            checkpoint: A file, or a folder or hub id of transformers.
            sample_rate: In Hz; required if neither a config.json nor the layers determine it.
            kind: As in the constructor; None to infer it from the checkpoint.
            bandwidths: As in the constructor; None to infer them from the checkpoint.

        Raises:
            ValueError: If the checkpoint is not an EnCodec, or has another sample rate.
        """
        path = weights.locate(checkpoint, sample_rate)
        state, config = weights.read(path)
        given = {"sample_rate": sample_rate, "kind": kind, "bandwidths": bandwidths}
        given = {key: value for key, value in given.items() if value is not None}
        codec = build(cls.name, **weights.arguments(config, given, len(state["quantizer.codebook"]), path))
        own = {name.replace(".convtr.", ".conv."): name for name in codec.state_dict()}
        return foreign.adopt(codec, {own.get(name, name): value for name, value in state.items()}, path)


def loudness(x: Tensor) -> Tensor:
    """Return the root mean square of the channels' mean, plus 1e-8: (batch, channels, samples) → (batch, 1, 1)."""
    return 1e-8 + x.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt()
