"""VQGAN of taming-transformers (Esser et al., arXiv 2012.09841), and its checkpoints.

The checkpoints of latent diffusion's VQ models and of Chameleon have the same layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import foreign
from ..checkpoint import read_mapping
from ..codec import Codec, build
from ..layers import tracing
from ..quantizers import MAX_CODEBOOK, MAX_DIM, Quantized, Quantizer, ResidualVQ
from ..quantizers.codebooks import MAX_DISTANCES
from ..registry import register
from ..validate import is_integer
from .vqgan_network import MAX_STAGES, VQAutoencoder
from .vqgan_states import architecture, averaged_weights, codebook_state, generator, pop_tensor, rename

FILES = ("last.ckpt", "model.ckpt", "vqgan.ckpt", "model.safetensors", "pytorch_model.bin")
MAX_ENTRIES, MAX_NUMBERS = 2**24, 2**28
"""Most entries and most numbers of a codebook (1 GiB)."""
KL_WEIGHT, TEMPERATURE = 5e-4, 1.0
"""Constants of Gumbel training: the initial values of the official schedule."""


def _check(entries: Any, dim: Any) -> None:
    if not is_integer(entries, 2, MAX_ENTRIES) or not is_integer(dim, 1, MAX_DIM) or entries * dim > MAX_NUMBERS:
        raise ValueError(
            f"a codebook must have 2 to {MAX_ENTRIES} entries of 1 to {MAX_DIM} channels and at most {MAX_NUMBERS} "
            f"numbers, got {entries!r:.80} × {dim!r:.80}"
        )


class Codebook(ResidualVQ):
    """One codebook of any size that is trained by gradient, as in taming and LlamaGen.

    In addition, k-means initializes it and unused entries are revived; see `ResidualVQ`.
    """

    def __init__(self, entries: int, dim: int, *, dead_below: float = 0.1, normalise: bool = False) -> None:
        _check(entries, dim)
        small = min(entries, MAX_CODEBOOK)
        super().__init__(small, dim, dead_below=dead_below, update="gradient", normalise=normalise)
        if entries > small:
            self.sizes = (entries,)
            self.codebook = nn.Parameter(self._scaled(torch.randn(1, entries, dim) * dim**-0.5))
            self.cluster_size = torch.ones(1, entries)

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        """Return the nearest entries. ‖z‖² + ‖e‖² − 2 z·e is summed in the published order, which decides ties."""
        with torch.autocast(latents.device.type, enabled=False):
            rows = self._scaled(latents.float().movedim(1, -1).contiguous()).flatten(0, -2)
            book = self._book(0)
            norms = book.square().sum(1)
            parts = tracing.chunks(rows, MAX_DISTANCES // len(book))
            index = torch.cat([(z.square().sum(1, keepdim=True) + norms - 2 * (z @ book.T)).argmin(1) for z in parts])
        return index.reshape(latents.shape[0], 1, *latents.shape[2:])


class GumbelCodebook(Quantizer):
    """One codebook with a linear classifier of entries, trained by Gumbel softmax (Jang et al., arXiv 1611.01144).

    `search` returns the most likely entry. The official encoder draws a random entry.
    """

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        _check(entries, dim)
        self.sizes, self.dim = (entries,), dim
        self.choose = nn.Linear(dim, entries)
        self.codebook = nn.Parameter(torch.randn(1, entries, dim))

    def quantize(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            logits = self.choose(latents.float().movedim(1, -1))
            if self.training:
                chosen = F.gumbel_softmax(logits, TEMPERATURE, hard=True)
            else:
                chosen = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
            odds = logits.softmax(-1)
            divergence = (odds * torch.log(odds * logits.shape[-1] + 1e-10)).sum(-1).mean()
            return Quantized((chosen @ self.codebook[0]).movedim(-1, 1), KL_WEIGHT * divergence)

    def bounded(self, latents: Tensor) -> Tensor:
        return (self.choose(latents.float().movedim(1, -1)).softmax(-1) @ self.codebook[0]).movedim(-1, 1)

    def search(self, latents: Tensor, count: int | None = None) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            rows = latents.float().movedim(1, -1).flatten(0, -2)
            parts = tracing.chunks(rows, MAX_DISTANCES // self.sizes[0])
            index = torch.cat([self.choose(part).argmax(1) for part in parts])
        return index.reshape(latents.shape[0], 1, *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        return self.codebook[0].detach()[indices[:, 0]].movedim(-1, 1)


@register("image/taming")
class Taming(VQAutoencoder):
    """VQGAN of taming-transformers. The defaults are the published f16 network with 1,024 entries.

    Args:
        codebook_size: Entries of the codebook.
        dim: Channels of an entry.
        gumbel: Whether a linear layer instead of a distance selects the entry, as in the published f8 network of 8,192
            entries.
        dead_below: See `ResidualVQ`; has no effect with `gumbel`.
        **network: See `VQAutoencoder`.
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 256, *, gumbel: bool = False, dead_below: float = 0.1,
        **network: Any,
    ) -> None:  # fmt: skip
        if not isinstance(gumbel, bool):
            raise ValueError(f"gumbel must be true or false, got {gumbel!r:.80}")
        quantizer = (
            GumbelCodebook(codebook_size, dim) if gumbel else Codebook(codebook_size, dim, dead_below=dead_below)
        )
        super().__init__(quantizer, **network)

    @classmethod
    def imported(cls, checkpoint: str, config: str | None = None, ema: bool = False) -> Codec:
        """Build the codec from a checkpoint of taming-transformers, or of a project with the same layout.

        The tensors imply the architecture.

        Args:
            checkpoint: A path, a folder or a hub id.
            config: The project's YAML, to compare with the tensors. Its numbers are read, its `target:` is not.
            ema: Whether to load the averaged weights (`model_ema.…`) of latent diffusion's VQ models. The official
                `encode` and `decode` use them in validation only.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: If it holds another model.
        """
        found = foreign.tensors(foreign.read(foreign.locate(checkpoint, *FILES)), "state_dict", "model")
        state = generator(averaged_weights(found, checkpoint) if ema else found, checkpoint)
        if "encoder.conv_blocks.0.res.0.conv1.weight" in state or "decoder.up.0.upsample.conv.weight" in state:
            raise ValueError(f"{checkpoint} has the layout of LlamaGen or Janus; build it as image/llamagen")
        state = rename(state, finest_first=True)
        gumbel = "quantize.embed.weight" in state
        codebook = pop_tensor(state, "quantize.embed.weight" if gumbel else "quantize.embedding.weight", checkpoint)
        arguments = {"codebook_size": codebook.shape[0], "dim": codebook.shape[1], "gumbel": gumbel}
        arguments |= architecture(state, checkpoint)
        if config is not None:
            _compare(arguments, config_arguments(Path(config).expanduser()), config, checkpoint)
        if gumbel:
            state["quantizer.choose.weight"] = pop_tensor(state, "quantize.proj.weight", checkpoint).flatten(1)
            state["quantizer.choose.bias"] = pop_tensor(state, "quantize.proj.bias", checkpoint)
            state["quantizer.codebook"] = codebook[None]
        else:
            state |= codebook_state(codebook)
        return foreign.adopt(build(cls.name, **arguments), state, checkpoint)


