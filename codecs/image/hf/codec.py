"""Codec that wraps an image tokenizer of transformers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tokenloom import errors

from ... import batches, foreign
from ...checkpoint import read_mapping
from ...codec import Codec, build
from ...quantizers import product
from ...registry import register
from ...types import Codes, CodeSpec, Modality
from . import weights
from .families import FAMILIES, MODEL_TYPES, Emu3, ImageFamily, Janus, architecture, build_config

MAX_NUMBERS = 2**30
"""Most numbers in the weights, checked before allocation. Emu3's tokenizer has 2.7·10^8."""
MAX_POSITIONS = 2**14
"""Most codes of one image. Attention needs memory for their square (1 GiB)."""


@register("image/hf")
class ImageHF(product.OfficialIndex, Codec):
    """Image tokenizer of transformers.

    A codebook of more than 2^14 entries is split into two quantizers; see `official_index`. Edges are replicated up to
    whole strides. An image has at most 2^14 codes (2048² pixels for Janus, 1024² for Emu3), which bounds the memory of
    attention. The model stays in eval mode and in float32.

    Args:
        model: Config of transformers as plain values, with `model_type`. Missing keys have the defaults of the type.
        mean: Mean of red, green and blue in [0, 1]. The model receives (x − mean) / std. Janus needs 0.5.
        std: Standard deviation of red, green and blue. Janus needs 0.5.
    """

    variants = ()
    model_types = MODEL_TYPES

    def __init__(
        self, model: dict[str, Any], mean: list[float] = (0.5, 0.5, 0.5), std: list[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.family, config = build_config(model)
        sizes = product.factors(getattr(config, self.family.entries))[::-1]
        stride = 2 ** (len(config.channel_multiplier) - 1)
        self.spec = CodeSpec(Modality.IMAGE, sizes, (stride, stride), channels=3)
        for name, values in (("mean", mean), ("std", std)):
            _check_colors(name, values, self.family)
            self.register_buffer(f"_{name}", torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)
        model_class = foreign.from_transformers(self.family.model_class)
        self._check(model_class, config)
        self.model = model_class(config).float()
        self.family.prepare(self.model)
        self.eval()

    @torch.no_grad()
    def _check(self, model_class: Any, config: Any) -> None:
        """Encode and decode on the meta device. Raises ValueError if the architecture does not work."""
        side = 2 * self.spec.stride[0]
        try:
            with torch.device("meta"):
                model = model_class(config).eval()
            if (numbers := sum(value.numel() for value in model.state_dict().values())) > MAX_NUMBERS:
                raise ValueError(f"weights must be at most {MAX_NUMBERS} numbers, got {numbers}")
            index = self.family.encode(model, torch.empty(1, 3, side, side, device="meta"))
            shape = tuple(self.family.decode(model, index).shape)
            if tuple(index.shape) != (1, 2, 2) or shape != (1, 3, side, side):
                raise ValueError(f"images of {side}² pixels must decode to {(1, 3, side, side)}, got {shape}")
        except Exception as error:  # dozens of types, some of many lines
            raise ValueError(
                f"{config.model_type} cannot be built from this config: {errors.one_line(error):.300}"
            ) from error

    @classmethod
    def imported(cls, checkpoint: str, mean: list[float] | None = None, std: list[float] | None = None) -> Codec:
        """Build the codec from a tokenizer of transformers, or from a whole Janus or Emu3.

        Of a whole model, only the files and tensors of the tokenizer are downloaded and read.

        Args:
            checkpoint: A folder, a file of weights next to a `config.json`, or a hub id.
            mean: As in the constructor; None for the value of Emu3's image processor, or 0.5 without one.
            std: As in the constructor; None as for `mean`.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the checkpoint is of another kind or incomplete.
        """
        folder = weights.locate(checkpoint)
        config = read_mapping(folder / "config.json")
        model = architecture(config, folder / "config.json")
        colors = {"mean": mean, "std": std}
        if isinstance(FAMILIES[model["model_type"]], Emu3):
            settings = weights.processor(folder)
            colors = {k: settings.get(f"image_{k}") if v is None else v for k, v in colors.items()}
        state = weights.read(checkpoint, folder, whole_model=model["model_type"] != config["model_type"])
        codec = build(cls.name, model=model, **{k: v for k, v in colors.items() if v is not None})
        foreign.adopt(codec, {f"model.{name}": value for name, value in state.items()}, folder)
        codec.family.prepare(codec.model)
        return codec

    def train(self, mode: bool = True) -> ImageHF:
        """Stay in eval mode, since training mode would change Emu3's batch norms."""
        return super().train(False)

    def _encode(self, x: Tensor, setting: None) -> Codes:
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        with torch.autocast(x.device.type, enabled=False):
            x = batches.pad_to_stride(x, self.spec.stride[0])
            x = ((x - self._mean) / self._std).contiguous()
            index = self._run(self.family.encode, x, self.spec.grid(tuple(x.shape[2:])))
        return Codes(self.from_official(index), sizes)

    def _decode(self, codes: Codes) -> Tensor:
        with torch.autocast(codes.indices.device.type, enabled=False):
            index = self.official_index(codes)
            images = self._run(self.family.decode, index, tuple(index.shape[1:]))
            return batches.crop((images * self._std + self._mean).clamp(0, 1), codes.sizes)

    def _run(self, function: Any, batch: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Run item by item, so that an item's codes do not depend on the batch."""
        if math.prod(grid) > MAX_POSITIONS:
            raise ValueError(
                f"{self.name} takes images of at most {MAX_POSITIONS} codes, got {grid[0]} × {grid[1]}; cut it up"
            )
        copies = 2 if math.prod(grid) == 1 else 1  # PyTorch refuses group norms of a single value
        return torch.cat([function(self.model, torch.cat([one] * copies))[:1] for one in batch.split(1)])


def _check_colors(name: str, values: Any, family: ImageFamily) -> None:
    low = 1e-3 if name == "std" else -10
    valid = isinstance(values, list | tuple) and len(values) == 3
    if not valid or not all(isinstance(v, int | float) and low <= v <= 10 for v in values):
        raise ValueError(f"{name} must be a list of three numbers from {low} to 10, got {values!r:.80}")
    if isinstance(family, Janus) and any(v != 0.5 for v in values):
        raise ValueError(f"{name} of Janus must be 0.5 for each color, got {values!r:.80}")
