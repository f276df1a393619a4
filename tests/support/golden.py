"""Write the checkpoints, shards and training state of a release.

Run `python -m support.golden golden/VERSION` in the folder tests. A change of a format raises its version and gets a
new folder. The old folders stay, and the tests read them all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from support.codecs import tiny
from support.training import config
from tokenloom import codecs, models
from tokenloom.data import tokens
from tokenloom.train import state
from tokenloom.train.config import OptimizerConfig
from tokenloom.train.loop import train

SCENES = {"name": "scenes", "count": 3, "size": 24}
STEPS = 2
"""Step of the saved training."""
TRANSFORMER = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 64, "dropout": 0.0}


def codes_of(codec: codecs.Codec) -> codecs.Codes:
    """Return codes that name many entries."""
    sizes = codec.spec.codebook_sizes
    grid = (3, 3) if codec.spec.modality == "image" else (40,)
    index = torch.arange(len(sizes) * torch.tensor(grid).prod()).reshape(1, len(sizes), *grid)
    bound = torch.tensor(sizes).reshape(-1, *[1] * len(grid))
    size = [n * stride for n, stride in zip(grid, codec.spec.stride, strict=True)]
    return codecs.Codes(index * 7 % bound, torch.tensor([size]))


@torch.inference_mode()
def results(root: Path) -> dict[str, Tensor]:
    """Return what the checkpoints in a golden folder compute."""
    found = {}
    for folder in sorted((root / "codecs").iterdir()):
        codec = codecs.load(folder)
        found[folder.name] = codec.decode(codes_of(codec))
    decoder, omni = models.load(root / "decoder"), models.load(root / "omni")
    found["decoder"] = decoder.decode(codes_of(decoder.codec), steps=2, seed=1)
    ids = torch.arange(24)[None] * 5 % omni.vocabulary.size
    found["omni"] = omni.transformer(ids, torch.zeros_like(ids))
    return found


def training(out: Path, **changes) -> Path:
    """Train a tiny codec."""
    optimizer = OptimizerConfig(lr=3e-3, warmup=1)
    return train(config(out, steps=4, batch_size=2, ema=0.5, optimizer=optimizer, save_every=STEPS, **changes))


def write(root: Path) -> None:
    root.mkdir(parents=True)
    os.chdir(root)
    for store in ("float32", "float16", "int8"):
        codecs.save(tiny("image/fsq"), f"codecs/fsq-{store}", store=store)
    codecs.save(tiny("audio/rvq"), "codecs/rvq")
    codecs.save(tiny("text/bpe"), "bpe", config_file="config.json")
    torch.manual_seed(0)
    models.save(models.build_decoder({"codec": "codecs/rvq", "widths": [8, 8], "depths": [1, 1]}), "decoder")
    channels = [{"name": "text/bytes"}, {"name": "pictures", "codec": "codecs/fsq-int8", "size": [24, 24]}]
    models.save(models.build({"transformer": TRANSFORMER, "channels": channels}), "omni", store="float16")
    for format in ("webdataset", "parquet"):
        tokens.tokenize(SCENES, "codecs/fsq-float32", format, format=format, shard_items=2, workers=0)
    out = training(Path("run"), stop_after=STEPS)
    for path in out.rglob("*"):
        if path.is_file() and path.name != state.NAME:
            path.unlink()
    facts = {
        "fingerprints": {},
        "indices": [row["codes"].indices.tolist() for row in tokens.TokenDataset("webdataset")],
    }
    for folder in [*Path("codecs").iterdir(), Path("bpe")]:
        facts["fingerprints"][str(folder)] = codecs.load(folder).fingerprint.hex()
    Path("facts.json").write_text(json.dumps(facts, indent=None) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in results(Path()).items()}, "results.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
