"""What holds the tree together: imports, configs, the wheel."""

from __future__ import annotations

import ast
import inspect
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from support.codecs import TINY, trains

from tokenloom import codecs, data, models
from tokenloom.data.documents.documents import Documents
from tokenloom.train import losses
from tokenloom.train.check import TASKS
from tokenloom.train.config import TrainConfig
from tokenloom.train.tasks import decoder, transformer
from tokenloom.train.tasks.codec import codec_of

ROOT = Path(__file__).parents[1]
FOLDERS = ("tokenloom", "codecs", "metrics", "models", "data", "train", "eval", "conf", "checkpoints")
SHARED = {"errors", "files", "progress", "threads", "__version__"}
"""Modules of tokenloom/ that every folder may import."""
NAMES = {*losses.NAMES, *transformer.NAMES, *decoder.WEIGHTS}
"""Losses of every task."""
MAY_IMPORT = {
    "codecs": {"codecs", "checkpoints"},
    "metrics": {"codecs", "metrics"},
    "models": {"codecs", "models", "checkpoints"},
    "data": {"codecs", "data"},
    "train": {"codecs", "metrics", "models", "data", "train"},
    "eval": {"codecs", "metrics", "models", "data", "eval"},
    "conf": set(),
    "checkpoints": set(),
}
"""Folder → folders of ours that it may import."""


def modules(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path) -> set[str]:
    """Folders of ours that a module imports, inside functions too; "tokenloom" stands for the root's modules."""
    package = ["tokenloom", *path.relative_to(ROOT).parts[:-1]]
    if package[1] == "tokenloom":
        package.pop(1)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        ours = [name.split(".")[1] for name in names if name.startswith("tokenloom.")]
        found |= {part if part in FOLDERS else "tokenloom" for part in ours if part not in SHARED}
    return found


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_point_one_way(folder):
    for path in modules(folder):
        stray = imported(path) - MAY_IMPORT[folder]
        assert not stray, f"{path.relative_to(ROOT)} imports {sorted(stray)}"


def test_the_import_check_sees_something():
    assert {"codecs", "data", "train"} <= imported(ROOT / "train" / "tasks" / "codec.py")
    assert {"codecs", "models", "data", "train"} <= imported(ROOT / "train" / "tasks" / "transformer.py")
    assert imported(ROOT / "models" / "checkpoint.py") == {"codecs", "models"}
    assert imported(ROOT / "codecs" / "image" / "learned.py") == {"codecs"}
    assert {"tokenloom", "codecs", "models", "train"} <= set().union(*map(imported, modules("tokenloom")))


@pytest.mark.parametrize(
    "module", ["tokenloom", "tokenloom.codecs", "tokenloom.cli", "tokenloom.data", "tokenloom.models"]
)
def test_nothing_heavy_is_imported(module):
    heavy = (
        "torchmetrics", "lightning_fabric", "lightning", "lpips", "matplotlib", "vector_quantize_pytorch", "hydra",
        "torchvision", "torchaudio", "tensorboard", "skimage", "scipy", "tokenizers", "soundfile", "soxr",
        "constriction", "pytorch_msssim", "jinja2", "huggingface_hub",
    )  # fmt: skip
    heavy += ("torch", "numpy", "PIL") if module in ("tokenloom", "tokenloom.cli") else ()
    # lazy_loader enters a module into sys.modules that is executed at its first use
    loaded = "m in sys.modules and type(sys.modules[m]).__name__ != '_LazyModule'"
    program = f"import sys, {module}; print([m for m in {heavy!r} if {loaded}])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "[]"


def test_every_module_imports():
    """As a wheel's user would: by name, each on its own in one process."""
    names = []
    for folder in FOLDERS:
        for path in modules(folder):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "tokenloom" else ("tokenloom", *parts)
            names.append(".".join(p for p in parts if p not in ("__init__", "__main__")))
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_drawer_for_everything():
    assert not [
        p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.stem in ("utils", "util", "helpers", "misc")
    ]


# -- configs ------------------------------------------------------------------------------------


def choices(group: str) -> list[str]:
    folder = ROOT / "conf" / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def composed(config: str, *overrides: str) -> dict:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_module("tokenloom.conf", version_base="1.3"):
        cfg = compose(config, overrides=list(overrides))
    return OmegaConf.to_container(cfg, resolve=False)


