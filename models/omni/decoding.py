"""Codes of results → signals, by the channels' codecs or by diffusion decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenloom.codecs import Codec, Codes, Modality, media

from ..diffusion import samplers
from ..diffusion.decoder import DiffusionDecoder, decoder_for
from ..vocabulary import Channel, Vocabulary, segments

DECODERS = ("plain", "diffusion")


class SeededDecoder(nn.Module):
    """A diffusion decoder in place of its codec. Each batch gets other noise."""

    def __init__(self, decoder: DiffusionDecoder, steps: int | None, seed: int) -> None:
        super().__init__()
        self.decoder, self.steps, self.seed = decoder, steps, seed
        self.spec = replace(decoder.codec.spec, causal=False)  # padding reaches into a signal

    def decode(self, codes: Codes) -> Tensor:
        signals = self.decoder.decode(codes, steps=self.steps, seed=self.seed)
        self.seed += 1
        return signals


class ResultDecoder:
    """Decodes the results of a model. It keeps the diffusion decoders that it has used."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._diffusion: dict[str, DiffusionDecoder] = {}

    def select(
        self, name: str, steps: int | None, seed: int, channel: Channel | None, device: torch.device
    ) -> dict[str, Codec | SeededDecoder]:
        """Return the decoder of each channel, as `Omni.generate` describes. Results have `channel` only, if given."""
        found: dict[str, Any] = {n: c.codec for n, c in self.vocabulary.channels.items()}
        if name not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {name!r}")
        if name == "plain":
            if steps is not None:
                raise ValueError(f"steps must be None unless decoder='diffusion', got {steps!r}")
            return found
        samplers.times(1 if steps is None else steps)  # refuses a number out of range before any work
        for one in self.vocabulary.channels.values() if channel is None else [channel]:
            if one.modality is Modality.TEXT:
                continue
            if one.name not in self._diffusion:
                try:
                    self._diffusion[one.name] = decoder_for(one.codec)
                except ValueError as error:
                    raise ValueError(f"channel {one.name}: {error}") from error
            found[one.name] = SeededDecoder(self._diffusion[one.name].to(device), steps, seed)
        return found

    def decode(
        self, results: Sequence[Sequence[tuple[str, Codes]]], decoders: Mapping[str, Codec | SeededDecoder],
        sample_rate: int | None, device: torch.device,
    ) -> list[list[Any]]:  # fmt: skip
        """Return the signals of each result's segments; audio is resampled to `sample_rate`."""
        out = segments.decode_rows(results, decoders)
        for row, result in zip(out, results, strict=True):
            for at, (name, _) in enumerate(result):
                own_rate = self.vocabulary.channels[name].codec.spec.sample_rate
                if own_rate and sample_rate:
                    row[at] = media.resample(row[at].cpu(), own_rate, sample_rate).to(device)
        return out
