"""VQGAN of taming-transformers (Esser et al., arXiv 2012.09841), and its checkpoints.

Those of latent diffusion's VQ models and of Chameleon have the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checkpoint, foreign
from ..codec import Codec, build
from ..quantizers import MAX_CODEBOOK, MAX_DIM, Quantized, Quantizer, ResidualVQ
from ..quantizers.codebooks import MAX_DISTANCES
from ..registry import register
from ..validate import is_integer
from .vqgan_network import MAX_STAGES, VQAutoencoder, generator, network, renamed

FILES = ("last.ckpt", "model.ckpt", "vqgan.ckpt", "model.safetensors", "pytorch_model.bin")
MAX_ENTRIES, MAX_NUMBERS = 2**24, 2**28
"""Of a codebook, and the numbers in it (1 GiB)."""
KL_WEIGHT, TEMPERATURE = 5e-4, 1.0
"""Of a Gumbel codebook's training: the official quantizer's own, before its schedule."""


def _check(entries: Any, dim: Any) -> None:
    if not is_integer(entries, 2, MAX_ENTRIES) or not is_integer(dim, 1, MAX_DIM) or entries * dim > MAX_NUMBERS:
        raise ValueError(
            f"a codebook of {entries!r:.80} × {dim!r:.80}; wanted 2 to {MAX_ENTRIES} entries of 1 to {MAX_DIM} "
            f"channels, at most {MAX_NUMBERS} numbers"
        )


class Codebook(ResidualVQ):
    """One codebook of any size that learns by gradient, as it does in taming and LlamaGen; the nearest entry is taken.

    What is ours is the k-means start and the revival of entries out of use, see `ResidualVQ`.
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
        """‖z‖² + ‖e‖² − 2 z·e in this order, as published: where entries lie close together its rounding decides."""
        with torch.autocast(latents.device.type, enabled=False):
            rows = self._scaled(latents.float().movedim(1, -1).contiguous()).flatten(0, -2)
            book = self._book(0)
            norms = book.square().sum(1)
            parts = rows.split(max(1, MAX_DISTANCES // len(book)))
            index = torch.cat([(z.square().sum(1, keepdim=True) + norms - 2 * (z @ book.T)).argmin(1) for z in parts])
        return index.reshape(len(latents), 1, *latents.shape[2:])


class Gumbel(Quantizer):
    """One codebook whose entry a linear layer chooses, trained by the Gumbel softmax (Jang et al., arXiv 1611.01144).

    `search` takes the likeliest entry. The official encoder draws one, so its codes differ from call to call.
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
            flat = latents.float().movedim(1, -1).flatten(0, -2)
            rows = max(1, MAX_DISTANCES // self.sizes[0])
            index = torch.cat([self.choose(part).argmax(1) for part in flat.split(rows)])
        return index.reshape(len(latents), 1, *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        return self.codebook[0].detach()[indices[:, 0]].movedim(-1, 1)


@register("image/taming")
class Taming(VQAutoencoder):
    """VQGAN of taming-transformers; the defaults are the published f16 network with 1,024 entries.

    codebook_size  entries; dim  channels of one
    gumbel         the entry is chosen by a linear layer (the published f8 with 8,192 entries), not by distance
    dead_below     see `ResidualVQ`; not for gumbel
    network        see `VQAutoencoder`
    """

    def __init__(
        self, codebook_size: int = 1024, dim: int = 256, *, gumbel: bool = False, dead_below: float = 0.1,
        **network: Any,
    ) -> None:  # fmt: skip
        if not isinstance(gumbel, bool):
            raise ValueError(f"gumbel is true or false, not {gumbel!r:.80}")
        quantizer = Gumbel(codebook_size, dim) if gumbel else Codebook(codebook_size, dim, dead_below=dead_below)
        super().__init__(quantizer, **network)

    @classmethod
    def imported(cls, checkpoint: str, config: str | None = None, ema: bool = False) -> Codec:
        """From a checkpoint of taming-transformers or of a project with its layout: a path, a folder or a hub id.

        config  the project's YAML. The tensors tell the architecture themselves; a config that says another one is
                refused. Only numbers are read in it, `target:` entries are not
        ema     take the averaged weights (`model_ema.…`) that latent diffusion's VQ models may have; by default the
                plain ones, which the official `encode` and `decode` use outside of validation
        Raises FileNotFoundError, or ValueError in one line where it is another model.
        """
        found = foreign.tensors(foreign.read(foreign.locate(checkpoint, *FILES)), "state_dict", "model")
        state = generator(averaged(found, checkpoint) if ema else found, checkpoint)
        if "encoder.conv_blocks.0.res.0.conv1.weight" in state or "decoder.up.0.upsample.conv.weight" in state:
            raise ValueError(f"{checkpoint} has the layout of LlamaGen or Janus; build it as image/llamagen")
        state = renamed(state, finest_first=True)
        gumbel = "quantize.embed.weight" in state
        codebook = take(state, "quantize.embed.weight" if gumbel else "quantize.embedding.weight", checkpoint)
        architecture = {"codebook_size": codebook.shape[0], "dim": codebook.shape[1], "gumbel": gumbel}
        architecture |= network(state, checkpoint)
        if config is not None:
            _compare(architecture, described(Path(config).expanduser()), config, checkpoint)
        if gumbel:
            state["quantizer.choose.weight"] = take(state, "quantize.proj.weight", checkpoint).flatten(1)
            state["quantizer.choose.bias"] = take(state, "quantize.proj.bias", checkpoint)
            state["quantizer.codebook"] = codebook[None]
        else:
            state |= trained(codebook)
        return foreign.adopt(build(cls.name, **architecture), state, checkpoint)


def trained(codebook: Tensor) -> dict[str, Tensor]:
    """The state of a `Codebook` with these rows, which further training neither starts anew nor finds out of use."""
    entries = len(codebook)
    started = torch.ones(1, dtype=torch.bool)
    return {
        "quantizer.codebook": codebook[None], "quantizer.cluster_size": torch.ones(1, entries),
        "quantizer.started": started,
    }  # fmt: skip


def take(state: dict[str, Tensor], name: str, source: str) -> Tensor:
    """Out of a state dict, a tensor with rows; ValueError where it is not there."""
    if name not in state or not state[name].ndim or (not name.endswith("bias") and state[name].ndim < 2):
        raise ValueError(f"{source} is no VQGAN with one codebook: it lacks {name}, or its rows")
    return state.pop(name)


def averaged(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The moving averages of latent diffusion's LitEma, which it names without dots, under the weights' own names."""
    own = [name for name in state if not name.startswith(("model_ema.", "loss."))]
    averages = {name: f"model_ema.{name.replace('.', '')}" for name in own}
    if not any(average in state for average in averages.values()):
        raise ValueError(f"{source} holds no averaged weights (model_ema.…); leave ema out")
    return {name: state[average] for name, average in averages.items() if average in state}


# -- the project's YAML -----------------------------------------------------------------------------


def described(path: Path) -> dict[str, Any]:
    """What a config of taming-transformers says of the architecture, as arguments of `Taming`."""
    params = _within(checkpoint.read_mapping(path), path, "model", "params")
    sizes = _within(params, path, "ddconfig")
    keys = ("ch", "ch_mult", "num_res_blocks", "z_channels", "resolution", "attn_resolutions")
    absent = [f"model.params.{key}" for key in ("embed_dim", "n_embed") if key not in params]
    absent += [f"model.params.ddconfig.{key}" for key in keys if key not in sizes]
    if absent:
        raise ValueError(f"{path} is no config of a VQGAN: it lacks {absent[0]}")
    resolution, attends, multipliers = sizes["resolution"], sizes["attn_resolutions"], sizes["ch_mult"]
    if not is_integer(resolution, 1, 2**16) or not isinstance(attends, list) or not isinstance(multipliers, list):
        raise ValueError(
            f"{path}: resolution {resolution!r:.80}, attn_resolutions {attends!r:.80} and ch_mult {multipliers!r:.80} "
            f"are not a whole number up to {2**16} and two lists"
        )
    for key, wanted in (("double_z", False), ("resamp_with_conv", True), ("in_channels", 3), ("out_ch", 3)):
        if sizes.get(key, wanted) != wanted:
            raise ValueError(f"{path}: {key} is {sizes[key]!r:.80}; only {wanted} is taken")
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
            raise ValueError(f"{path} is no config of a VQGAN: it lacks {key}")
        mapping = mapping[key]
    return mapping


def _compare(actual: dict[str, Any], said: dict[str, Any], config: str, checkpoint: str) -> None:
    for key, value in said.items():
        if actual[key] != value:
            raise ValueError(
                f"{config} and {checkpoint} do not belong together: "
                f"{key} {value!r:.80} in the config, {actual[key]!r:.80} by the weights"
            )