# -- the project's YAML -----------------------------------------------------------------------------


def config_arguments(path: Path) -> dict[str, Any]:
    """Return the arguments of `Taming` that a config of taming-transformers implies."""
    params = _within(read_mapping(path), path, "model", "params")
    sizes = _within(params, path, "ddconfig")
    keys = ("ch", "ch_mult", "num_res_blocks", "z_channels", "resolution", "attn_resolutions")
    absent = [f"model.params.{key}" for key in ("embed_dim", "n_embed") if key not in params]
    absent += [f"model.params.ddconfig.{key}" for key in keys if key not in sizes]
    if absent:
        raise ValueError(f"{path} is not a config of a VQGAN: it lacks {absent[0]}")
    resolution, attends, multipliers = sizes["resolution"], sizes["attn_resolutions"], sizes["ch_mult"]
    if not is_integer(resolution, 1, 2**16) or not isinstance(attends, list) or not isinstance(multipliers, list):
        raise ValueError(
            f"{path} must have an integer resolution up to {2**16}, and lists as attn_resolutions and ch_mult, got "
            f"resolution {resolution!r:.80}, attn_resolutions {attends!r:.80} and ch_mult {multipliers!r:.80}"
        )
    for key, value in (("double_z", False), ("resamp_with_conv", True), ("in_channels", 3), ("out_ch", 3)):
        if sizes.get(key, value) != value:
            raise ValueError(f"{path}: {key} must be {value}, got {sizes[key]!r:.80}")
    return {
        "codebook_size": params["n_embed"],
        "dim": params["embed_dim"],
        "channels": sizes["ch"],
        "multipliers": multipliers,
        "blocks": sizes["num_res_blocks"],
        "attention": [i for i in range(min(len(multipliers), MAX_STAGES)) if resolution // 2**i in attends],
        "latents": sizes["z_channels"],
    }


def _within(mapping: Any, path: Path, *keys: str) -> dict[str, Any]:
    for key in keys:
        if not isinstance(mapping, dict) or not isinstance(mapping.get(key), dict):
            raise ValueError(f"{path} is not a config of a VQGAN: it lacks {key}")
        mapping = mapping[key]
    return mapping


def _compare(actual: dict[str, Any], stated: dict[str, Any], config: str, checkpoint: str) -> None:
    for key, value in stated.items():
        if actual[key] != value:
            raise ValueError(
                f"{config} and {checkpoint} do not belong together: "
                f"{key} {value!r:.80} in the config, {actual[key]!r:.80} by the weights"
            )
