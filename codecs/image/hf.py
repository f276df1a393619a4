"""Image tokenizers of Hugging Face transformers that encode and decode: those of Janus and Emu3."""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import batches, checkpoint, foreign
from ..codec import Codec, build
from ..quantizers import MAX_CODEBOOK
from ..registry import register
from ..types import Codes, CodeSpec, Modality
from ..validate import are_integers, is_integer

MAX_NUMBERS = 2**30
"""Weights of more numbers than this are refused before a model is allocated; Emu3's tokenizer has 2.7e8."""
MAX_POSITIONS = 2**14
"""Codes of one picture: attention, and the library's search, hold the square of it (1 GiB) and more."""
PREFIXES = ("model.vqmodel.", "vqmodel.")
"""Where the tokenizer lies within the whole model, by releases of transformers."""
SETTINGS_FILES = ("preprocessor_config.json", "processor_config.json")
WITHOUT_DECODER = ("chameleon", "chameleon_vqgan", "glm_image", "glm_image_vqmodel", "flava", "flava_image_codebook")


class Family(ABC):
    """What sets one type of tokenizer apart.

    config_class, model_class  names in transformers; counts  whole numbers of its config, and their bounds
    lists  the same of its lists; around  the `model_type` of the model around it; book  the codebook's size
    """

    config_class: ClassVar[str]
    model_class: ClassVar[str]
    around: ClassVar[str]
    book: ClassVar[str]
    counts: ClassVar[dict[str, tuple[int, int]]]
    lists: ClassVar[dict[str, tuple[int, int]]] = {"channel_multiplier": (1, 64)}

    def settle(self, model: nn.Module) -> None:  # noqa: B027
        """What the library leaves undone to weights; nothing by default."""

    @abstractmethod
    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        """Normalised pictures (batch, 3, h, w) → indices (batch, *grid)."""

    @abstractmethod
    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        """Indices (batch, *grid) → normalised pictures."""


