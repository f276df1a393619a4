"""Opus, Vorbis, MP3 and FLAC through libsndfile; the tokens are the bytes of the file.

Where a format lacks a codec's sample rate, the sound is resampled to the format's next higher rate
(its highest, beyond that) and back. Lengths come back exact from 1 sample up.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, ClassVar

from torch import Tensor

from .. import media
from ..native import NativeCodec
from ..registry import register
from ..types import CodeSpec, Modality, Settings
from . import ogg

RATES = range(1_000, 192_001)
"""Sample rates taken, Hz."""
COMMON_RATES = (24_000, 8_000, 11_025, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)


class SoundfileCodec(NativeCodec):
    """One sound ↔ one file of a format that libsndfile knows.

    sample_rate  Hz, of the signals that are encoded and decoded
    channels     1 or 2
    """

    format: ClassVar[str]
    subtype: ClassVar[str]
    native_rates: ClassVar[tuple[int, ...]] = ()
    """Rates that the format has; () for any."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = tuple(
        {"sample_rate": rate, "channels": channels} for rate in COMMON_RATES for channels in (1, 2)
    )
    """Configurations among which a container's fingerprint is looked up."""

    def __init__(self, sample_rate: int = 24_000, channels: int = 1) -> None:
        super().__init__()
        if type(sample_rate) is not int or sample_rate not in RATES:
            raise ValueError(
                f"sample_rate {sample_rate!r} of {self.name} is no integer from {RATES[0]} to {RATES[-1]} Hz"
            )
        if type(channels) is not int or channels not in (1, 2):
            raise ValueError(f"channels {channels!r} of {self.name} is none of (1, 2)")
        self.spec = CodeSpec(
            Modality.AUDIO, (256,), (), channels, sample_rate, total=False, ordered=False, causal=False
        )
        self.native_rate = sample_rate
        if self.native_rates:
            self.native_rate = next((r for r in self.native_rates if r >= sample_rate), self.native_rates[-1])

    @property
    def config(self) -> dict[str, Any]:
        """Both arguments, given or not: equal codecs have equal fingerprints."""
        return {"sample_rate": self.spec.sample_rate, "channels": self.spec.channels}

    @config.setter
    def config(self, given: dict[str, Any]) -> None:
        pass  # set by the base class and the registry

    def options(self, setting: Any) -> dict[str, Any]:
        """Keyword arguments of soundfile.SoundFile for one setting, rate and channels apart."""
        return {"format": self.format, "subtype": self.subtype}

    def seal(self, data: bytes) -> bytes:
        """The file as it is kept."""
        return data

    def verify(self, data: bytes) -> None:
        """ValueError where the format's own checksums tell of damage, before a decoder sees it."""

    def to_bytes(self, signal: Tensor, setting: Any) -> bytes:
        native = media.resample(signal, self.spec.sample_rate, self.native_rate)
        return self.seal(media.encode_audio(native, self.native_rate, **self.options(setting)))

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        (samples,) = size
        frames = -(-samples * self.native_rate // self.spec.sample_rate)
        try:
            self.verify(data)
            native = self._read(data, frames)
        except ValueError as error:
            raise ValueError(f"{self.name}: {len(data)} bytes are no whole {self.subtype} file: {error}") from error
        return media.resample(native, self.native_rate, self.spec.sample_rate)[:, :samples]

    def _read(self, data: bytes, frames: int) -> Tensor:
        import soundfile

        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                found = (file.format, file.subtype, file.samplerate, file.channels, file.frames)
                wanted = (self.format, self.subtype, self.native_rate, self.spec.channels, frames)
                if found != wanted:
                    raise ValueError(f"it holds {_words(found)}, the codes say {_words(wanted)}")
                waveform = media.decode_audio(file, limit=frames)
        except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        if waveform.shape[1] != frames:
            raise ValueError(f"it ends after {waveform.shape[1]} of {frames} samples")
        if not waveform.isfinite().all():
            raise ValueError("it decodes to NaN or infinity")
        return waveform.clamp(-1, 1)


def _words(found: tuple[Any, ...]) -> str:
    return "{} {} of {} Hz, {} channels, {} samples".format(*found)


def _geometric(low: int, high: int) -> tuple[int, ...]:
    """8 integers spread evenly in their logarithm."""
    return tuple(round(low * (high / low) ** (i / 7)) for i in range(8))


class OggCodec(SoundfileCodec):
    """Ogg files with repeatable bytes (see ogg.normalise) and every page's CRC checked."""

    format = "OGG"

    def seal(self, data: bytes) -> bytes:
        return ogg.normalise(data)

    def verify(self, data: bytes) -> None:
        ogg.verify(data)


@register("audio/opus")
class Opus(OggCodec):
    """Opus with a variable bit-rate; the setting is the mean aimed at, in kbit/s per channel."""

    subtype = "OPUS"
    native_rates = (8_000, 12_000, 16_000, 24_000, 48_000)
    settings = Settings("bitrate", "kbit/s per channel", 24, _geometric(6, 256), tuple(range(6, 257)))

    def options(self, setting: int) -> dict[str, Any]:
        # libsndfile maps a level of 0 to 256 kbit/s per channel and 1 to 6, linearly
        return {**super().options(setting), "compression_level": 1 - (setting - 6) / 250}


@register("audio/vorbis")
class Vorbis(OggCodec):
    """Vorbis; the setting is its quality from 0 to 10. Codebooks make 3 to 4 kB of every file."""

    subtype = "VORBIS"
    # even in log-rate, measured on music at 24 kHz
    settings = Settings(
        "quality", "", 4.0, (0.0, 1.4, 2.7, 4.1, 5.6, 6.9, 8.4, 10.0), tuple(q / 10 for q in range(101))
    )

    def options(self, setting: float) -> dict[str, Any]:
        return {**super().options(setting), "compression_level": 1 - setting / 10}


@register("audio/mp3")
class Mp3(SoundfileCodec):
    """MPEG layer III by LAME with an average bit-rate, the setting, in kbit/s of all channels together.

    Which rates there are depends on the sample rate: 32 to 320 kbit/s from 32 kHz on (MPEG-1),
    8 to 160 from 16 kHz on (MPEG-2), 8 to 64 below (MPEG-2.5). A constant bit-rate would lose the length.
    """

    format = "MP3"
    subtype = "MPEG_LAYER_III"
    native_rates = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

    def __init__(self, sample_rate: int = 24_000, channels: int = 1) -> None:
        super().__init__(sample_rate, channels)
        self.low, self.high = (
            (32, 320) if self.native_rate >= 32_000 else (8, 160 if self.native_rate >= 16_000 else 64)
        )
        sweep = _geometric(self.low, self.high)
        self.settings = Settings("bitrate", "kbit/s", sweep[4], sweep, tuple(range(self.low, self.high + 1)))

    def options(self, setting: int) -> dict[str, Any]:
        # linear from the highest rate at 0 to the lowest at 1, which itself libsndfile refuses
        level = min((self.high - setting) / (self.high - self.low), 0.9999)
        return {**super().options(setting), "compression_level": level, "bitrate_mode": "AVERAGE"}

    def verify(self, data: bytes) -> None:
        """By the LAME tag in the first frame: the file's length, and CRC-16s of the tag and of all behind it."""
        tag = max(data.find(b"Xing", 0, 64), data.find(b"Info", 0, 64))
        end = tag + 156
        if tag < 0 or len(data) < end:
            raise ValueError("it has no LAME tag")
        if int.from_bytes(data[end - 8 : end - 4], "big") != len(data):
            raise ValueError("its length is not the one in its LAME tag")
        if _crc16(data[: end - 2]) != int.from_bytes(data[end - 2 : end], "big"):
            raise ValueError("the CRC of its LAME tag does not match")
        if _crc16(data[end:]) != int.from_bytes(data[end - 4 : end - 2], "big"):
            raise ValueError("the CRC of its music does not match")


@register("audio/flac")
class Flac(SoundfileCodec):
    """Lossless for sounds of 16 bits."""

    format = "FLAC"
    subtype = "PCM_16"
    settings = Settings()

    def options(self, setting: None) -> dict[str, Any]:
        return {**super().options(setting), "compression_level": 1.0}

    def from_bytes(self, data: bytes, size: tuple[int, ...]) -> Tensor:
        signal = super().from_bytes(data, size)
        pcm = media.to_int16(signal).T.contiguous().numpy().astype("<i2")
        if hashlib.md5(pcm.tobytes(), usedforsecurity=False).digest() != data[26:42]:  # STREAMINFO's last field
            raise ValueError(f"{self.name}: the decoded samples do not have the MD5 that the file states")
        return signal


def _crc16_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC16 = _crc16_table()


def _crc16(data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, reflected, from 0: the one that LAME writes."""
    crc = 0
    for byte in data:
        crc = (crc >> 8) ^ _CRC16[(crc ^ byte) & 255]
    return crc
