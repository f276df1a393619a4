"""Properties of the published EnCodec models that the shapes of the weights do not imply."""

from __future__ import annotations

from dataclasses import dataclass

from ... import rate
from .. import seanet

OVERLAP = 0.01
"""Overlap of neighboring chunks as a share of a chunk."""


@dataclass(frozen=True)
class EncodecKind:
    """Layers and defaults of a published model.

    Attributes:
        layers: Options of its convolutions.
        channels: 1 or 2.
        stride: Samples per frame of the published weights.
        bandwidths: In kbit/s, rising.
        chunked: Whether a waveform is coded in chunks of one second, each divided by its loudness.
    """

    layers: seanet.Layers
    channels: int
    stride: int
    bandwidths: tuple[float, ...]
    chunked: bool = False


KINDS = {
    "24khz": EncodecKind(seanet.Layers(reflect=True), 1, 320, (1.5, 3.0, 6.0, 12.0, 24.0)),
    "32khz": EncodecKind(seanet.Layers(causal=False, reflect=True, shortcut=False), 1, 640, (2.2,)),  # MusicGen's
    "48khz": EncodecKind(
        seanet.Layers(causal=False, reflect=True, norm=True), 2, 320, (3.0, 6.0, 12.0, 24.0), chunked=True
    ),
}
BY_RATE = {24_000: "24khz", 32_000: "32khz", 48_000: "48khz"}
"""Sample rate in Hz → published model."""


def bits_per_second(sample_rate: int, stride: int, codebook_size: int) -> float:
    """Return the bits per second of one quantizer. EnCodec rounds its frames per second up."""
    return rate.bits_per_position((codebook_size,)) * -(-sample_rate // stride)
