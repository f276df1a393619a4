"""The code of README.md and docs/*.md. The tests run it as a reader would, or check it if running takes too long.

For a block after the comment `<!-- check only: reason -->`, the tests only parse the commands and compose their
configurations. The Python blocks of a page share their names, like the cells of a notebook. A block with a title, such
as ```python title="codecs/image/mini.py", is a file that the page adds to a copy of the package. A title that begins
with my_, such as ```python title="my_codec.py", is a file of the reader in the current folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from skimage import data
from support.codecs import structured, tiny
from support.hub_server import hub

from tokenloom import codecs
from tokenloom.cli.commands import parser
from tokenloom.cli.main import main

ROOT = Path(__file__).parents[1]
COMPOSED = ("train", "compare", "evaluate", "tokenize")
"""Commands that print their configuration with `--cfg job`."""
RUNNER = """
import json, sys
from tokenloom.cli.commands import parser
from tokenloom.cli.main import main
names = {"__name__": "__main__"}
for code, commands, where in json.load(sys.stdin):
    if not commands:
        exec(compile(code, where, "exec"), names)
    for command in commands:
        if main(command):
            sys.exit(f"{where}: tokenloom {' '.join(command)}")
"""
RECORDER = r"""
exec 3>&1
record() { printf '%s\0' "$@" $'\036' >&3; }
for name in tokenloom torchrun make pip source; do eval "$name() { record $name \"\$@\"; }"; done
"""
"""Shell functions that print the words of a command instead of running it, also inside a pipe."""


class Block(NamedTuple):
    """A fenced block of code on a page."""

    language: str
    code: str
    where: str
    check_only: bool
    """Whether the tests only check the block."""


def blocks(page: Path) -> list[Block]:
    """Return the Python and shell blocks of a page, padded to their line numbers."""
    text = page.read_text("utf-8")
    return [
        Block(found[2], "\n" * text.count("\n", 0, found.start(3)) + found[3], page.name, bool(found[1]))
        for found in re.finditer(r"(<!-- check only: [^\n]+ -->\n)?```(python|sh)\n(.*?)```", text, re.DOTALL)
    ]


def added_files(page: Path) -> dict[str, str]:
    """Return path and content of the files that a page adds to the package."""
    return dict(re.findall(r"```\w+ title=\"([^\"]+)\"\n(.*?)```", page.read_text("utf-8"), re.DOTALL))


SOURCES = {page.stem: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
PAGES = {name: blocks(page) for name, page in SOURCES.items()}


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Return a folder with a photograph, a sound, and checkpoints of other projects with random weights."""
    from support.hosts import host_tokenizer, llama
    from support.taming import chameleon_and_decoder, config_of, taming_checkpoint, taming_state
    from transformers import MimiConfig, MimiModel

    folder = tmp_path_factory.mktemp("files")
    (folder / "photos").mkdir()
    for i in range(2):
        picture = structured(tiny("image/jpeg"), (176, 168), i)[0]
        codecs.write(picture, folder / "photos" / f"{i}.png")
    Image.fromarray(data.astronaut()[:320, :320]).save(folder / "photo.png")
    (folder / "speech").mkdir()
    for path in (folder / "speech.wav", folder / "speech" / "0.wav"):
        codecs.write(structured(tiny("audio/rvq"), (8000,))[0], path, sample_rate=8000)

    codecs.write(structured(tiny("image/jpeg"), (64, 64))[0], folder / "heart.png")
    tokenizer = host_tokenizer()
    tokenizer.save_pretrained(folder / "my-model")
    llama(len(tokenizer)).save_pretrained(folder / "my-model")
    taming_checkpoint(folder / "last.ckpt", taming_state(*chameleon_and_decoder()))
    (folder / "model.yaml").write_text(yaml.safe_dump(config_of()))
    _encodec(folder / "encodec_24khz-d7cc33bc.th")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_filters": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 32, "upsample_groups": 32, "num_quantizers": 8}
    books = {"codebook_size": 64, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16}
    MimiModel(MimiConfig(**sizes, **books)).save_pretrained(folder / "kyutai" / "mimi")
    return folder


