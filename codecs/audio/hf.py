"""Audio tokenizers of Hugging Face transformers: EnCodec, DAC, Mimi, X-Codec, X-Codec 2 and Higgs Audio 2."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checkpoint, foreign
from ..codec import Codec, build
from ..registry import register
from ..types import MAX_SAMPLES, Codes
from ..validate import is_integer
from . import hf_layouts
from .hf_families import FAMILIES, LARGEST, PARTS, padded

MAX_NUMBERS = 2**30
"""Weights of more numbers than this are refused before a model is allocated; X-Codec 2, the largest, has 0.6e9."""
MAX_VALUE = 2**20
MAX_COUNT = 64
"""Whole numbers of a config end here, those that count layers or quantizers there."""


@register("audio/hf")
class AudioHF(Codec):
    """A model of transformers behind our interface.

    model  its transformers config as plain values, `model_type` included; what it leaves out has that type's default
    whole_frames  True: zeros complete the last frame of a sound before it is encoded, as in Kyutai's own Mimi; False:
           each layer pads for itself, as in transformers' Mimi and EnCodec. None: as transformers does for the type

    Each item is encoded and decoded by itself, in float32 and in eval mode, so that it has the same codes in any batch;
    what a decoder lacks at the end of a signal is silence. Random weights come with random codebooks.
    Setting: the bandwidth in kbit/s, or the number of quantizers, or none.
    """

    variants = ()
    model_types = tuple(FAMILIES)

    def __init__(self, model: dict[str, Any], whole_frames: bool | None = None) -> None:
        super().__init__()
        config = configured(model)
        self.family = FAMILIES[config.model_type]
        if whole_frames not in (None, True, False) or (whole_frames is False and self.family.whole_frames):
            raise ValueError(f"whole_frames is {whole_frames!r:.80}; {config.model_type} takes None or True")
        self.whole_frames = self.family.whole_frames if whole_frames is None else whole_frames
        with _one_line(config.model_type):
            bounded(config)
            self.model = foreign.of_transformers(self.family.model_class)(config).float().eval()
            for name, book in self.model.named_buffers():
                if name.endswith(("codebook.embed", "codebook.embed_sum")):  # left at zero, every code would be 0
                    book.normal_()
            self.spec = self.family.spec(self.model)
            self.settings = self.family.settings(self.model)
            self._try()

    @torch.no_grad()
    def _try(self) -> None:
        """Two frames there and back: ValueError for an architecture whose parts do not fit."""
        spec, size = self.spec, 2 * self.spec.stride[0]
        for value, low, high in (
            (spec.sample_rate, 1, 384_000), (spec.channels, 1, 2), (max(spec.codebook_sizes), 2, LARGEST)
        ):  # fmt: skip
            if not is_integer(value, low, high):
                raise ValueError(f"{value} Hz, channels or codebook entries are not from {low} to {high}")
        codes = self._encode(torch.zeros(1, spec.channels, size), self.settings.values[0])
        if codes.indices.shape[2:] != spec.grid((size,)) or self._decode(codes).shape[1] != spec.channels:
            raise ValueError(f"{size} samples are {tuple(codes.indices.shape[2:])} codes, not {spec.grid((size,))}")

    @classmethod
    def imported(cls, checkpoint: str, whole_frames: bool | None = None) -> Codec:
        """From transformers' own folder or hub id, Descript's `weights_*.pth`, or Kyutai's `tokenizer-*.safetensors`.

        Raises FileNotFoundError for a missing file, ValueError for one that is of another kind or incomplete.
        """
        path = foreign.locate(checkpoint, hf_layouts.MIMI_FILE, *foreign.WEIGHTS, hf_layouts.DAC_FILE)
        if (path.parent / "config.json").is_file() and path.name in foreign.WEIGHTS:
            model = _plain(path.parent / "config.json")
            state = foreign.tensors(foreign.read(path))
        else:
            model, state = hf_layouts.read(path)
            whole_frames = True if whole_frames is None else whole_frames
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        config, held = configured(model), sum(value.numel() for value in state.values())
        with _one_line(config.model_type):
            wanted = bounded(config)
        if wanted > 2 * held:
            raise ValueError(f"{path} holds {held} numbers, its config describes {wanted}")
        state = _renamed(config, state, path)
        codec = build(cls.name, model=model, **({} if whole_frames is None else {"whole_frames": whole_frames}))
        return foreign.adopt(codec, {f"model.{name}": value for name, value in state.items()}, path)

    def train(self, mode: bool = True) -> AudioHF:
        """The model stays in eval mode: it does not train here, and DAC drops quantizers at random otherwise."""
        super().train(mode)
        self.model.eval()
        return self

    def side_shapes(self, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """EnCodec at 48 kHz: the loudness of each chunk."""
        scales = self.family.scales(self.spec, self.model, size[0])
        return {"scale": (scales,)} if scales else {}

    def _encode(self, x: Tensor, setting: Any) -> Codes:
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        sounds = padded(x, self.spec.stride[0]) if self.whole_frames else x
        with torch.autocast(x.device.type, enabled=False):
            parts = [self.family.encode(self.model, one, setting, self.spec) for one in sounds.split(1)]
        scales = [scale for _, scale in parts if scale is not None]
        side = {"scale": torch.cat(scales)} if scales else {}
        return Codes(torch.cat([codes for codes, _ in parts]), sizes, side=side)

    def _decode(self, codes: Codes) -> Tensor:
        longest = int(codes.sizes.max())
        with torch.autocast(codes.indices.device.type, enabled=False):
            return torch.cat([F.pad(one, (0, longest - one.shape[-1])) for one in self._decoded(codes)])

    def _decoded(self, codes: Codes) -> Iterator[Tensor]:
        """(1, channels, samples) of each item, at its own size."""
        for i, count in enumerate(codes.quantizers().tolist()):
            one = codes[i]
            size = int(one.sizes)
            indices = one.indices[:, :count, : self.spec.grid((size,))[0]]
            sound = self.family.decode(self.model, indices, self._scales(one, size), self.spec.chunks(size))
            yield F.pad(sound[..., :size], (0, max(0, size - sound.shape[-1]))).float().clamp(-1, 1)

    def _scales(self, one: Codes, size: int) -> Tensor | None:
        if "scale" not in one.side:
            return None
        scales = one.side["scale"][:, : self.family.scales(self.spec, self.model, size)]
        if not bool(((scales >= 0) & (scales <= 1.001)).all()):
            raise ValueError(f"a scale of {scales.abs().max():.3g} is no loudness of a signal in [-1, 1]")
        return scales


# -- configs --------------------------------------------------------------------------------------


def configured(model: Any) -> Any:
    """Plain values → the configuration of an allow-listed type; ValueError in one line for anything else."""
    if not isinstance(model, Mapping) or model.get("model_type") not in FAMILIES:
        kind = model.get("model_type") if isinstance(model, Mapping) else type(model).__name__
        raise ValueError(f"audio/hf has no model_type {kind!r:.80}; it has {', '.join(FAMILIES)}")
    kind = model["model_type"]
    if stray := sorted(map(str, set(model) - allowed(kind))):
        raise ValueError(f"{kind} takes no {stray[0]!r:.80}")
    built = foreign.of_transformers(FAMILIES[kind].config_class)
    with _one_line(kind):
        _bounds(model)
        return built(**{k: v for k, v in _parts(model).items() if k != "model_type"})


def allowed(kind: str) -> set[str]:
    """Keys of a config that describe the architecture; what else stands in a file is dropped, unread."""
    family = FAMILIES.get(kind)
    name, besides = (family.config_class, family.besides) if family else PARTS[kind]
    base = {field.name for field in dataclasses.fields(foreign.of_transformers("PreTrainedConfig"))}
    own = {field.name for field in dataclasses.fields(foreign.of_transformers(name))} - base
    return own | set(besides) | {"model_type"}


def _parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """The configs inside a config, checked: their types decide which classes are built."""
    out = dict(model)
    for key, kinds in FAMILIES[model["model_type"]].parts.items():
        part = out.get(key)
        if part is None:
            continue
        kind = part.get("model_type", kinds[0]) if isinstance(part, Mapping) else None
        if kind not in kinds:
            raise ValueError(f"{key} is of the type {kind!r:.80}, none of {', '.join(kinds)}")
        if stray := sorted(map(str, set(part) - allowed(kind))):
            raise ValueError(f"{key} takes no {stray[0]!r:.80}")
        out[key] = {**part, "model_type": kind}
    return out


def _bounds(values: Any, name: str = "model", depth: int = 0) -> None:
    """ValueError for what no architecture needs: long lists, deep nesting, large, endless or negative numbers."""
    if isinstance(values, Mapping | list | tuple):
        if len(values) > (32 if isinstance(values, list | tuple) else 256) or depth > 3:
            raise ValueError(f"{name} holds {len(values)} values at depth {depth}")
        pairs = values.items() if isinstance(values, Mapping) else ((name, value) for value in values)
        for key, value in pairs:
            _bounds(value, str(key), depth + 1)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        counts = name.endswith(("layers", "quantizers", "codebooks"))
        if not (math.isfinite(values) and -1 <= values <= (MAX_COUNT if counts else MAX_VALUE)):
            raise ValueError(f"{name} {values!r:.40} is out of bounds")
    elif values is not None and not isinstance(values, bool | str):
        raise ValueError(f"{name} is a {type(values).__name__}, no plain value")


def bounded(config: Any) -> int:
    """How many numbers the weights of a config are, counted without allocating any; ValueError for too many."""
    family = FAMILIES[config.model_type]
    quantizers = getattr(config, "num_quantizers", 1)
    if not is_integer(quantizers, 1, MAX_COUNT):
        raise ValueError(f"{quantizers} quantizers, wanted are 1 to {MAX_COUNT}")
    if math.prod(getattr(config, "quantization_levels", ())) > MAX_VALUE or min(_strides(config)) < 1:
        raise ValueError("strides are at least 1, quantization levels at most 2^20 together")
    if math.prod(_strides(config)) > MAX_SAMPLES:
        raise ValueError(f"strides of {math.prod(_strides(config))} samples")
    # imported before: a module's own constants must not come to lie on "meta"
    built = foreign.of_transformers(family.model_class)
    with torch.device("meta"):
        numbers = sum(value.numel() for value in built(config).state_dict().values())
    if numbers > MAX_NUMBERS:
        raise ValueError(f"{numbers} numbers of weights, wanted are at most {MAX_NUMBERS}")
    return numbers


def _strides(config: Any) -> list[int]:
    inner = getattr(config, "acoustic_model_config", config)
    names = ("upsampling_ratios", "downsampling_ratios")
    return [stride for name in names for stride in getattr(inner, name, ())] or [1]


def _plain(path: Path) -> dict[str, Any]:
    """A config.json → what of it describes the architecture."""
    model = checkpoint.read_mapping(path)
    if model.get("model_type") not in FAMILIES:
        kind = model.get("model_type")
        raise ValueError(f"{path}: audio/hf has no model_type {kind!r:.80}; it has {', '.join(FAMILIES)}")
    if model.get("_frame_rate") is not None:  # how newer releases write Mimi's
        model = {"frame_rate": model["_frame_rate"], **model}
    kind = model["model_type"]
    out = {key: value for key, value in model.items() if key in allowed(kind)}
    for key, kinds in FAMILIES[kind].parts.items():
        part = out.get(key)
        if isinstance(part, dict) and part.get("model_type", kinds[0]) in kinds:
            known = allowed(part.get("model_type", kinds[0]))
            out[key] = {k: v for k, v in part.items() if k in known}
    return out


def _renamed(config: Any, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A state dict under the names of any release of transformers → the names of the one installed."""
    built = foreign.of_transformers(FAMILIES[config.model_type].model_class)
    try:
        with _quiet():
            model, told = built.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # the library reports other shapes as a table
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"{path} holds another architecture than its config: {lines[0]:.300}") from error
    problems = [f"lacks {name}" for name in sorted(told["missing_keys"])]
    problems += [f"has a stray {name}" for name in sorted(told["unexpected_keys"])]
    problems += [f"has another shape of {name}" for name in sorted(map(str, told["mismatched_keys"]))]
    own = model.state_dict()
    held, wanted = (sum(value.numel() for value in tensors.values()) for tensors in (state, own))
    if held != wanted:  # of some names the library does not say that they are left over
        problems.append(f"holds {held} numbers, wanted are {wanted}")
    if problems:
        raise ValueError(
            f"{path} holds another architecture than its config: it {problems[0]} ({len(problems)} differences)"
        )
    return own


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar, and without its table of what is missing: we say that in one line."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _one_line(kind: str) -> Iterator[None]:
    """What transformers and PyTorch say to a config that makes no model, in one line."""
    try:
        yield
    except Exception as error:  # dozens of types, some of many lines
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"no {kind} can be built from this config: {' '.join(lines):.300}") from error
