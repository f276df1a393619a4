"""Small codecs of blocks, healthy ones and ones with one planted fault each. The docstring of a class is its fault."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.codecs import (
    BitstreamError,
    Codec,
    Codes,
    CodeSpec,
    LatentCodec,
    Modality,
    batches,
    bitstream,
    quantizers,
)

STRIDE, LEVELS, TONES = 8, 64, 63


def spec(**more) -> CodeSpec:
    """Return the spec of a sound of one code per 8 samples."""
    return CodeSpec(Modality.AUDIO, (TONES,), (STRIDE,), 1, 8000, **more)


def whole(x: Tensor) -> Tensor:
    """Return a sound in whole strides."""
    return F.pad(x, (0, -x.shape[-1] % STRIDE), mode="replicate")


def smooth(x: Tensor, taps: int = 24) -> Tensor:
    """Return the mean of each sample and those before it."""
    return F.avg_pool1d(F.pad(x, (taps - 1, 0)), taps, 1)


class Steps(Codec):
    """None: each code is the mean of 8 samples, with finer levels for soft ones, and a decoded sound has steps."""

    spec = spec(causal=True)

    def levels(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(whole(x), STRIDE)

    def _encode(self, x, setting):
        levels = self.levels(x)
        indices = ((levels.abs().sqrt() * levels.sign() + 1) / 2 * (TONES - 1)).round().long().clamp(0, TONES - 1)
        return Codes(indices, torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def signal(self, codes: Codes) -> Tensor:
        roots = codes.indices / (TONES - 1) * 2 - 1
        return (roots.square() * roots.sign()).repeat_interleave(STRIDE, -1)

    def _decode(self, codes):
        return batches.crop(self.signal(codes).clamp(-1, 1), codes.sizes)


class Mosaic(Codec):
    """None: three codes for the mean color of each block of 8 x 8 pixels."""

    spec = CodeSpec(Modality.IMAGE, (LEVELS,) * 3, (STRIDE, STRIDE), 3)

    def levels(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(batches.pad_to_stride(x, STRIDE), STRIDE)

    def _encode(self, x, setting):
        indices = (self.levels(x) * LEVELS).long().clamp(0, LEVELS - 1)
        return Codes(indices, torch.tensor(x.shape[2:]).repeat(len(x), 1))

    def signal(self, codes: Codes) -> Tensor:
        return ((codes.indices + 0.5) / LEVELS).repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)

    def _decode(self, codes):
        return batches.crop(self.signal(codes).clamp(0, 1), codes.sizes)


class Latents(LatentCodec):
    """None: a mosaic of one convolution, with finite scalar quantization."""

    def __init__(self) -> None:
        quantizer = quantizers.FSQ([8, 8, 8])
        super().__init__(CodeSpec(Modality.IMAGE, quantizer.sizes, (STRIDE, STRIDE), 3), quantizer)

    def analyze(self, x):
        return F.avg_pool2d(batches.pad_to_stride(x, STRIDE), STRIDE) * 6 - 3

    def synthesize(self, latents):
        blocks = latents.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)
        return blocks * 0.5 + 0.5


class Waves(LatentCodec):
    """None: a local codec of sound with finite scalar quantization."""

    name = "test/waves"

    def __init__(self) -> None:
        quantizer = quantizers.FSQ([8, 8])
        super().__init__(CodeSpec(Modality.AUDIO, quantizer.sizes, (STRIDE,), 1, 8000, causal=True), quantizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inward = nn.Conv1d(1, 2, 3 * STRIDE, STRIDE)
            self.outward = nn.ConvTranspose1d(2, 1, STRIDE, STRIDE)

    def analyze(self, x):
        return self.inward(F.pad(x, (2 * STRIDE, -x.shape[-1] % STRIDE)))

    def synthesize(self, latents):
        return self.outward(latents)


HEALTHY = (Steps, Mosaic, Latents, Waves)

# -- invariances ----------------------------------------------------------------------------------


class Dropout(Mosaic):
    """Dropout that stays on."""

    def levels(self, x):
        return F.dropout(super().levels(x), 0.05, training=True)


class BatchNorm(Mosaic):
    """Batch norm left in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def levels(self, x):
        self.norm.train()
        return self.norm(super().levels(x)) * 0.2 + 0.5


