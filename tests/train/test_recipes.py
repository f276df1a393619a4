"""Every recipe under conf/experiment is composed, built and trained for a few steps, as the command does."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import recipes
from support.packs import write_packs
from support.recipes import narrowed

from tokenloom import codecs, data, models
from tokenloom.cli import hydra_app
from tokenloom.cli.main import main
from tokenloom.codecs import Modality
from tokenloom.train.tasks import transformer

FOLDER = Path(__file__).parents[2] / "conf" / "experiment"
OMNI = ["omni-small"]
"""Recipes of transformers."""
DECODERS = sorted(path.stem for path in FOLDER.glob("*-diffusion.yaml"))
RECIPES = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {*OMNI, *DECODERS})
"""Recipes of codecs."""
PUBLISHED = {
    "taming-vqgan-f16-1024": "2012.09841", "taming-vqgan-f16-16384": "2012.09841", "llamagen-ds16": "2406.06525",
    "fsq-imagenet-256": "2309.15505", "bsq-vit": "2406.07548", "encodec-24khz": "2210.13438",
    "soundstream-speech": "2107.03312",
}  # fmt: skip
"""Recipe with a published value as its aim → arXiv number of the paper."""
CROP = {Modality.IMAGE: 64, Modality.AUDIO: 4096}
STEPS = 3


def composed(name: str) -> dict[str, Any]:
    return recipes.composed(f"experiment={name}")


@pytest.mark.parametrize("name", RECIPES)
def test_it_trains(name, tmp_path, capsys):
    recipe = composed(name)
    modality = codecs.registry.codec_class(recipe["codec"]["name"]).name.split("/")[0]
    source = {"image": ["data=scenes", "data.count=6"], "audio": ["data=phrases", "data.count=3", "data.seconds=1"]}
    cuts = [f"codec.{key}={value}".replace(" ", "") for key, value in narrowed(recipe["codec"]).items()]
    overrides = [
        f"experiment={name}", *source[modality], *cuts, f"crop.size={CROP[Modality(modality)]}",
        f"steps={STEPS}", "optimizer.warmup=null", "batch_size=2", "accumulate=1", "log_every=1", "losses.lpips=null",
        "device=cpu", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    overrides += ["adversary.start=1", "adversary.filters=4"] if recipe["adversary"]["weight"] else []
    assert hydra_app.run("train", overrides) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")

    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    logged = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    assert all(math.isfinite(logged[step, "loss"]) for step in range(1, STEPS + 1))
    assert logged[STEPS, "skipped"] == 0
    assert {"validation/usage", "validation/perplexity"} <= {key for _, key in logged}
    wanted = {key for key, weight in recipe["losses"].items() if weight} - {"lpips"}
    assert wanted <= {key for _, key in logged}
    if recipe["adversary"]["weight"]:
        assert logged[STEPS, "discriminator"] > 0 and "adversarial" in {key for _, key in logged}

    codec = codecs.load(tmp_path / "run")
    item = data.open_source("scenes", count=1, size=64)[0] if modality == "image" else torch.zeros(1, 1, 3000)
    x = item.signal[None] if modality == "image" else item
    assert codec.decompress(codec.compress(x)).shape == x.shape


def test_omni_small_trains_on_packs_of_its_kind(tmp_path, capsys, monkeypatch):
    """Codecs, sources and kinds of documents are those of the recipe. The packs and the network are tiny."""
    monkeypatch.setattr(transformer, "VALIDATED", 6)
    for split in ("train", "test"):
        write_packs(tmp_path, side=64, samples=1200, names=(f"emoji64-{split}.tar", f"spoken_digits-{split}.tar"))
    overrides = [
        "experiment=omni-small", f"data.folder={tmp_path}", f"tokens={tmp_path / 'tokens'}", "data.copies.image=2",
        "data.copies.audio=2", "data.sources.words.count=8", "data.sources.scenes.count=8",
        "validation.sources.words.count=8", "omni.transformer.width=32", "omni.transformer.layers=1", "batch_size=2",
        f"steps={STEPS}", "optimizer.warmup=null", "log_every=1", "device=cpu", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    assert hydra_app.run("train", overrides) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    logged = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    assert all(0 < logged[step, "loss"] < math.inf for step in range(1, STEPS + 1)) and logged[STEPS, "skipped"] == 0
    assert logged[STEPS, "validation/bits_per_pixel"] > 0
    model = models.load(tmp_path / "run")
    assert list(model.vocabulary.channels) == [
        channel["name"] for channel in composed("omni-small")["omni"]["channels"]
    ]
    assert model.generate(["waving hand dark skin tone"], "image", seed=0)[0].shape == (3, 64, 64)
    assert not list((tmp_path / "run").glob("*/model.safetensors")), "its codecs ship, and are not written beside it"


@pytest.mark.parametrize("size", ["medium", "large"])
def test_larger_sizes_train_after_their_tokenizers(size, tmp_path, capsys, monkeypatch):
    """The tokenizers of the config's comment are in runs/. They and the network are narrow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformer, "VALIDATED", 2)
    for channel in recipes.omni_on_meta(size).vocabulary.channels.values():
        if channel.codec.name != "text/bpe":
            run = {"pictures": "llamagen-ds16", "speech": "soundstream-speech"}[channel.name]
            codecs.save(channel.codec, tmp_path / "runs" / run)
    overrides = [
        "task=transformer", f"omni={size}", "omni.transformer.width=16", "omni.transformer.layers=1",
        "omni.transformer.heads=4", "omni.transformer.hidden=32", "data=documents",
        "data.sources={photos: {name: scenes, count: 4, size: 256}, speech: {name: phrases, count: 4, seconds: 1}}",
        "data.kinds=[{kind: caption, source: photos}, {kind: caption, source: speech}]", "tokens=tokens",
        f"steps={STEPS}", "batch_size=1", "log_every=1", "device=cpu", "out=run",
    ]  # fmt: skip
    assert hydra_app.run("train", overrides) == 0
    assert capsys.readouterr().out.strip() == "run"
    model = models.load(tmp_path / "run")
    assert model.generate(["a red circle"], "image", seed=0)[0].shape == (3, 256, 256)
    assert model.sample_rate == 24_000 and (tmp_path / "run" / "pictures" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [*RECIPES, *OMNI])