def test_codecs_and_their_configs_are_the_same_set():
    assert choices("codec") == [name for name in codecs.names() if trains(name)]
    for name in choices("codec"):
        assert yaml.safe_load((ROOT / "conf" / "codec" / f"{name}.yaml").read_text())["name"] == name


@pytest.mark.parametrize("name", choices("codec"))
def test_codec_configs_build(name):
    small = [f"codec.{key}={value}".replace(" ", "") for key, value in TINY[name].items()]
    cfg = composed("train", f"codec={name}", *small)["codec"]
    codec = codec_of(dict(cfg))
    cfg.pop("name")
    cls = type(codec)
    imports = {"checkpoint"} | codecs.codec.import_arguments(cls) if codecs.codec.imports(cls) else set()
    assert codec.name == name and set(cfg) <= codecs.codec.arguments(type(codec)) | imports
    plain = composed("train", f"codec={name}")["codec"]
    assert set(plain) - {"name"} == codecs.codec.arguments(type(codec)) | imports, "every argument has its line"


@pytest.mark.parametrize("name", choices("omni"))
def test_omni_configs_build(name):
    cfg = composed("train", f"omni={name}")["omni"]
    omni = models.build(cfg)
    assert omni.transformer.config.items() >= cfg["transformer"].items()
    assert list(omni.vocabulary.channels) == [channel["name"] for channel in cfg["channels"]]
    assert {"text", "image", "audio"} == {channel.modality for channel in omni.vocabulary.channels.values()}


def test_every_data_choice_is_a_source_or_the_documents():
    names = {composed("train", f"data={name}")["data"]["name"] for name in choices("data")}
    assert names == {*data.names(), Documents.name}


def test_documents_are_no_source():
    cfg = composed("train", "data=documents")["data"]
    assert set(cfg) - {"name", "strict"} == set(inspect.signature(Documents).parameters)
    with pytest.raises(ValueError, match="'documents' is none of folder, tar"):
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
    assert cfg["task"] in TASKS and set(cfg["losses"]) == set(NAMES)
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


def test_no_config_is_left_out():
    """A folder is a group to Hydra even when empty, and hides a key of its name."""
    groups = {p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert groups == {"codec", "data", "decoder", "experiment", "omni"}


def test_train_yaml_and_its_types_agree():
    cfg = composed("train")
    assert set(cfg) == set(TrainConfig.__dataclass_fields__)
    assert set(cfg["losses"]) == set(NAMES)


def test_no_loss_is_of_two_tasks():
    names = [*losses.NAMES, *transformer.NAMES, *decoder.WEIGHTS]
    assert len(set(names)) == len(names)


# -- checkpoints --------------------------------------------------------------------------------


def test_every_checkpoint_is_a_codec_or_a_model_and_documented():
    folders = {p.name for p in (ROOT / "checkpoints").iterdir() if p.is_dir() and p.name != "__pycache__"}
    kinds = {"codec": codecs.shipped(), "omni": models.names(), "decoder": models.decoders()}
    assert sorted(folders) == sorted(name for names in kinds.values() for name in names)
    for name in folders:
        held = {p.name for p in (ROOT / "checkpoints" / name).iterdir()}
        assert {"model.safetensors", "config.yaml", "README.md"} <= held, name
        config = yaml.safe_load((ROOT / "checkpoints" / name / "config.yaml").read_text())
        assert [kind for kind in kinds if kind in config] == [kind for kind in kinds if name in kinds[kind]], name


# -- the wheel ----------------------------------------------------------------------------------


def test_the_sdist_and_the_wheel_hold_the_tree(tmp_path):
    """The wheel is built from the sdist, and both hold every file once although tokenloom/ has links to folders."""
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "docs", "benchmarks", "multirun", "site"
    )
    shutil.copytree(ROOT, tmp_path / "tree", ignore=ignored, symlinks=True)
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    build = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(build, check=True, timeout=600, cwd=tmp_path / "tree", capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "-w", str(tmp_path), str(sdist)]
    subprocess.run(pip, check=True, timeout=600, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")

    expected = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and "__pycache__" not in parts and not any(p.startswith(".") for p in parts):
                expected.add("/".join(parts if folder == "tokenloom" else ("tokenloom", *parts)))
    in_wheel = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tokenloom/")]
    with tarfile.open(sdist) as archive:
        in_sdist = [m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()]
    assert sorted(in_wheel) == sorted(expected)
    assert sorted(name for name in in_sdist if name.startswith("tokenloom/")) == sorted(expected)
    assert not [name for name in in_sdist if name.partition("/")[0] in FOLDERS[1:]]
