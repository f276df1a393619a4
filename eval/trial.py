"""Trial of a codec: one item at one setting from signal to bytes and back, with its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenloom import devices
from tokenloom.codecs import bitstream, media, rate
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, Modality
from tokenloom.data import Item
from tokenloom.errors import MissingPackage, describe
from tokenloom.metrics.errors import Unmeasurable

T = TypeVar("T")

RATE_UNITS = {Modality.IMAGE: "bpp", Modality.AUDIO: "kbit/s", Modality.TEXT: "bits per byte"}
TOKEN_UNITS = {Modality.IMAGE: "per image", Modality.AUDIO: "per second", Modality.TEXT: "per text"}
AMOUNTS = {Modality.IMAGE: "megapixels", Modality.AUDIO: "seconds of audio", Modality.TEXT: "megabytes"}


@dataclass(frozen=True)
class Trial:
    """Cost and reconstruction of one item. Codes and `decoded` are batches of one."""

    codes: Codes
    data: bytes
    """The container."""
    decoded: Tensor | list[str]
    """The codec's output."""
    output: Tensor | str
    """The codec's output at the sample rate, channels and length of the item."""
    bits: dict[str, float | None]
    """Bits of the item: nominal, entropy (None without counts), coded."""
    rates: dict[str, float | None]
    """Rates in the unit of the modality, RATE_UNITS."""
    tokens: int
    encode_seconds: float
    """Wall time from signal to container."""
    decode_seconds: float
    """Wall time from container to signal."""


class Failure(str):
    """Reason why a call gave no value, on one line."""


def attempt(call: Callable[[], T]) -> T | Failure:
    """Return the value of a call, or the reason of its failure.

    Codecs and metrics of third parties can raise anything: SystemExit and the panics of Rust are no `Exception`. A
    package that is not installed is not the reason of a failure, but of an error.
    """
    try:
        return call()
    except (KeyboardInterrupt, MissingPackage):
        raise
    except BaseException as error:
        return Failure(str(error) if isinstance(error, Unmeasurable) else describe(error))


def amount(item: Item) -> float:
    """Return the size of an item's signal in the unit of the modality, AMOUNTS."""
    if item.modality is Modality.TEXT:
        return len(item.signal.encode()) / 1e6
    if item.modality is Modality.IMAGE:
        return item.signal.shape[-2] * item.signal.shape[-1] / 1e6
    return item.signal.shape[-1] / item.sample_rate


def run(codec: Codec, item: Item, setting: Any = None) -> Trial:
    """Encode an item, write the container, read it and decode. Errors of the codec pass through."""
    x = to_codec(item, codec)
    start = time.perf_counter()
    codes = codec.encode(x, setting)
    (data,) = bitstream.write(codec, codes)
    middle = time.perf_counter()
    decoded = codec.decompress([data])
    devices.synchronize(codec.device)
    end = time.perf_counter()
    if isinstance(decoded, Tensor) and not decoded.isfinite().all():
        raise ValueError("the reconstruction holds NaN or infinity")
    entropy = rate.entropy(codec, codes)
    bits = {
        "nominal": rate.nominal(codec.spec, codes).item(),
        "entropy": None if entropy is None else entropy.item(),
        "coded": rate.coded([data]).item(),
    }
    return Trial(
        codes,
        data,
        decoded,
        from_codec(decoded[0], item, codec),
        bits,
        {kind: None if value is None else in_unit(value, codes, codec) for kind, value in bits.items()},
        int(rate.tokens(codec.spec, codes).item()),
        middle - start,
        end - middle,
    )


def in_unit(bits: float, codes: Codes, codec: Codec) -> float:
    """Convert bits of one item to bits per pixel, kbit/s or bits per byte."""
    total = torch.tensor([bits], dtype=torch.float64)
    if codec.spec.modality is Modality.IMAGE:
        return rate.bits_per_pixel(total, codes).item()
    if codec.spec.modality is Modality.AUDIO:
        return rate.kbps(total, codes, codec.spec).item()
    return bits / int(codes.sizes[0, 0])


def to_codec(item: Item, codec: Codec) -> Tensor | list[str]:
    """Return an item as a batch of one, at the sample rate and channels of a codec."""
    if item.modality is Modality.TEXT:
        if not item.signal:
            raise ValueError("an empty text has no rate per byte")
        return [item.signal]
    if item.modality is Modality.IMAGE:
        return item.signal[None]
    return media.convert(item.signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels, codec.name)[None]


def narrowed(item: Item, codec: Codec) -> str:
    """Return how a codec's sample rate and channels are below those of a sound; "" if they are not."""
    if item.modality is not Modality.AUDIO:
        return ""
    have, want = codec.spec.sample_rate, item.sample_rate
    rate = f"sounds of {want / 1000:g} kHz at {have / 1000:g} kHz" if have < want else ""
    few = codec.spec.channels < len(item.signal)
    channels = f"{len(item.signal)} channels as {codec.spec.channels}" if few else ""
    return " and ".join(filter(None, (rate, channels)))


def from_codec(decoded: Tensor | str, item: Item, codec: Codec) -> Tensor | str:
    """Return a codec's output for one item at the item's sample rate, channels and length."""
    if isinstance(decoded, str):
        return decoded
    if item.modality is not Modality.AUDIO:
        return decoded.cpu()
    y = media.resample(decoded.cpu(), codec.spec.sample_rate, item.sample_rate)
    missing = item.signal.shape[-1] - y.shape[-1]  # at most 1, from rounding lengths twice
    y = torch.nn.functional.pad(y, (0, max(missing, 0)))[:, : item.signal.shape[-1]]
    return media.mix(y, item.signal.shape[0])
