"""Decode results with the channels' codecs or with diffusion decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tokenloom import errors
from tokenloom.codecs import Codec, Codes, Modality, media

from ..diffusion import samplers
from ..diffusion.codec import DiffusionCodec
from ..diffusion.decoder import DiffusionDecoder, decoder_for
from ..vocabulary import Channel, Vocabulary, segments

DECODERS = ("plain", "diffusion")


class ResultDecoder:
    """Decodes the results of a model, and keeps the diffusion decoders that it loads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._diffusion: dict[str, DiffusionDecoder] = {}

    def select(
        self, name: str, steps: int | None, seed: int, channel: Channel | None, device: torch.device
    ) -> dict[str, Codec]:
        """Return the decoder of each channel (see `Omni.generate`). None stands for all channels."""
        decoders: dict[str, Any] = {n: c.codec for n, c in self.vocabulary.channels.items()}
        if name not in DECODERS:
            raise ValueError(errors.unknown("decoder", name, DECODERS))
        if name == "plain":
            if steps is not None:
                raise ValueError(f"steps must be None unless decoder='diffusion', got {steps!r}")
            return decoders
        samplers.times(1 if steps is None else steps)  # raises ValueError if steps are out of range
        for one in self.vocabulary.channels.values() if channel is None else [channel]:
            if one.modality is Modality.TEXT:
                continue
            if one.name not in self._diffusion:
                try:
                    self._diffusion[one.name] = decoder_for(one.codec)
                except ValueError as error:
                    raise ValueError(f"channel {one.name}: {error}") from error
            decoders[one.name] = DiffusionCodec(self._diffusion[one.name].to(device), steps, seed)
        return decoders

    def decode(
        self, results: Sequence[Sequence[tuple[str, Codes]]], decoders: Mapping[str, Codec],
        sample_rate: int | None,
    ) -> list[list[Any]]:  # fmt: skip
        """Return the signals of each result's segments; audio is resampled to `sample_rate`."""
        out = segments.decode_rows(results, decoders)
        for row, result in zip(out, results, strict=True):
            for at, (name, _) in enumerate(result):
                own_rate = self.vocabulary.channels[name].codec.spec.sample_rate
                if own_rate and sample_rate:
                    row[at] = media.resample(row[at], own_rate, sample_rate)
        return out
