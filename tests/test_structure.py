"""Rules of the package: light imports, configurations that build, complete checkpoints."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from support.codecs import TINY, trains
from support.recipes import omni_on_meta
from support.tree import MODULES, ROOT

from tokenloom import codecs, data, models
from tokenloom.data.documents.documents import Documents
from tokenloom.train.config import TrainConfig
from tokenloom.train.tasks import all_tasks
from tokenloom.train.tasks.codec import build_codec

NAMES = [name for task in all_tasks().values() for name in task.losses]
"""Names of the losses of all tasks."""


@pytest.mark.parametrize(
    "module", ["tokenloom", "tokenloom.codecs", "tokenloom.cli.main", "tokenloom.data", "tokenloom.models"]
)
def test_nothing_heavy_is_imported(module):
    heavy = (
        "torchmetrics", "lightning_fabric", "lightning", "lpips", "matplotlib", "vector_quantize_pytorch", "hydra",
        "torchvision", "torchaudio", "tensorboard", "skimage", "scipy", "tokenizers", "soundfile", "soxr",
        "constriction", "pytorch_msssim", "jinja2", "huggingface_hub",
    )  # fmt: skip
    heavy += ("torch", "numpy", "PIL") if module in ("tokenloom", "tokenloom.cli.main") else ()
    program = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"


def test_every_module_imports():
    """Each module is imported by its name, all in one new process."""
    names = sorted(name for name in MODULES if not name.endswith("__main__"))
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


# -- configs ------------------------------------------------------------------------------------


def choices(group: str) -> list[str]:
    folder = ROOT / "conf" / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def composed(config: str, *overrides: str) -> dict:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_module("tokenloom.conf", version_base="1.3"):
        cfg = compose(config, overrides=list(overrides))
    return OmegaConf.to_container(cfg, resolve=False)


def test_every_codec_that_trains_has_a_config():
    assert choices("codec") == [name for name in codecs.names() if trains(name)]
    for name in choices("codec"):
        assert yaml.safe_load((ROOT / "conf" / "codec" / f"{name}.yaml").read_text())["name"] == name


@pytest.mark.parametrize("name", choices("codec"))
def test_codec_configs_build(name):
    small = [f"codec.{key}={value}".replace(" ", "") for key, value in TINY[name].items()]
    cfg = composed("train", f"codec={name}", *small)["codec"]
    codec = build_codec(cfg)
    cfg.pop("name")
    cls = type(codec)
    imports = {"checkpoint"} | codecs.codec.import_arguments(cls) if codecs.codec.imports(cls) else set()
    assert codec.name == name and set(cfg) <= codecs.codec.arguments(type(codec)) | imports
    plain = composed("train", f"codec={name}")["codec"]
    assert set(plain) - {"name"} == codecs.codec.arguments(type(codec)) | imports, "a line for every argument"


@pytest.mark.parametrize("name", choices("omni"))
def test_omni_configs_build(name):
    cfg = composed("train", f"omni={name}")["omni"]
    omni = omni_on_meta(name)
    assert omni.transformer.config.items() >= cfg["transformer"].items()
    assert list(omni.vocabulary.channels) == [channel["name"] for channel in cfg["channels"]]
    assert {"text", "image", "audio"} == {channel.modality for channel in omni.vocabulary.channels.values()}


def test_every_data_choice_is_a_source_or_documents():
    names = {composed("train", f"data={name}")["data"]["name"] for name in choices("data")}
    assert names == {*data.names(), Documents.name}


def test_documents_are_not_a_source():
    cfg = composed("train", "data=documents")["data"]
    assert set(cfg) - {"name", "strict"} == set(inspect.signature(Documents).parameters)
    with pytest.raises(ValueError, match="unknown data source 'documents'"):
        data.open_source("documents")


@pytest.mark.parametrize("name", [name for name in choices("data") if name != Documents.name])
def test_data_configs_compose(name):
    for config in ("train", "compare"):
        cfg = composed(config, f"data={name}")["data"]
        assert cfg["name"] in data.names()
        if "???" not in cfg.values() and cfg["name"] not in ("hub",):
            source = data.open_source(**{k: v for k, v in cfg.items() if k != "strict"})
            assert len(source) > 0


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_compose(name):
    cfg = composed("train", f"experiment={name}")
    assert cfg["task"] in all_tasks() and set(cfg["losses"]) == set(NAMES)
    if cfg["task"] == "transformer":
        assert models.build(cfg["omni"]) and not cfg["codec"]
        assert cfg["data"]["name"] == cfg["validation"]["name"] == Documents.name
    elif cfg["task"] == "decoder":
        node = {k: v for k, v in cfg["decoder"].items() if k not in ("settings", "begin")}
        assert models.build_decoder(node) and not cfg["codec"] and not cfg["omni"]
    else:
        cfg = composed("train", f"experiment={name}", "data=tar", "data.path=x.tar")
        assert codecs.build(cfg["codec"].pop("name"), **cfg["codec"]) and not cfg["omni"]


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda p: p.stem)
def test_top_configs_compose(path):
    assert composed(path.stem)


def test_conf_has_exactly_the_known_groups():
    """Hydra treats every folder as a group, even an empty one, and a group hides a key of the same name."""
    groups = {p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert groups == {"codec", "data", "decoder", "experiment", "omni"}


def test_train_yaml_and_its_types_agree():
    cfg = composed("train")
    assert set(cfg) == set(TrainConfig.__dataclass_fields__)
    assert set(cfg["losses"]) == set(NAMES)


def test_tasks_share_no_loss():
    assert len(set(NAMES)) == len(NAMES)


# -- checkpoints --------------------------------------------------------------------------------


def test_every_checkpoint_is_a_codec_or_a_model_and_documented():
    folders = {p.name for p in (ROOT / "checkpoints").iterdir() if p.is_dir() and p.name != "__pycache__"}
    kinds = {"codec": codecs.shipped(), "omni": models.names(), "decoder": models.decoders()}
    assert sorted(folders) == sorted(name for names in kinds.values() for name in names)
    for name in folders:
        held = {p.name for p in (ROOT / "checkpoints" / name).iterdir()}
        assert {"model.safetensors", "config.yaml", "README.md"} <= held, name
        config = yaml.safe_load((ROOT / "checkpoints" / name / "config.yaml").read_text())
        assert config["license"] in (ROOT / "checkpoints" / name / "README.md").read_text(), name
        assert [kind for kind in kinds if kind in config] == [kind for kind in kinds if name in kinds[kind]], name
