"""The README's code, section by section, run as a reader would beside the files that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from skimage import data
from support.codecs import structured, tiny
from support.hub_server import hub

from tokenloom import codecs

ROOT = Path(__file__).parents[1]
SECTIONS = {
    title: re.findall(r"```(python|sh)\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
}
RUN = (
    "Other projects' codecs", "Into other models", "On the hub", "Export", "Tokenise a data set", "From Python",
    "Add a codec", "One vocabulary for any codecs",
)  # fmt: skip


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with a photograph, a sound, and other projects' checkpoints with random weights."""
    from support.hosts import host_tokenizer, llama
    from support.taming import chameleon_and_decoder, config_of, taming_checkpoint, taming_state
    from transformers import MimiConfig, MimiModel

    folder = tmp_path_factory.mktemp("readme")
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
    """The official class with few channels and random codebooks, in the official layout."""
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


@pytest.mark.parametrize("section", RUN)
@pytest.mark.usefixtures("loopback")
def test_the_section_runs(section, files):
    assert SECTIONS[section], "a section without code"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with hub() as (address, _, _):
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(files / "home"), "HF_TOKEN": "hf_secret"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        for language, code in SECTIONS[section]:
            command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(
                command, cwd=files, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert done.returncode == 0, f"{code}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