class RunningMean(Mosaic):
    """Statistics that each encode updates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def levels(self, x):
        self.seen += 1
        return super().levels(x)


class Carry(Steps):
    """The state of a filter that is not reset between the items of a batch."""

    def levels(self, x):
        found = super().levels(x)
        found[1:] = found[1:] + 0.1 * found[:-1, :, -1:]
        return found


class PaddingLeak(Steps):
    """Decoding that divides by the loudest sample of the padded batch."""

    def decode(self, codes):
        made = super().decode(codes)
        return made / made.abs().amax().clamp_min(0.1) * 0.9


class ThreadBlocks(Mosaic):
    """Sums whose order depends on the number of threads."""

    def levels(self, x):
        return super().levels(x) + 1e-3 * torch.get_num_threads()


class RawMemory(Mosaic):
    """Reading the memory of a tensor without regard to its strides."""

    def levels(self, x):
        return super().levels(x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset()))


class Autocast(Mosaic):
    """A product inside the caller's autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.mix.weight)

    def levels(self, x):
        return self.mix(super().levels(x)).float()


class DefaultType(Mosaic):
    """A computation in the default type."""

    def encode(self, x, setting=None):
        kind = torch.get_default_dtype()
        codes = super().encode(x, setting)
        return codes if kind is torch.float32 else Codes((codes.indices + 1) % LEVELS, codes.sizes)


class InferenceMode(Mosaic):
    """Another path inside inference mode."""

    def encode(self, x, setting=None):
        shifted = torch.is_inference_mode_enabled()
        codes = super().encode(x, setting)
        return Codes((codes.indices + shifted) % LEVELS, codes.sizes)


# -- locality -------------------------------------------------------------------------------------


class WrongOverlap(Steps):
    """Long sounds in blocks that overlap by fewer samples than the filter has."""

    block, overlap, taps = 1024, 8, 48

    def levels(self, x):
        x, parts = whole(x), []
        for start in range(0, x.shape[-1], self.block):
            first = max(0, start - self.overlap)
            part = smooth(x[..., first : start + self.block], self.taps)
            parts.append(part[..., start - first :])
        return torch.cat(parts, -1)[..., STRIDE - 1 :: STRIDE]


class WrongDecodedOverlap(Steps):
    """Decoding in blocks that overlap by fewer codes than the filter has."""

    def signal(self, codes):
        return torch.cat([smooth(part, 32) for part in super().signal(codes).split(512, -1)], -1)


class LookAhead(Steps):
    """A filter that is centered on the last sample, in a codec that says it is causal."""

    def levels(self, x):
        return F.avg_pool1d(F.pad(whole(x), (0, 12), mode="replicate"), 13, 1)[..., STRIDE - 1 :: STRIDE]


class Forgetful(Waves):
    """A stream that forgets the samples before a piece."""

    def analysis_stage(self):
        return lambda x, last: None if x is None else self.analyze(x)


class LateStream(Waves):
    """A stream that gives its sound one sample late."""

    def synthesis_stage(self):
        held = [torch.zeros(1, 1, 1)]

        def late(latents, last):
            if latents is None:
                return None
            sound = torch.cat([held.pop(), self.synthesize(latents)], -1)
            held.append(sound[..., -1:])
            return sound[..., :-1]

        return late


class GlobalNorm(Mosaic):
    """A level that depends on the mean of the whole picture. This is a warning, since it may be meant."""

    def levels(self, x):
        found = super().levels(x)
        return found - found.mean((2, 3), keepdim=True) + 0.5


# -- reconstruction, sizes and odd signals --------------------------------------------------------


class OneSampleLate(Steps):
    """Decoding that is late by one sample."""

    def signal(self, codes):
        return F.pad(super().signal(codes), (1, 0), mode="replicate")