class Janus(Family):
    """Janus (arXiv 2410.13848), whose tokenizer is LlamaGen's.

    The library (5.23) compares latents with entries as they are and decodes entries of unit length; the model's own
    code does both with unit length. The entries are therefore stored so.
    """

    config_class, model_class, around, book = "JanusVQVAEConfig", "JanusVQVAE", "janus", "num_embeddings"
    counts: ClassVar = {
        "embed_dim": (1, 4096), "num_embeddings": (2, 2**20), "latent_channels": (1, 4096), "base_channels": (32, 4096),
        "num_res_blocks": (1, 16),
    }  # fmt: skip

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        model.quantize.embedding.weight.copy_(F.normalize(model.quantize.embedding.weight, dim=-1))

    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        stride = 2 ** (len(model.config.channel_multiplier) - 1)
        return model.encode(x).image_tokens.reshape(len(x), x.shape[2] // stride, x.shape[3] // stride)

    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        model.quantize.quant_state_dims = list(index.shape[1:])  # else it takes the square of `num_patches` only
        return model.decode(index.flatten(1))


class Emu3(Family):
    """Emu3 (arXiv 2409.18869), a tokenizer of video: a picture is a clip of equal frames, decoded to its first one."""

    config_class, model_class, around, book = "Emu3VQVAEConfig", "Emu3VQVAE", "emu3", "codebook_size"
    counts: ClassVar = {
        "codebook_size": (2, 2**20), "embed_dim": (1, 4096), "latent_channels": (1, 4096),
        "temporal_downsample_factor": (1, 16), "base_channels": (32, 4096), "num_res_blocks": (1, 16),
        "hidden_size": (1, 2**16), "num_attention_heads": (1, 256),
    }  # fmt: skip
    lists: ClassVar = {**Family.lists, "attn_resolutions": (0, 7)}

    def encode(self, model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack(model.encode(x, image_sizes=[x.shape[2:]] * len(x)).image_tokens)

    def decode(self, model: nn.Module, index: Tensor) -> Tensor:
        return model.decode(index)


FAMILIES: dict[str, Family] = {"janus_vqgan": Janus(), "emu3_vqgan": Emu3()}
"""Model type → its adapter: the only classes of transformers that are ever built."""
MODEL_TYPES = (*FAMILIES, *(family.around for family in FAMILIES.values()))
"""`model_type` of the configs that it takes: a tokenizer's, or the whole model's with a `vq_config`."""


@register("image/hf")
class ImageHF(Codec):
    """A model of transformers behind our interface.

    model      its transformers config as plain values with `model_type`; what it leaves out has that type's default
    mean, std  of red, green and blue in [0, 1]: the model sees (x − mean) / std. Janus takes 0.5 only, which is [-1, 1]

    A codebook beyond 2^14 entries is exposed as two, see `official_index`. Pictures are replicated at the bottom and
    right up to the stride; they have at most 2^14 codes (2048² pixels for Janus, 1024² for Emu3), as attention sees
    all of them at once. The model stays in eval mode and float32.
    """

    variants = ()
    model_types = MODEL_TYPES

    def __init__(
        self, model: dict[str, Any], mean: list[float] = (0.5, 0.5, 0.5), std: list[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.family, config = configured(model)
        sizes = digits(getattr(config, self.family.book))
        stride = 2 ** (len(config.channel_multiplier) - 1)
        self.spec = CodeSpec(
            Modality.IMAGE, sizes, (stride, stride), channels=3, sample_rate=None, total=True, ordered=False,
            causal=False,
        )  # fmt: skip
        for name, values in (("mean", mean), ("std", std)):
            _colours(name, values, self.family)
            self.register_buffer(f"_{name}", torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)
        built = foreign.from_transformers(self.family.model_class)
        self._try(built, config)
        self.model = built(config).float()
        self.family.settle(self.model)
        self.eval()

    @torch.no_grad()
    def _try(self, built: Any, config: Any) -> None:
        """Four codes there and back without weights: ValueError for an architecture whose parts do not fit."""
        side = 2 * self.spec.stride[0]
        try:
            with torch.device("meta"):
                model = built(config).eval()
            if (numbers := sum(value.numel() for value in model.state_dict().values())) > MAX_NUMBERS:
                raise ValueError(f"{numbers} numbers of weights, wanted are at most {MAX_NUMBERS}")
            index = self.family.encode(model, torch.empty(1, 3, side, side, device="meta"))
            shape = tuple(self.family.decode(model, index).shape)
            if tuple(index.shape) != (1, 2, 2) or shape != (1, 3, side, side):
                raise ValueError(f"pictures of {side}² pixels become {shape}")
        except Exception as error:  # transformers and PyTorch say it in dozens of types, some of many lines
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            kind = config.model_type
            raise ValueError(f"no {kind} can be built from this config: {' '.join(lines):.300}") from error

    @classmethod
    def imported(cls, checkpoint: str, mean: list[float] | None = None, std: list[float] | None = None) -> Codec:
        """From transformers' folder or hub id: a tokenizer by itself, or the one within a whole Janus or Emu3.

        Of a whole model's parts only those with the tokenizer are downloaded, and only its tensors read. `mean` and
        `std` are those of Emu3's image processor where its settings lie beside, else 0.5.
        Raises FileNotFoundError for what is missing, ValueError for what is of another kind or incomplete.
        """
        folder = _folder(checkpoint)
        found = checkpoint.read_mapping(folder / "config.json")
        kind, model = _tokenizer(found, folder / "config.json")
        inner = kind != found["model_type"]
        colours = {"mean": mean, "std": std}
        if isinstance(FAMILIES[kind], Emu3):
            settings = _processor(folder)
            colours = {k: settings.get(f"image_{k}") if v is None else v for k, v in colours.items()}
        prefixes = PREFIXES if inner else ("",)
        state = _selected(_weights(checkpoint, folder, prefixes), prefixes)
        if not state:
            raise ValueError(f"{folder} holds no tensors of a tokenizer ({', '.join(prefixes)})")
        codec = build(cls.name, model=model, **{k: v for k, v in colours.items() if v is not None})
        foreign.adopt(codec, {f"model.{name}": value for name, value in state.items()}, folder)
        codec.family.settle(codec.model)
        return codec

    def train(self, mode: bool = True) -> ImageHF:
        """It does not train here; Emu3's batch norms would learn from what they see."""
        return super().train(False)

    def _encode(self, x: Tensor, setting: None) -> Codes:
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        with torch.autocast(x.device.type, enabled=False):
            x = batches.pad_to_stride(x, self.spec.stride[0])
            x = ((x - self._mean) / self._std).contiguous()
            index = self._run(self.family.encode, x, self.spec.grid(tuple(x.shape[2:])))
        return Codes(self.from_official(index), sizes)

    def _decode(self, codes: Codes) -> Tensor:
        return batches.decode_by_size(self._decoded, codes, self.spec)

    def _decoded(self, codes: Codes) -> Tensor:
        with torch.autocast(codes.indices.device.type, enabled=False):
            index = self.official_index(codes)
            pictures = self._run(self.family.decode, index, tuple(index.shape[1:]))
            return batches.crop((pictures * self._std + self._mean).clamp(0, 1), codes.sizes)

    def _run(self, function: Any, batch: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Item by item, so that each has the same codes in any batch."""
        if math.prod(grid) > MAX_POSITIONS:
            raise ValueError(
                f"{self.name} takes pictures of at most {MAX_POSITIONS} codes, not {grid[0]} × {grid[1]}; cut it up"
            )
        # of one code there are two copies: PyTorch refuses group norms of a single value
        copies = 2 if math.prod(grid) == 1 else 1
        return torch.cat([function(self.model, torch.cat([one] * copies))[:1] for one in batch.split(1)])

    def official_index(self, codes: Codes | Tensor) -> Tensor:
        """Codes → the index in the library's codebook, (batch, *grid) int64: first + size of the first · second."""
        indices, (first, *more) = codes.indices if isinstance(codes, Codes) else codes, self.spec.codebook_sizes
        return indices[:, 0] + first * indices[:, 1] if more else indices[:, 0]

    def from_official(self, index: Tensor) -> Tensor:
        """The inverse: indices (batch, *grid) int64 → `Codes.indices` (batch, quantizers, *grid)."""
        first, *more = self.spec.codebook_sizes
        return torch.stack([index % first, index // first] if more else [index], 1)


def digits(entries: int) -> tuple[int, ...]:
    """A codebook's size → itself, or beyond 2^14 its most even two factors, the larger first: 32768 = 256 · 128."""
    if entries <= MAX_CODEBOOK:
        return (entries,)
    small = next(n for n in range(math.isqrt(entries), 0, -1) if entries % n == 0)
    if entries // small > MAX_CODEBOOK:
        raise ValueError(f"a codebook of {entries} entries does not split into two of at most {MAX_CODEBOOK}")
    return (entries // small, small)


# -- configs --------------------------------------------------------------------------------------


def configured(model: Any) -> tuple[Family, Any]:
    """Plain values → the configuration of an allow-listed type; ValueError in one line for anything else.

    Only what describes the tokenizer's architecture is taken over; other keys that the type declares change nothing.
    """
    kind = model.get("model_type") if isinstance(model, Mapping) else type(model).__name__
    if not isinstance(model, Mapping) or not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"image/hf has no model_type {kind!r:.80}; it has {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    cls = foreign.from_transformers(family.config_class)
    declared = {field.name for field in dataclasses.fields(cls)} | {"model_type"}
    if stray := sorted(set(map(str, model)) - declared):
        raise ValueError(f"{kind} takes no {stray[0]!r:.80}")
    for name, (low, high) in family.counts.items():
        if name in model and not is_integer(model[name], low, high):
            raise ValueError(f"{name} {model[name]!r:.80} is no whole number from {low} to {high}")
    for name, (low, high) in family.lists.items():
        if name in model and model[name] != [] and not are_integers(model[name], low, high, longest=8):
            raise ValueError(f"{name} {model[name]!r:.80} is no list of up to 8 whole numbers from {low} to {high}")
    for name, wanted in (("in_channels", 3), ("out_channels", 3), ("double_latent", False)):
        if model.get(name, wanted) != wanted:
            raise ValueError(f"{name} {model[name]!r:.80} is not {wanted}")
    if model.get("channel_multiplier") == []:
        raise ValueError("channel_multiplier is empty")
    return family, cls(**{name: model[name] for name in (*family.counts, *family.lists) if name in model})


def _colours(name: str, values: Any, family: Family) -> None:
    low = 1e-3 if name == "std" else -10
    fine = isinstance(values, list | tuple) and len(values) == 3
    if not fine or not all(isinstance(v, int | float) and low <= v <= 10 for v in values):
        raise ValueError(f"{name} {values!r:.80} is no list of three numbers from {low} to 10")
    if isinstance(family, Janus) and any(v != 0.5 for v in values):
        raise ValueError(f"{name} {values!r:.80}: Janus takes 0.5 of each colour")


def _tokenizer(found: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """A config.json → the tokenizer's model type, and what describes its architecture, defaults written out."""
    kind = found.get("model_type")
    if kind in WITHOUT_DECODER:
        raise ValueError(f"{path}: the image tokenizer of {kind} has no decoder in transformers, so it is no codec")
    inner = next((name for name, family in FAMILIES.items() if family.around == kind), None)
    if inner is not None:
        found = found.get("vq_config")
        found = {**found, "model_type": inner} if isinstance(found, dict) else {"model_type": inner}
    elif not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{path}: image/hf has no model_type {kind!r:.80}; it has {', '.join(MODEL_TYPES)}")
    family = FAMILIES[found["model_type"]]
    names = (*family.counts, *family.lists)
    taken = {name: found[name] for name in (*names, "in_channels", "out_channels", "double_latent") if name in found}
    _, config = configured({"model_type": found["model_type"], **taken})
    plain = {name: getattr(config, name) for name in names}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    return found["model_type"], {"model_type": found["model_type"], **plain}


def _processor(folder: Path) -> dict[str, Any]:
    """The settings of an image processor that lie beside a model; {} where there are none."""
    found = next((checkpoint.read_mapping(folder / name) for name in SETTINGS_FILES if (folder / name).is_file()), {})
    inner = found.get("image_processor")
    return inner if isinstance(inner, dict) else found


# -- weights --------------------------------------------------------------------------------------


def _folder(checkpoint: str) -> Path:
    """Where config.json lies: a folder, the one around a file of weights, or a hub id's download without weights."""
    path = Path(checkpoint).expanduser()
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        if not re.fullmatch(checkpoint.HUB_ID, checkpoint):
            raise FileNotFoundError(f"no checkpoint at {path.absolute()}")
        folder = checkpoint.download(checkpoint, ["config.json", f"model{foreign.INDEX}", *SETTINGS_FILES])
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is a folder without config.json")
    return folder


def _weights(checkpoint: str, folder: Path, prefixes: tuple[str, ...]) -> Path:
    """The file of weights or their index; from the hub, with those parts that hold names of these prefixes."""
    path = Path(checkpoint).expanduser()
    if path.is_file() and path.name != "config.json":
        return path
    if not path.exists():
        index = folder / f"model{foreign.INDEX}"
        wanted = sorted(_map(index, prefixes)) if index.is_file() else foreign.WEIGHTS
        folder = checkpoint.download(checkpoint, wanted)
    return foreign.locate(folder)


def _map(index: Path, prefixes: tuple[str, ...]) -> set[str]:
    """Names of the parts of a sharded checkpoint that hold tensors of these prefixes."""
    parts = checkpoint.read_mapping(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
        raise ValueError(f"{index} has no weight_map")
    files = {file for name, file in parts.items() if name.startswith(prefixes)}
    if stray := [file for file in files if Path(file).name != file]:
        raise ValueError(f"{index}: its part {stray[0]!r:.80} lies outside its folder")
    return files


def _selected(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors whose names have one of these prefixes, without it; of safetensors, no others are read."""
    if path.suffix not in (".safetensors", ".json"):
        found = foreign.tensors(foreign.read(path), "state_dict")
    else:
        from safetensors import SafetensorError, safe_open

        found = {}
        for file in [path.parent / name for name in sorted(_map(path, prefixes))] if path.suffix == ".json" else [path]:
            if not file.is_file():
                raise FileNotFoundError(f"{path} names {file.name}, which is not there")
            try:
                with safe_open(file, "pt") as part:
                    found |= {name: part.get_tensor(name) for name in part.keys() if name.startswith(prefixes)}  # noqa: SIM118
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged: {str(error).splitlines()[0]:.300}") from error
    pattern = "|".join(map(re.escape, prefixes))
    return {re.sub(f"^(?:{pattern})", "", name): v for name, v in found.items() if name.startswith(prefixes)}
