"""Recipes under conf/, composed as the command does, and models of their sizes that take no time to build."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tokenloom import codecs
from tokenloom.codecs import Codec
from tokenloom.models import Omni
from tokenloom.models.omni.config import ChannelConfig, OmniConfig
from tokenloom.train.config import TrainConfig

CUT: dict[str, dict[str, Any]] = {
    "image/vqgan": {"dim": 8}, "image/rvq": {"dim": 8}, "image/fsq": {}, "image/bsq": {},
    "image/ntc": {"channels": 72, "context": 8}, "image/flex": {"width": 64}, "audio/rvq": {"filters": 4, "dim": 8},
}  # fmt: skip
"""Codec → small values of arguments besides the stages. A recipe for another codec needs its line here."""


@cache
def _composed(override: str) -> Any:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_module("tokenloom.conf", version_base="1.3"):
        return compose("train", overrides=[override])


def composed(override: str) -> dict[str, Any]:
    """Return the config of `tokenloom train` with one override, as plain values."""
    plain: Any = OmegaConf.to_container(_composed(override), resolve=False)
    return plain


def narrowed(codec: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that narrow a codec, but keep the number of its stages, quantizers and entries."""
    widths = {key: [8] * len(codec[key]) for key in ("widths",) if key in codec}
    depths = {key: [1] * len(codec[key]) for key in ("depths", "decoder_depths") if codec.get(key)}
    return widths | depths | CUT[codec["name"]]


def tokenizer(channel: ChannelConfig) -> Codec:
    """Return the codec of a channel. For runs/RECIPE, it is an untrained, narrow one with the codes of the recipe."""
    if not str(channel.codec).startswith("runs/"):
        return codecs.load(channel.codec)
    arguments = composed(f"experiment={channel.codec.removeprefix('runs/')}")["codec"]
    return codecs.build(**arguments | narrowed(arguments))


@cache
def omni_on_meta(name: str) -> Omni:
    """Return the model of conf/omni/NAME.yaml, whose transformer has shapes and types, but no memory."""
    parsed = OmniConfig.parse(composed(f"omni={name}")["omni"], new=True)
    vocabulary = parsed.vocabulary(tokenizer)
    with torch.device("meta"):
        network = parsed.network(vocabulary)
    return Omni(vocabulary, network, sizes=parsed.sizes, defaults=parsed.sampling)
