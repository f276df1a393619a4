"""Lyra v2 against its published graphs, run one after the other as its own program does."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.codecs import LYRA, lyra, tiny

from tokenloom import codecs
from tokenloom.codecs import media, rate

PROMPTS = LYRA.parents[1] / "data" / "prompts-test.tar"


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    """Return 3 clips of speech (3, 1, 12_345) at 16 kHz."""
    if not PROMPTS.exists():
        pytest.skip(f"needs {PROMPTS}")
    with tarfile.open(PROMPTS) as archive:
        names = [name for name in archive.getnames() if name.endswith(".flac")][:3]
        files = [archive.extractfile(name).read() for name in names]
    clips = [media.read(data, sample_rate=16_000, channels=1)[:, :12_345] for data in files]
    return torch.stack([torch.nn.functional.pad(clip, (0, 12_345 - clip.shape[1])) for clip in clips])


def official(x: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (46, frames) and the sound of one signal (1, samples), by the graphs alone."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
    graphs = {p.stem: interpreter(model_path=str(p), num_threads=1) for p in Path(lyra()).glob("*.tflite")}
    encoder, decoder = (graphs[name].get_signature_runner() for name in ("soundstream_encoder", "lyragan"))
    quantizer = {name: graphs["quantizer"].get_signature_runner(name) for name in ("encode", "decode")}
    indices, sound = [], []
    samples = np.pad(x[0].numpy(), (0, -x.shape[1] % 320))
    for start in range(0, len(samples), 320):
        latents = encoder(input_audio=samples[None, start : start + 320])["output_0"]
        index = quantizer["encode"](input_frames=latents, num_quantizers=np.int32(count))["output_0"]
        sound.append(decoder(input_audio=quantizer["decode"](encoding_indices=index)["output_0"])["output_0"][0])
        indices.append(index[:, 0, 0])
    return np.stack(indices, 1), np.concatenate(sound)


@pytest.mark.parametrize("count", [16, 30, 46])
def test_codes_and_sound_are_those_of_the_graphs(speech, count):
    codec = tiny("audio/lyra")
    codes = codec.encode(speech, count)
    decoded = codec.decode(codes)
    for item, x in enumerate(speech):
        indices, sound = official(x, count)
        assert np.array_equal(codes.indices[item].numpy(), indices[:count]) and (indices[count:] == -1).all()
        np.testing.assert_allclose(decoded[item, 0].numpy(), sound[: x.shape[1]].clip(-1, 1), atol=1e-6)
    assert codes.indices.unique().numel() == 16


def test_rates_are_those_that_lyra_names(speech):
    codec = tiny("audio/lyra")
    bits = [rate.nominal(codec.spec, codec.encode(speech[:1, :, :320], n)).item() for n in (16, 30, 46)]
    assert [50 * count for count in bits] == [3200, 6000, 9200]


def test_a_saved_copy_needs_no_file(tmp_path, speech):
    codec = tiny("audio/lyra")
    codecs.save(codec, tmp_path / "lyra")
    copy = codecs.load(tmp_path / "lyra")
    assert copy.fingerprint == codec.fingerprint
    assert torch.equal(copy.encode(speech).indices, codec.encode(speech).indices)


def test_other_graphs_never_run(tmp_path):
    """LiteRT would run whatever a file holds."""
    shutil.copytree(lyra(), tmp_path / "lyra")
    graph = tmp_path / "lyra" / "quantizer.tflite"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"needs the published quantizer\.tflite"):
        codecs.build("audio/lyra", checkpoint=tmp_path / "lyra")
    with pytest.raises(ValueError, match="needs another project's weights"):
        codecs.load("audio/lyra")
    with pytest.raises(ValueError, match=r"needs the published soundstream_encoder\.tflite"):
        codecs.build("audio/lyra").encode(torch.zeros(1, 1, 320))
    codec = codecs.build("audio/lyra", checkpoint=lyra())
    codec.quantizer.data[-1] ^= 1  # as a stranger's checkpoint could hold it
    with pytest.raises(ValueError, match=r"needs the published quantizer\.tflite"):
        codec.encode(torch.zeros(1, 1, 320))
