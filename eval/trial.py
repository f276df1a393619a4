"""One codec, one setting, one item: from the data's signal to bytes and back, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import bitstream, media, rate
from tokenloom.codecs.codec import Codec
from tokenloom.codecs.types import Codes, Modality
from tokenloom.data import Item

RATE_UNITS = {Modality.IMAGE: "bpp", Modality.AUDIO: "kbit/s", Modality.TEXT: "bits per byte"}
TOKEN_UNITS = {Modality.IMAGE: "per image", Modality.AUDIO: "per second", Modality.TEXT: "per text"}
AMOUNTS = {Modality.IMAGE: "megapixels", Modality.AUDIO: "seconds of audio", Modality.TEXT: "megabytes"}


@dataclass(frozen=True)
class Trial:
    """What one item cost and what came back.

    decoded  the reconstruction as the codec gave it, a batch of one
    output   the same in the data's own form: shape, sample rate and channels of the item's signal
    bits     nominal, entropy (None without counts), coded: bits of the item
    rates    the same in the unit of the modality (RATE_UNITS)
    tokens   number of tokens of the item
    encode_seconds, decode_seconds   wall time, signal → container and container → signal
    """

    codes: Codes
    data: bytes
    decoded: Tensor | list[str]
    output: Tensor | str
    bits: dict[str, float | None]
    rates: dict[str, float | None]
    tokens: int
    encode_seconds: float
    decode_seconds: float


def amount(item: Item) -> float:
    """How much signal an item is, in the unit of AMOUNTS."""
    if item.modality is Modality.TEXT:
        return len(item.signal.encode()) / 1e6
    if item.modality is Modality.IMAGE:
        return item.signal.shape[-2] * item.signal.shape[-1] / 1e6
    return item.signal.shape[-1] / item.sample_rate


def run(codec: Codec, item: Item, setting: Any = None) -> Trial:
    """Encode, write the container, read it back, decode. Raises whatever the codec raises."""
    x = to_codec(item, codec)
    start = time.perf_counter()
    codes = codec.encode(x, setting)
    (data,) = bitstream.write(codec, codes)
    middle = time.perf_counter()
    decoded = codec.decompress([data])
    end = time.perf_counter()
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
    """Bits of one item → bits per pixel, kbit/s or bits per byte."""
    total = torch.tensor([bits], dtype=torch.float64)
    if codec.spec.modality is Modality.IMAGE:
        return rate.bits_per_pixel(total, codes).item()
    if codec.spec.modality is Modality.AUDIO:
        return rate.kbps(total, codes, codec.spec).item()
    return bits / int(codes.sizes[0, 0])


def to_codec(item: Item, codec: Codec) -> Tensor | list[str]:
    """The item as a batch of one that the codec takes: its own sample rate and channels."""
    if item.modality is Modality.TEXT:
        if not item.signal:
            raise ValueError("an empty text has no rate per byte")
        return [item.signal]
    if item.modality is Modality.IMAGE:
        return item.signal[None]
    return media.convert(item.signal, item.sample_rate, codec.spec.sample_rate, codec.spec.channels)[None]


def from_codec(decoded: Tensor | str, item: Item, codec: Codec) -> Tensor | str:
    """What the codec gave back, in the item's own sample rate, channels and length."""
    if item.modality is not Modality.AUDIO:
        return decoded if isinstance(decoded, str) else decoded.cpu()
    y = media.resample(decoded.cpu(), codec.spec.sample_rate, item.sample_rate)
    missing = item.signal.shape[-1] - y.shape[-1]  # at most a sample, from rounding lengths twice
    y = torch.nn.functional.pad(y, (0, max(missing, 0)))[:, : item.signal.shape[-1]]
    return media.mix(y, item.signal.shape[0])
