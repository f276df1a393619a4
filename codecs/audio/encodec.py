"""EnCodec, the published one: SEANet with an LSTM, its convolutions padded by reflection, residual vector quantization.

Défossez et al., "High Fidelity Neural Audio Compression" (arXiv 2210.13438). The weights of the `encodec` package and
of transformers' EncodecModel load into these modules and give the same codes and the same sound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checkpoint, foreign, rate
from ..codec import Codec, LatentCodec, build
from ..quantizers import MAX_CODEBOOK, MAX_QUANTIZERS, ResidualVQ
from ..quantizers.codebooks import MAX_DISTANCES
from ..registry import register
from ..types import Codes, CodeSpec, Modality, Settings
from ..validate import is_integer
from . import seanet

OVERLAP = 0.01
"""Share of a chunk that the next one covers too."""


@dataclass(frozen=True)
class Kind:
    """What the shapes of a model's weights do not tell, and its published dial.

    chunked  sounds are coded in chunks of one second, each divided by its own loudness
    """

    layers: seanet.Layers
    channels: int
    bandwidths: tuple[float, ...]
    chunked: bool = False


KINDS = {
    "24khz": Kind(seanet.Layers(reflect=True), 1, (1.5, 3.0, 6.0, 12.0, 24.0)),
    "32khz": Kind(seanet.Layers(causal=False, reflect=True, shortcut=False), 1, (2.2,)),  # MusicGen's
    "48khz": Kind(seanet.Layers(causal=False, reflect=True, norm=True), 2, (3.0, 6.0, 12.0, 24.0), chunked=True),
}
USUAL = {24_000: "24khz", 32_000: "32khz", 48_000: "48khz"}
FILES = ("encodec_24khz-d7cc33bc.th", "encodec_48khz-7e698e3e.th")
"""Names of the `encodec` package's own files."""
STRIDES = {"24khz": 320, "32khz": 640, "48khz": 320}
"""Samples a frame of the published models."""


