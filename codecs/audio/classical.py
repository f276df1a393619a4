"""Opus, Vorbis, MP3 and FLAC by libsndfile. The tokens are the bytes of the file.

If a format does not support the codec's sample rate, audio is resampled to the format's next higher rate, or its
highest, and back. Lengths are exact from 1 sample up.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, ClassVar

from torch import Tensor

from tokenloom import errors, lazy

from .. import media
from ..native import NativeCodec
from ..registry import register
from ..types import CodeSpec, Modality, Settings
from ..validate import require_integer
from . import lame, ogg

soundfile = lazy.load("soundfile")

LOWEST_RATE, HIGHEST_RATE = 1_000, 192_000
"""Supported sample rates in Hz."""
COMMON_RATES = (24_000, 8_000, 11_025, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)


class SoundfileCodec(NativeCodec):
    """Codec whose codes are audio files.

    Args:
        sample_rate: Sample rate of the signals in Hz.
        channels: 1 or 2.
    """

    format: ClassVar[str]
    subtype: ClassVar[str]
    native_rates: ClassVar[tuple[int, ...]] = ()
    """Sample rates of the format in Hz; () for any."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = tuple(
        {"sample_rate": rate, "channels": channels} for rate in COMMON_RATES for channels in (1, 2)
    )
    """Configurations that `codecs.decompress` tries for a container."""

    def __init__(self, sample_rate: int = 24_000, channels: int = 1) -> None:
        super().__init__()
        require_integer(f"sample_rate of {self.name}", sample_rate, LOWEST_RATE, HIGHEST_RATE)
        require_integer(f"channels of {self.name}", channels, 1, 2)
        self.spec = CodeSpec(Modality.AUDIO, (256,), (), channels, sample_rate, total=False)
        self.sample_rate = self.native_rate = sample_rate
        if self.native_rates:
            self.native_rate = next((r for r in self.native_rates if r >= sample_rate), self.native_rates[-1])

    @property
    def config(self) -> dict[str, Any]:
        """Both arguments, defaults included, so that equal codecs have equal fingerprints."""
        return {"sample_rate": self.sample_rate, "channels": self.spec.channels}

    @config.setter
    def config(self, given: dict[str, Any]) -> None:
        pass  # the base class and `build` set it

    def options(self, setting: Any) -> dict[str, Any]:
        """Return the options of `soundfile.SoundFile` for a setting, except sample rate and channels."""
        return {"format": self.format, "subtype": self.subtype}

    def seal(self, data: bytes) -> bytes:
        """Convert the bytes that the encoder wrote to those that are stored."""
        return data

    def verify(self, data: bytes) -> None:
        """Raise ValueError if the checksums of the format show damage."""

    def to_bytes(self, signal: Tensor, setting: Any) -> bytes:
        native = media.resample(signal, self.sample_rate, self.native_rate)
        return self.seal(media.encode_audio(native, self.native_rate, **self.options(setting)))

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        (samples,) = size
        frames = -(-samples * self.native_rate // self.sample_rate)
        try:
            self.verify(data)
            native = self._decode_file(data, frames)
        except ValueError as error:
            raise ValueError(f"{self.name} needs a complete {self.subtype} file: {error}") from error
        return media.resample(native, self.native_rate, self.sample_rate)[:, :samples]

    def _decode_file(self, data: bytes, frames: int) -> Tensor:
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                header = (file.format, file.subtype, file.samplerate, file.channels, file.frames)
                expected = (self.format, self.subtype, self.native_rate, self.spec.channels, frames)
                if header != expected:
                    raise ValueError(f"it must hold {_describe(expected)}, got {_describe(header)}")
                waveform = media.decode_audio(file, limit=frames)
        except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
            raise ValueError(errors.first_line(error)) from error
        if waveform.shape[1] != frames:
            raise ValueError(f"it ends after {waveform.shape[1]} of {frames} samples")
        if not waveform.isfinite().all():
            raise ValueError("it decodes to NaN or infinity")
        return waveform.clamp(-1, 1)


def _describe(header: tuple[Any, ...]) -> str:
    return "{} {} at {} Hz with {} channels and {} samples".format(*header)


def geometric(low: int, high: int) -> tuple[int, ...]:
    """Return 8 integers that are evenly spaced on a logarithmic scale."""
    return tuple(round(low * (high / low) ** (i / 7)) for i in range(8))


class OggCodec(SoundfileCodec):
    """Codec of Ogg files. Bytes are deterministic, and the CRC of every page is checked (see ogg.py)."""

    format = "OGG"

    def seal(self, data: bytes) -> bytes:
        return ogg.normalize(data)

    def verify(self, data: bytes) -> None:
        ogg.verify(data)


@register("audio/opus")
class Opus(OggCodec):
    """Opus with a variable bit rate. The setting is the nominal mean in kbit/s per channel."""

    subtype = "OPUS"
    native_rates = (8_000, 12_000, 16_000, 24_000, 48_000)
    settings = Settings("bitrate", "kbit/s per channel", 24, geometric(6, 256), tuple(range(6, 257)))

    def options(self, setting: int) -> dict[str, Any]:
        # libsndfile maps levels linearly: 0 to 256 kbit/s per channel, 1 to 6
        return {**super().options(setting), "compression_level": 1 - (setting - 6) / 250}


@register("audio/vorbis")
class Vorbis(OggCodec):
    """Vorbis. The setting is its quality from 0 to 10. Codebooks take 3 to 4 kB of every file."""

    subtype = "VORBIS"
    # evenly spaced in log-rate, measured on music at 24 kHz
    settings = Settings(
        "quality", "", 4.0, (0.0, 1.4, 2.7, 4.1, 5.6, 6.9, 8.4, 10.0), tuple(q / 10 for q in range(101))
    )

    def options(self, setting: float) -> dict[str, Any]:
        return {**super().options(setting), "compression_level": 1 - setting / 10}


@register("audio/mp3")
class Mp3(SoundfileCodec):
    """MPEG layer III by LAME. The setting is the average bit rate in kbit/s of all channels together.

    Its range depends on the sample rate: 32 to 320 kbit/s from 32 kHz up (MPEG-1), 8 to 160 from 16 kHz up (MPEG-2),
    8 to 64 below (MPEG-2.5). A constant bit rate would lose the exact length.
    """

    format = "MP3"
    subtype = "MPEG_LAYER_III"
    native_rates = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

    def __init__(self, sample_rate: int = 24_000, channels: int = 1) -> None:
        super().__init__(sample_rate, channels)
        self.low, self.high = (
            (32, 320) if self.native_rate >= 32_000 else (8, 160 if self.native_rate >= 16_000 else 64)
        )
        sweep = geometric(self.low, self.high)
        self.settings = Settings("bitrate", "kbit/s", sweep[4], sweep, tuple(range(self.low, self.high + 1)))

    def options(self, setting: int) -> dict[str, Any]:
        # linear from 0, the highest rate, to 1, the lowest, which libsndfile refuses
        level = min((self.high - setting) / (self.high - self.low), 0.9999)
        return {**super().options(setting), "compression_level": level, "bitrate_mode": "AVERAGE"}

    def verify(self, data: bytes) -> None:
        lame.verify(data)


@register("audio/flac")
class Flac(SoundfileCodec):
    """FLAC, lossless for 16-bit audio."""

    format = "FLAC"
    subtype = "PCM_16"

    def options(self, setting: None) -> dict[str, Any]:
        return {**super().options(setting), "compression_level": 1.0}

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        signal = super().from_bytes(data, size)
        pcm = media.to_int16(signal).T.contiguous().numpy().astype("<i2")
        if hashlib.md5(pcm.tobytes(), usedforsecurity=False).digest() != data[26:42]:  # STREAMINFO's last field
            raise ValueError(f"{self.name}: the MD5 of the decoded samples does not match the file")
        return signal
