"""Checkpoints in the official layout of taming-transformers."""

from __future__ import annotations

import re

import skimage.data
import torch

from tokenloom.codecs import media

SIZES = {"channel_multiplier": [1, 1, 2], "num_res_blocks": 1, "latent_channels": 16, "base_channels": 32}
"""Arguments of the classes of transformers. Their group norms have 32 groups."""


def photograph(height: int = 96, width: int = 84) -> torch.Tensor:
    return media.read(skimage.data.astronaut()[20 : 20 + height, 150 : 150 + width])[None]


@torch.no_grad()
def random_codebook(model: torch.nn.Module, entries: int, dim: int) -> torch.Tensor:
    """Randomize the norms, and return a random codebook with the mean and spread of a photograph's latents."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    latents = model.quant_conv(model.encoder(photograph() * 2 - 1)).transpose(0, 1).flatten(1)
    return latents.mean(1) + latents.std(1) * torch.randn(entries, dim)


def janus(entries: int = 512, dim: int = 8, grid: int = 24):
    from transformers import JanusVQVAE, JanusVQVAEConfig

    torch.manual_seed(0)
    config = JanusVQVAEConfig(num_embeddings=entries, embed_dim=dim, num_patches=grid, **SIZES)
    model = JanusVQVAE(config).eval()
    model.quantize.embedding.weight.data = random_codebook(model, entries, dim)
    return model


def chameleon_and_decoder(attends: tuple[int, ...] = (2,), entries: int = 512, dim: int = 8):
    """Return taming's network, with attention at some stages: encoder and codebook of Chameleon, decoder of Janus."""
    from transformers import ChameleonVQVAE, ChameleonVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAEAttnBlock

    torch.manual_seed(1)
    resolutions = [96 >> stage for stage in attends]
    encoder = ChameleonVQVAE(
        ChameleonVQVAEConfig(
            num_embeddings=entries, embed_dim=dim, resolution=96, attn_resolutions=resolutions, **SIZES
        )
    ).eval()
    encoder.quantize.embedding.weight.data = random_codebook(encoder, entries, dim)
    decoder = janus(16, dim).decoder
    for i, stage in enumerate(reversed(range(3))):
        width = 32 * SIZES["channel_multiplier"][stage]
        blocks = [JanusVQVAEAttnBlock(width) for _ in range(2 if stage in attends else 0)]
        decoder.up[i].attn = torch.nn.ModuleList(blocks)
    return encoder, decoder


def taming_state(encoder, decoder) -> dict[str, torch.Tensor]:
    """Return the weights in the official layout: `up.0` is the last stage, and weights of the losses are included."""
    state = dict(encoder.state_dict())
    for name, value in decoder.state_dict().items():
        state["decoder." + re.sub(r"^up\.(\d)", lambda m: f"up.{2 - int(m[1])}", name)] = value
    return state | {"loss.discriminator.main.0.weight": torch.ones(3), "loss.perceptual_loss.lin0": torch.ones(3)}


def taming_checkpoint(path, state: dict[str, torch.Tensor], **more):
    torch.save({"state_dict": state, "epoch": 7, "global_step": 9, **more}, path)
    return str(path)


def config_of(**changes) -> dict:
    ddconfig = {
        "double_z": False, "z_channels": 16, "resolution": 96, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [24], "dropout": 0.0,
    }  # fmt: skip
    params = {"embed_dim": 8, "n_embed": 512, "ddconfig": ddconfig, "lossconfig": {"target": "os.abort"}}
    for key, value in changes.items():
        where = params if key in params else ddconfig
        where[key] = value
    return {"model": {"target": "os.abort", "base_learning_rate": 4.5e-6, "params": params}}