class ReferenceVQ(ResidualVQ):
    """Residual vector quantization that rounds as EnCodec's does, so that its codes come out where entries tie."""

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        indices, residual = [], latents
        for book in self.codebook[:count]:
            rows = residual.transpose(1, 2).reshape(-1, self.dim)
            index = torch.cat([_nearest(some, book) for some in rows.split(max(1, MAX_DISTANCES // len(book)))])
            indices.append(index.reshape(len(latents), -1))
            residual = residual - F.embedding(indices[-1], book).transpose(1, 2)
        return torch.stack(indices, 1)


def _nearest(rows: Tensor, book: Tensor) -> Tensor:
    """‖r‖² − 2 r·e + ‖e‖², summed in this order and, for the norms, along these strides."""
    entries = book.T
    products = (2 * rows) @ entries
    distances = products.neg_().add_(rows.square().sum(1, keepdim=True)).add_(entries.square().sum(0, keepdim=True))
    return distances.argmin(1)


@register("audio/encodec")
class Encodec(LatentCodec):
    """EnCodec at 24 kHz (mono, causal layers) or 48 kHz (stereo, overlapping chunks); by default as published.

    sample_rate    Hz
    kind           24khz, 32khz (MusicGen's) or 48khz: the published model whose layers it has; None: the sample
                   rate's own, else 24khz
    channels       1 or 2; None: the kind's
    ratios, filters, residual, lstm  see `WaveAutoencoder`
    codebook_size  entries of each quantizer; dim  channels of a codeword
    bandwidths     1 to 8 rates in kbit/s, rising; the last decides how many quantizers there are. None: the kind's
    Setting: the bandwidth in kbit/s, of all channels together and without the chunks' scales.

    At 48 kHz each second is a chunk of its own (the next begins .99 s later), divided by `scale`: the root mean
    square of the mean of its channels, + 1e-8; side information, float32 (batch, chunks). Chunks are faded into
    each other.
    """

    def __init__(
        self, sample_rate: int = 24000, *, kind: str | None = None, channels: int | None = None,
        ratios: list[int] = (8, 5, 4, 2), filters: int = 32, residual: int = 1, lstm: int = 2,
        codebook_size: int = 1024, dim: int = 128, bandwidths: list[float] | None = None,
    ) -> None:  # fmt: skip
        kind = USUAL.get(sample_rate, "24khz") if kind is None else kind
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r:.80} of {self.name} is none of {', '.join(KINDS)}")
        like = KINDS[kind]
        channels = like.channels if channels is None else channels
        seanet.check(
            self.name, ratios, channels=channels, sample_rate=sample_rate, filters=filters, residual=residual, lstm=lstm
        )
        if not is_integer(sample_rate, 100, 384_000):
            raise ValueError(f"sample_rate {sample_rate} of {self.name} is too low for chunks: at least 100")
        if not is_integer(codebook_size, 2, MAX_CODEBOOK):
            raise ValueError(
                f"codebook_size {codebook_size!r:.80} of {self.name} is no whole number from 2 to {MAX_CODEBOOK}"
            )
        ratios = list(ratios)
        stride = math.prod(ratios)
        self.bits_per_second = _bits_per_second(sample_rate, stride, codebook_size)
        settings = self._dial(like.bandwidths if bandwidths is None else bandwidths)
        quantizer = ReferenceVQ(codebook_size, dim, self.count(settings.default))
        # not causal, not even where the layers are: by reflection the first frame hears the six that follow it, so
        # that codes sent as sound comes in would be others
        spec = CodeSpec(
            Modality.AUDIO, quantizer.sizes, (stride,), channels, sample_rate, total=True,
            ordered=quantizer.ordered, causal=False,
            window=(sample_rate, int((1 - OVERLAP) * sample_rate)) if like.chunked else None,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.settings = settings
        network = {"residual": residual, "lstm": lstm, "layers": like.layers}
        self.encoder = seanet.encoder(channels, filters, ratios, dim, **network)
        self.decoder = seanet.decoder(channels, filters, ratios, dim, **network)
        seanet.initialise(self.encoder)
        seanet.initialise(self.decoder)
        if not like.layers.norm:
            nn.init.normal_(self.decoder[-1].conv.weight, std=1e-3)  # begin at silence, not at full scale

    def _dial(self, bandwidths: Any) -> Settings:
        """The setting; ValueError where the rates are none that a quantizer can have."""
        numbers = list(bandwidths) if isinstance(bandwidths, list | tuple) else []
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e6 for v in numbers)
        if not plain or not 1 <= len(numbers) <= 8 or sorted(set(numbers)) != numbers:
            raise ValueError(f"bandwidths of {self.name} are 1 to 8 rates in kbit/s, rising, not {bandwidths!r:.80}")
        if self.count(numbers[-1]) > MAX_QUANTIZERS:
            raise ValueError(
                f"{numbers[-1]} kbit/s are {self.count(numbers[-1])} quantizers of {self.bits_per_second / 1000:g} "
                f"kbit/s each; {self.name} has at most {MAX_QUANTIZERS}"
            )
        return Settings("bandwidth", "kbit/s", numbers[-1], tuple(numbers))

    def count(self, bandwidth: float) -> int:
        """Quantizers that a bandwidth in kbit/s pays for, at least one."""
        return max(1, math.floor(1000 * bandwidth / self.bits_per_second + 1e-6))

    # -- signals ----------------------------------------------------------------------------------

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) → (batch, dim, frames); a chunk, divided by its scale, where there are chunks."""
        return self.encoder(x)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Quantised latents, of a chunk where there are chunks → (batch, channels, frames · stride)."""
        return self.decoder(latents)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.window is None:
            return super().reconstruct(x)
        if x.shape[-1] > self.spec.window[0]:
            raise ValueError(
                f"{self.name} trains on at most one chunk, {self.spec.window[0]} samples, not on {x.shape[-1]}"
            )
        scale = loudness(x)
        y, loss = super().reconstruct(x / scale)
        return y * scale, loss

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {} if self.spec.window is None else {"scale": (len(self.spec.chunks(size[0])),)}

    def truncate(self, codes: Codes, setting: float) -> Codes:
        return super().truncate(codes, self.count(setting))

    def _encode(self, x: Tensor, setting: float) -> Codes:
        indices, scales, count = [], [], self.count(setting)
        with torch.autocast(x.device.type, enabled=False):
            for start, length in self._chunks(x.shape[-1]):
                chunk = x[..., start : start + length]
                if self.spec.window is not None:
                    scales.append(loudness(chunk))
                    chunk = chunk / scales[-1]
                indices.append(self.quantizer.search(self.analyze(chunk), count))
        side = {"scale": torch.cat(scales, 1)[..., 0]} if scales else {}
        return Codes(torch.cat(indices, 2), torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1), None, side)

    def _decode(self, codes: Codes) -> Tensor:
        """Items of unequal sizes one by one: else what follows a short one would reach into it."""
        sizes = codes.sizes[:, 0].tolist()
        if len(set(sizes)) == 1:
            return self._waves(codes, sizes[0])
        out = torch.zeros(len(codes), self.spec.channels, max(sizes), device=codes.indices.device)
        for i, samples in enumerate(sizes):
            out[i, :, :samples] = self._waves(codes[i], samples)[0]
        return out

    def _waves(self, codes: Codes, samples: int) -> Tensor:
        """Items of one size → (batch, channels, samples) in [-1, 1]."""
        (positions,) = self.spec.grid((samples,))
        with torch.autocast(codes.indices.device.type, enabled=False):
            latents = self.quantizer.lookup(codes.indices[..., :positions])
            if self.spec.window is None:
                waves = self.synthesize(latents)[..., :samples]
            else:
                waves = self._joined(latents, codes.side["scale"], samples)
        return waves.float().clamp(-1, 1).contiguous()

    def _joined(self, latents: Tensor, scales: Tensor, samples: int) -> Tensor:
        """Chunks → one sound: a mean of those that cover a sample, weighted by a triangle over each chunk."""
        chunks = self._chunks(samples)
        if not scales[:, : len(chunks)].isfinite().all():
            raise ValueError(f"the scales of {self.name} are NaN or Inf")
        total = weights = triangle = None
        first = 0
        for (start, length), scale in zip(chunks, scales.unbind(1), strict=False):
            frames = -(-length // self.spec.stride[0])
            wave = self.synthesize(latents[..., first : first + frames]) * scale[:, None, None]
            first += frames
            if total is None:
                triangle = torch.linspace(0, 1, wave.shape[-1] + 2, device=wave.device)[1:-1]
                triangle = 0.5 - (triangle - 0.5).abs()
                total, weights = wave.new_zeros(*wave.shape[:2], samples), wave.new_zeros(samples)
            own = min(wave.shape[-1], samples - start)
            total[..., start : start + own] += triangle[:own] * wave[..., :own]
            weights[start : start + own] += triangle[:own]
        return total / weights

    def _chunks(self, samples: int) -> list[tuple[int, int]]:
        """Where each chunk begins, and its samples."""
        hop = 0 if self.spec.window is None else self.spec.window[1]
        return [(i * hop, length) for i, length in enumerate(self.spec.chunks(samples))]

    # -- weights of other projects ------------------------------------------------------------------

    @classmethod
    def imported(
        cls, checkpoint: str, *, sample_rate: int | None = None, kind: str | None = None,
        bandwidths: list[float] | None = None,
    ) -> Codec:  # fmt: skip
        """From a file of the `encodec` package or of AudioCraft, or a folder or hub id of transformers' EncodecModel.

        sample_rate  Hz; needed only where neither a config.json nor the layers tell
        kind, bandwidths  as in the constructor, in place of what the checkpoint tells
        ValueError in one line where it is no EnCodec, or of another sample rate.
        """
        files = sorted(FILES, key=lambda name: f"{str(sample_rate)[:2]}khz" not in name)
        path = foreign.locate(checkpoint, *foreign.WEIGHTS, *files)
        state = foreign.tensors(foreign.read(path), "best_state", "state_dict", "model")
        hub = any(".layers." in name and name.startswith("encoder.") for name in state)
        state = renamed(state)
        told = architecture(state, path)
        told |= _configured(path.parent / "config.json") if hub and (path.parent / "config.json").is_file() else {}
        given = {"sample_rate": sample_rate, "kind": kind, "bandwidths": bandwidths}
        given = {key: value for key, value in given.items() if value is not None}
        codec = build(cls.name, **_settled(told, given, len(state["quantizer.codebook"]), path))
        own = {name.replace(".convtr.", ".conv."): name for name in codec.state_dict()}
        return foreign.adopt(codec, {own.get(name, name): value for name, value in state.items()}, path)


def loudness(x: Tensor) -> Tensor:
    """(batch, channels, samples) → (batch, 1, 1): root mean square of the channels' mean, + 1e-8."""
    return 1e-8 + x.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt()


def _bits_per_second(sample_rate: int, stride: int, codebook_size: int) -> float:
    """Of one quantizer, whose frames a second EnCodec rounds up."""
    return rate.bits_per_position((codebook_size,)) * -(-sample_rate // stride)


# -- foreign state dicts --------------------------------------------------------------------------

_NAMES = (
    (re.compile(r"^(en|de)coder\.(?:model|layers)\."), r"\1coder."),
    (re.compile(r"\.(?:conv|convtr)\.(?=conv\.|convtr\.|norm\.)"), "."),
    (re.compile(r"\.convtr\."), ".conv."),
)
_CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(inited|cluster_size|embed|embed_avg)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the `encodec` package or of transformers → our names, but `convtr`, which is `conv` here.

    An entry's moving averages start anew from where it is and how often it was used, as the two agree only after
    training.
    """
    out: dict[str, Tensor] = {}
    books: dict[int, dict[str, Tensor]] = {}
    for name, value in foreign.fold(state).items():
        if found := _CODEBOOK.fullmatch(name):
            books.setdefault(int(found[1]), {})[found[2]] = value
            continue
        for pattern, ours in _NAMES:
            name = pattern.sub(ours, name)
        out[name] = value
    shapes = {tuple(book["embed"].shape) if "embed" in book else () for book in books.values()}
    if books and (sorted(books) != list(range(len(books))) or len(shapes) > 1 or len(min(shapes)) != 2):
        raise ValueError(f"{len(books)} codebooks of a checkpoint are not alike: {sorted(shapes)}")
    if books:
        rows = [books[q] for q in range(len(books))]
        codebook = torch.stack([row["embed"] for row in rows]).float()
        uses = torch.stack([row.get("cluster_size", row["embed"].new_zeros(len(row["embed"]))) for row in rows])
        uses = torch.where((uses > 0).any(1, keepdim=True), uses, 1.0).float()
        out["quantizer.codebook"], out["quantizer.cluster_size"] = codebook, uses
        out["quantizer.codebook_sum"] = codebook * uses[..., None]
        out["quantizer.started"] = torch.ones(len(rows), dtype=torch.bool)
    return out


def architecture(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """What the tensors tell of it; ValueError where they are not EnCodec's."""
    convs = {}
    for name, value in state.items():
        if found := re.fullmatch(r"encoder\.(\d+)\.conv\.weight", name):
            convs[int(found[1])] = tuple(value.shape)
    shapes = [convs[i] for i in sorted(convs)]
    whole_shapes = all(len(shape) == 3 and shape[2] > 1 for shape in shapes)
    if len(shapes) < 3 or not whole_shapes or "quantizer.codebook" not in state:
        raise ValueError(f"{path} is no EnCodec: it lacks encoder.model.{{i}}.conv.conv or quantizer.vq.layers.{{k}}")
    _, entries, dim = state["quantizer.codebook"].shape
    ratios = [kernel // 2 for _, _, kernel in reversed(shapes[1:-1])]
    units = sum(bool(re.fullmatch(r"encoder\.\d+\.block\.1\.conv\.weight", name)) for name in state)
    normed = any(".norm." in name for name in state)
    direct = units and not any(".shortcut." in name for name in state)
    return {
        "kind": "48khz" if normed else "32khz" if direct else "24khz",
        "channels": shapes[0][1],
        "ratios": ratios,
        "filters": shapes[0][0],
        "residual": units // len(ratios),
        "lstm": sum(bool(re.fullmatch(r"encoder\.\d+\.lstm\.weight_ih_l\d+", name)) for name in state),
        "codebook_size": entries,
        "dim": dim,
    }


def _configured(path: Path) -> dict[str, Any]:
    """What a config.json of transformers tells beyond the tensors; ValueError for layers that are none of `KINDS`."""
    config = checkpoint.read_config(path.parent)
    if config.get("model_type") != "encodec":
        raise ValueError(f"{path} describes no EncodecModel: its model_type is not 'encodec'")
    fixed = {
        "pad_mode": "reflect", "kernel_size": 7, "last_kernel_size": 7, "residual_kernel_size": 3,
        "dilation_growth_rate": 2, "compress": 2, "trim_right_ratio": 1.0,
    }  # fmt: skip
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path} has {key} {config[key]!r}; audio/encodec has {value!r} only")
    chunks = (config.get("normalize", False), config.get("chunk_length_s"))
    chunks += (config.get("overlap"),) if chunks[1] else ()
    layers = seanet.Layers(
        causal=config.get("use_causal_conv", True), reflect=True,
        norm=config.get("norm_type") == "time_group_norm", shortcut=config.get("use_conv_shortcut", True),
    )  # fmt: skip
    kind = next((name for name, kind in KINDS.items() if kind.layers == layers), None)
    if kind is None or chunks != ((True, 1, OVERLAP) if KINDS[kind].chunked else (False, None)):
        raise ValueError(
            f"{path} mixes layers and chunks as no published model does: {layers}, (normalize, chunk_length_s, "
            f"overlap) {chunks}"
        )
    return {
        "kind": kind,
        "sample_rate": config.get("sampling_rate", 24_000),
        "bandwidths": list(config.get("target_bandwidths", KINDS["24khz"].bandwidths)),
    }


def _settled(told: dict[str, Any], given: dict[str, Any], count: int, path: Path) -> dict[str, Any]:
    """The constructor's arguments: what a checkpoint of `count` codebooks tells, and what the caller says."""
    out = {**told, **given}
    kind, stride = told["kind"], math.prod(told["ratios"])
    if "sample_rate" not in out:
        if kind != "48khz" and stride != STRIDES[kind]:
            raise ValueError(f"{path} does not tell its sample rate; name it, as in sample_rate=24000")
        out["sample_rate"] = next(hz for hz, usual in USUAL.items() if usual == kind)
    hz = out["sample_rate"]
    if hz != told.get("sample_rate", hz):
        raise ValueError(f"sample_rate {hz!r:.80} is not that of {path}, which is {told['sample_rate']}")
    if "kind" not in given and "sample_rate" not in told and hz in (24_000, 48_000) and USUAL[hz] != kind:
        raise ValueError(f"sample_rate {hz} is not that of {path}: it has the layers of the {kind} model")
    if "bandwidths" not in out and is_integer(hz, 1, 384_000):
        full = round(count * _bits_per_second(hz, stride, told["codebook_size"]) / 1000, 6)
        out["bandwidths"] = [*(v for v in KINDS[out["kind"]].bandwidths if v < full), full]
    if isinstance(out.get("bandwidths"), list | tuple):  # 6 and 6.0 are one configuration
        out["bandwidths"] = [float(v) if type(v) is int else v for v in out["bandwidths"]]
    return out