def test_it_is_a_few_lines_over_the_defaults(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert text.startswith("# @package _global_\n# ") and len(lines) <= (60 if name in OMNI else 30)
    assert f"experiment={name} " in text, "the command that runs it is in its comment"
    if name in OMNI:
        assert composed(name)["task"] == "transformer"
        return
    codec = composed(name)["codec"]
    assert set(codec) <= codecs.codec.arguments(codecs.registry.codec_class(codec["name"])) | {"name"}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_it_says_which_figure_it_aims_at(name):
    comment = " ".join(line[2:] for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("# "))
    assert f"arXiv {PUBLISHED[name]}" in comment
    assert re.search(r"table|figure", comment) and re.search(r"FID|dB|MUSHRA", comment)
    recipe = composed(name)
    assert recipe["adversary"]["weight"] > 0
    if recipe["losses"]["lpips"]:
        assert "VGG-16" in comment or "taming-vqgan-f16-1024.yaml" in comment


def test_published_sizes_are_the_papers():
    """Strides, codebooks and rates of the full recipes are those of the papers."""
    specs = {}
    for name in PUBLISHED:
        arguments = composed(name)["codec"]
        arguments |= narrowed(arguments)
        specs[name] = codecs.build(arguments.pop("name"), **arguments).spec
    assert specs["taming-vqgan-f16-1024"].codebook_sizes == (1024,)
    assert specs["taming-vqgan-f16-16384"].codebook_sizes == (16384,)
    assert specs["llamagen-ds16"].codebook_sizes == (16384,)
    assert specs["fsq-imagenet-256"].codebook_sizes == (1000,)
    assert math.prod(specs["bsq-vit"].codebook_sizes) == 2**18 and specs["bsq-vit"].stride == (8, 8)
    for name in ("taming-vqgan-f16-1024", "taming-vqgan-f16-16384", "llamagen-ds16", "fsq-imagenet-256"):
        assert specs[name].stride == (16, 16)
    for name, kbps in (("encodec-24khz", 24.0), ("soundstream-speech", 6.0)):
        frames = specs[name].sample_rate / specs[name].stride[0]
        assert frames * sum(math.log2(n) for n in specs[name].codebook_sizes) / 1000 == kbps
    assert composed("llamagen-ds16")["codec"]["dim"] == 8 and composed("llamagen-ds16")["codec"]["normalise"] is True


def test_the_help_lists_every_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert {*RECIPES, *OMNI} <= set(re.findall(r"[\w-]+", capsys.readouterr().out))


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_trains_behind_its_codec(name, tmp_path, capsys):
    recipe = composed(name)["decoder"]
    assert name == f"{recipe['codec']}-diffusion"
    modality = codecs.load(recipe["codec"]).spec.modality
    source = {"image": ["data=scenes", "data.count=6"], "audio": ["data=phrases", "data.count=3", "data.seconds=1"]}
    overrides = [
        f"experiment={name}", *source[modality], f"crop.size={CROP[modality]}", f"steps={STEPS}",
        "optimizer.warmup=null", "batch_size=4",
        "log_every=1", "decoder.widths=[8,8,8]", "decoder.begin=null", "device=cpu", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    assert hydra_app.run("train", overrides) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")
    decoder = models.load(tmp_path / "run")
    assert decoder.codec.fingerprint == codecs.load(recipe["codec"]).fingerprint
    assert decoder.config["depths"] == recipe["depths"]