def _encodec(path: Path) -> None:
    """Write a checkpoint of the official class with few channels and random codebooks, in the official layout."""
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer

    torch.manual_seed(0)
    network = {"channels": 1, "dimension": 32, "n_filters": 4, "norm": "weight_norm", "causal": True}
    parts = {
        "encoder": SEANetEncoder(**network), "decoder": SEANetDecoder(**network),
        "quantizer": ResidualVectorQuantizer(dimension=32, n_q=32, bins=1024),
    }  # fmt: skip
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    for name, value in state.items():
        if name.endswith("_codebook.embed"):
            value.normal_(std=0.02)
    torch.save(state, path)


def extended_package(folder: Path, added: dict[str, str]) -> Path:
    """Make a copy of the package with some files added, and return the folder to import it from."""
    rooms = {Path(path).parts[0] for path in added}
    (folder / "tokenloom").mkdir(parents=True)
    for room in (ROOT / "tokenloom").iterdir():
        if room.name in rooms:
            shutil.copytree(room.resolve(), folder / "tokenloom" / room.name)
        else:
            (folder / "tokenloom" / room.name).symlink_to(room.resolve())
    for path, content in added.items():
        (folder / "tokenloom" / path).write_text(content)
    return folder


@pytest.mark.parametrize("page", [name for name, code in PAGES.items() if any(not block.check_only for block in code)])
@pytest.mark.usefixtures("loopback")
def test_the_code_of_a_page_runs(page, files, tmp_path):
    environment = dict(os.environ)
    added = added_files(SOURCES[page])
    for name in [name for name in added if name.startswith("my_")]:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(added.pop(name))
    if added:
        environment["PYTHONPATH"] = str(extended_package(tmp_path, added))
    code = [(block.code, tokenloom(block), block.where) for block in PAGES[page] if not block.check_only]
    with hub() as (address, _, _):
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(files / "home"), "HF_TOKEN": "hf_secret"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", RUNNER], input=json.dumps(code), cwd=files, env=environment, capture_output=True,
            text=True, check=False, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", [name for name, code in PAGES.items() if any(block.check_only for block in code)])
def test_the_commands_of_a_page_are_valid(page, capsys):
    for block in PAGES[page]:
        if not block.check_only:
            continue
        assert block.language == "sh", "Python code is always run"
        for words in commands(block):
            check(words)
    capsys.readouterr()


@pytest.mark.parametrize("card", sorted((ROOT / "checkpoints").glob("*/README.md")), ids=lambda card: card.parent.name)
def test_the_code_of_a_model_card_is_valid(card, capsys):
    for block in blocks(card):
        if block.language == "sh":
            for words in commands(block):
                check(words)
        else:
            imports = [line for line in block.code.splitlines() if line.startswith(("import ", "from "))]
            exec("\n".join(imports), {})
    capsys.readouterr()


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a shell block."""
    script = ["bash", "-euc", RECORDER + block.code]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(script, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("\0") for line in done.stdout.split("\0\036\0")[:-1]]


def tokenloom(block: Block) -> list[list[str]]:
    """Return the arguments of each command of a shell block, which must call tokenloom only; [] for Python."""
    if block.language == "python":
        return []
    found = commands(block)
    assert {words[0] for words in found} == {"tokenloom"}, f"{block.where} must call tokenloom only"
    return [words[1:] for words in found]


def check(words: list[str]) -> None:
    """Parse a command, and compose its configuration if it has one."""
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=True, timeout=60)
    if "tokenloom" not in words:
        return
    arguments = words[words.index("tokenloom") + 1 :]
    if arguments[0] not in COMPOSED:
        rest = parser(arguments[0]).parse_known_args(arguments)[1]
        assert not [word for word in rest if word.startswith("-")], " ".join(words)
        return
    if "-m" in arguments:  # check the first job of the sweep
        arguments = [re.sub(r"^([\w.]+=[^,\[{]+),.*", r"\1", word) for word in arguments if word != "-m"]
    assert main([*arguments, "--cfg", "job"]) == 0, " ".join(words)


def test_links_of_the_readme_exist():
    links = re.findall(r"(?:\]\(|src=\")([^)#\"]+)", (ROOT / "README.md").read_text("utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]