class OnePixelLow(Mosaic):
    """Pictures that come back one pixel lower."""

    def signal(self, codes):
        return F.pad(super().signal(codes), (0, 0, 1, 0), mode="replicate")


class Fading(Mosaic):
    """Decoding that loses a seventh of the contrast."""

    def signal(self, codes):
        return super().signal(codes) * 0.7


class WholeStrides(Steps):
    """Sizes that are rounded down to whole strides."""

    def _decode(self, codes):
        made = super()._decode(codes)
        return made[..., : max(1, made.shape[-1] // STRIDE * STRIDE)]


class Unclamped(Steps):
    """Samples beyond full scale."""

    def _decode(self, codes):
        return batches.crop(self.signal(codes) * 1.2, codes.sizes)


class SilenceIsNan(Steps):
    """A division by the loudness, which silence does not have."""

    def _decode(self, codes):
        made = super()._decode(codes)
        peak = made.abs().amax(-1, keepdim=True)
        return made / peak * peak


class Unvalidated(Steps):
    """Signals that nobody checks."""

    def encode(self, x, setting=None):
        return self._encode(torch.nan_to_num(x).float().clamp(-1, 1), setting)


class SomeCodesFail(Steps):
    """A codebook with entries that do not decode, in a codec that says all do."""

    def _decode(self, codes):
        if bool((codes.indices == TONES - 1).any()):
            raise ValueError("the last entry is reserved")
        return super()._decode(codes)


# -- tokens and bits ------------------------------------------------------------------------------


class DeadHalf(Mosaic):
    """A codebook of which only the even entries occur."""

    def levels(self, x):
        return (super().levels(x) * LEVELS / 2).floor() * 2 / LEVELS + 0.5 / LEVELS


class Collapsed(Mosaic):
    """One code for everything."""

    def levels(self, x):
        return super().levels(x) * 1e-6 + 0.3


class HiddenPeak(Steps):
    """A loudness that the object keeps from the last encode, and decoding uses."""

    peak = 1.0

    def _encode(self, x, setting):
        self.peak = float(x.abs().amax())
        return super()._encode(x / max(self.peak, 1e-3), setting)

    def _decode(self, codes):
        return super()._decode(codes) * self.peak


class UndeclaredScale(Steps):
    """A float for each signal in the side information, which the spec of the container does not know."""

    def encode(self, x, setting=None):
        codes = super().encode(x, setting)
        return Codes(codes.indices, codes.sizes, side={"scale": x.abs().amax((1, 2))[:, None]})

    def decode(self, codes):
        return super().decode(Codes(codes.indices, codes.sizes))

    def compress(self, x, setting=None):
        return bitstream.write(self, super().encode(x, setting))


class Wasteful(Steps):
    """Containers that hold the signal itself, too."""

    def compress(self, x, setting=None):
        return [data + one.numpy().tobytes() for data, one in zip(super().compress(x, setting), x, strict=True)]

    def decompress(self, data):
        if not data:
            raise BitstreamError("no data")
        return super().decompress([one[: self._own(one)] for one in data])

    def _own(self, data: bytes) -> int:
        return next(n for n in range(17, len(data) + 1) if _is_container(data[:n]))


def _is_container(data: bytes) -> bool:
    try:
        bitstream.fingerprint(data)
    except BitstreamError:
        return False
    return True


# -- gradient and growth --------------------------------------------------------------------------


class NoGradient(Latents):
    """A decoder that rounds."""

    def synthesize(self, latents):
        return super().synthesize((latents * 8).round() / 8)


class AnotherPath(Latents):
    """A path with a gradient that is not the path of decode."""

    def _decode(self, codes):
        return (super()._decode(codes) * 0.9).clamp(0, 1)


class Quadratic(Steps):
    """A table of all pairs of codes."""

    def levels(self, x):
        found = super().levels(x)
        table = found[..., :, None] - found[..., None, :]
        return found + 0 * table.amax(-1)
