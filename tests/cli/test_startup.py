"""What each command imports: nothing that it does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tree import ROOT

from tokenloom import codecs, devices
from tokenloom.cli import known
from tokenloom.codecs import media

HEAVY = {
    "torchmetrics", "lightning_fabric", "lightning", "lpips", "matplotlib", "vector_quantize_pytorch", "hydra",
    "omegaconf", "torchvision", "torchaudio", "tensorboard", "skimage", "scipy", "tokenizers", "transformers",
    "datasets", "soundfile", "soxr", "constriction", "pytorch_msssim", "jinja2", "pandas", "huggingface_hub",
    "torch._dynamo", "torch._inductor", "sympy", "triton",
}  # fmt: skip
"""Packages that take a tenth of a second or more to import, besides PyTorch itself."""
PROGRAM = """
import sys
from tokenloom.cli.main import main
status = main(sys.argv[1:])
print("modules:", *sys.modules)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    media.write(image[0], folder / "photo.png")
    for name, file in (("image/jpeg", "jpeg"), ("emoji-fsq", "fsq"), ("natural-ntc", "ntc")):
        (folder / f"{file}.tlm").write_bytes(codecs.load(name).compress(image)[0])
    (folder / "notes.txt").write_text("as always")
    return folder


def modules(folder: Path, *argv: str, status: int = 0) -> tuple[set[str], str]:
    """Run a command in a new process. Return the modules that it imported, and what it said of errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == status, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:]), done.stderr


@pytest.mark.parametrize(
    ("command", "used"),
    [
        ("codecs", set()),
        ("encode photo.png -o a.tlm --codec image/jpeg", set()),
        ("encode photo.png -o b.tlm --codec natural-fsq", {"constriction"}),
        ("encode photo.png -o c.tlm --codec natural-ntc", {"constriction"}),
        ("encode photo.png -o d.tlm --codec emoji-flex --psnr 8", {"constriction"}),
        ("encode notes.txt -o e.tlm --codec text/bytes", set()),
        ("decode jpeg.tlm -o a.png", set()),
        ("decode fsq.tlm -o b.png", {"constriction"}),
        ("decode ntc.tlm -o c.png", {"constriction"}),
    ],
)
def test_a_command_imports_what_it_uses(folder: Path, command: str, used: set[str]) -> None:
    imported, _ = modules(folder, *command.split())
    assert "torch" in imported
    assert imported & HEAVY <= used


@pytest.mark.parametrize("command", ["encode photo.png -o x.tlm", "decode fsq.tlm -o x.png", "export"])
@pytest.mark.parametrize("name", ["natural-fsk", "image/jpec", "emoji"])
def test_a_misspelled_codec_is_known_without_pytorch(folder: Path, command: str, name: str) -> None:
    option = [] if command == "export" else ["--codec"]
    imported, said = modules(folder, *command.split(), *option, name, status=2)
    assert not imported & {"torch", "numpy", "yaml"}
    with pytest.raises(ValueError) as error:
        codecs.load(name)
    assert said == f"tokenloom: {error.value}\n"


def test_the_names_that_are_known_are_those_of_the_registry() -> None:
    assert sorted(known._registered()) == sorted(n for n in codecs.names() if _is_ours(n))
    assert known._shipped() == codecs.shipped()


def _is_ours(name: str) -> bool:
    return codecs.registry.codec_class(name).__module__.startswith("tokenloom.")


def test_version_and_words_without_a_command_import_nothing(folder: Path) -> None:
    program = "import sys\nfrom tokenloom.cli.main import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True, cwd=folder
    )
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "numpy", "yaml", *HEAVY}


def test_a_codec_without_weights_has_the_shapes_of_one_with_weights() -> None:
    for name in ("image/fsq", "image/rvq", "image/bsq", "image/ntc", "image/flex", "audio/rvq"):
        with devices.without_weights():
            empty = codecs.build(name).state_dict()
        built = codecs.build(name).state_dict()
        assert {key: value.shape for key, value in empty.items()} == {key: value.shape for key, value in built.items()}
        assert all(value.is_meta for value in empty.values())


def test_constants_are_placed_where_a_codec_is_built() -> None:
    with devices.without_weights():
        codec = codecs.build("image/fsq")
    assert all(value.is_meta for value in codec.buffers())
    assert devices.place(torch.ones(2)).device.type == "cpu"
