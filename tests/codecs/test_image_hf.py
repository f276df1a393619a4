"""image/hf against the image tokenizers of transformers."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line, structured

from tokenloom import codecs
from tokenloom.codecs.image.hf import families
from tokenloom.codecs.quantizers import product

transformers = pytest.importorskip("transformers", reason="transformers is an extra: pip install 'tokenloom[hf]'")

JANUS = {
    "model_type": "janus_vqgan", "embed_dim": 4, "num_embeddings": 1024, "latent_channels": 8, "base_channels": 32,
    "channel_multiplier": [1, 1, 2], "num_res_blocks": 1,
}  # fmt: skip
EMU3 = {
    "model_type": "emu3_vqgan", "codebook_size": 32768, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
    "channel_multiplier": [1, 2], "num_res_blocks": 1, "attn_resolutions": [1], "hidden_size": 64,
    "temporal_downsample_factor": 4,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 99,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    """Hide the progress bars of the library."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@torch.no_grad()
def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Set weights and statistics so that codes vary, and codebooks so that all entries are used."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "embedding" in name:
            value.copy_(noise * (1 + noise[:, :1].abs()))  # lengths differ
        elif name.endswith("running_var"):
            value.copy_(noise.abs() + 0.5)
        elif value.ndim == 1:
            value.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
        else:
            value.copy_(noise * value[0].numel() ** -0.5)
    return model.eval()


@torch.no_grad()
def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Move Emu3's codebook to the latents. With random weights it is far from them."""
    clip = (photograph(32, 48) * 2 - 1)[:, None].repeat(1, model.config.temporal_downsample_factor, 1, 1, 1)
    latents = model.quant_conv(model.encoder(clip).transpose(1, 2)).transpose(0, 1).flatten(1)
    model.quantize.embedding.weight.mul_(latents.std(1)).add_(latents.mean(1))
    return model


def janus(seed: int = 0, **more) -> torch.nn.Module:
    config = {k: v for k, v in (JANUS | more).items() if k != "model_type"}
    return lively(transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**config)), seed)


def emu3(seed: int = 0, **more) -> torch.nn.Module:
    config = {k: v for k, v in (EMU3 | more).items() if k != "model_type"}
    return spread(lively(transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**config)), seed))


def photograph(height: int, width: int) -> torch.Tensor:
    from skimage import data

    picture = np.ascontiguousarray(data.astronaut()[40 : 40 + height, 150 : 150 + width])
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


# -- the same codes, the same pictures ------------------------------------------------------------


@torch.no_grad()
def test_janus_gives_the_models_own_codes(tmp_path):
    model = janus(num_patches=24)
    model.save_pretrained(tmp_path)
    codec = codecs.build("image/hf", checkpoint=tmp_path)
    assert codec.config == {"model": JANUS} and codec.spec.codebook_sizes == (1024,) and codec.spec.stride == (4, 4)
    x = photograph(96, 96)
    latents = model.quant_conv(model.encoder(x * 2 - 1))
    book = F.normalize(model.quantize.embedding.weight.clone(), dim=1)
    likeness = torch.einsum("bchw,nc->bhwn", F.normalize(latents, dim=1), book)
    best = likeness.topk(2).values
    clear = best[..., 0] - best[..., 1] > 1e-5
    wanted = likeness.argmax(-1)
    codes = codec.encode(x)
    assert len(wanted.unique()) > 100 and clear.float().mean() > 0.95
    assert torch.equal(codec.official_index(codes)[clear], wanted[clear])
    raw = model.encode(x * 2 - 1).image_tokens.reshape(wanted.shape)
    assert (raw == wanted).float().mean() < 0.9  # the library's own encode, entries as they are
    decoded = model.decode(codes.indices.flatten(1))  # 24² patches is what this one was told
    assert decoded.std() > 0.1
    torch.testing.assert_close(codec.decode(codes), (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_emu3_gives_the_librarys_codes(tmp_path, frames):
    model = emu3(temporal_downsample_factor=frames)
    model.save_pretrained(tmp_path)
    codec = codecs.build("image/hf", checkpoint=tmp_path)
    assert codec.spec.codebook_sizes == (256, 128) and codec.spec.stride == (2, 2)
    x = photograph(32, 48)
    (wanted,) = model.encode(x * 2 - 1, image_sizes=torch.tensor([[32, 48]])).image_tokens
    assert len(wanted.unique()) > 100
    codes = codec.encode(x)
    assert torch.equal(codec.official_index(codes)[0], wanted)
    decoded = model.decode(wanted[None])
    assert decoded.shape == x.shape and decoded.std() > 0.1
    torch.testing.assert_close(codec.decode(codes), (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("nested", [False, True])
def test_emu3s_own_mean_and_spread(tmp_path, nested):
    model = emu3(temporal_downsample_factor=1)
    model.save_pretrained(tmp_path)
    colours = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps({"image_processor": colours} if nested else colours))
    codec = codecs.build("image/hf", checkpoint=tmp_path)
    assert codec.config["mean"] == colours["image_mean"] and codec.config["std"] == colours["image_std"]
    mean, std = (torch.tensor(v)[:, None, None] for v in colours.values())
    x = photograph(24, 24)
    (wanted,) = model.encode((x - mean) / std, image_sizes=[(24, 24)]).image_tokens
    codes = codec.encode(x)
    assert torch.equal(codec.official_index(codes)[0], wanted)
    decoded = (model.decode(wanted[None]) * std + mean).clamp(0, 1)
    torch.testing.assert_close(codec.decode(codes), decoded, rtol=0, atol=1e-4)
    given = codecs.build("image/hf", checkpoint=tmp_path, mean=[0.5] * 3, std=[0.5] * 3)
    assert not torch.equal(given.encode(x).indices, codes.indices)


@torch.no_grad()
def test_edges_are_replicated_up_to_the_stride():
    torch.manual_seed(0)
    codec = codecs.build("image/hf", model=JANUS)
    x = photograph(13, 22)
    whole = F.pad(x, (0, 2, 0, 3), mode="replicate")
    assert torch.equal(codec.encode(x).indices, codec.encode(whole).indices)
    assert torch.equal(codec.decode(codec.encode(x)), codec.decode(codec.encode(whole))[:, :, :13, :22])


@pytest.mark.parametrize("model", [JANUS, EMU3], ids=["janus", "emu3"])
def test_codes_do_not_depend_on_the_batch_or_on_autocast(model):
    torch.manual_seed(0)
    codec = codecs.build("image/hf", model=model)
    codec.model.load_state_dict((janus if model is JANUS else emu3)().state_dict())
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    x = torch.cat([structured(codec, (17, 20), seed) for seed in range(3)])
    codec.train()
    with torch.autocast("cpu", torch.bfloat16):
        together = codec.encode(x)
    for i in range(3):
        assert torch.equal(codec.encode(x[i : i + 1]).indices, together.indices[i : i + 1])
        assert torch.equal(codec.decode(together[i]), codec.decode(together)[i : i + 1])
    assert not codec.model.training and len(codec.official_index(together).unique()) > 20
    assert all(torch.equal(value, state[name]) for name, value in codec.state_dict().items())


@pytest.mark.parametrize("model", [JANUS, EMU3], ids=["janus", "emu3"])
def test_unequal_sizes_are_decoded_as_if_alone(model):
    torch.manual_seed(0)
    codec = codecs.build("image/hf", model=model)
    sizes = ((1, 1), (9, 14), (3, 20))
    data = [codec.compress(structured(codec, size))[0] for size in sizes]
    together = codec.decompress(data)
    assert together.shape == (3, 3, 9, 20)
    for item, (height, width) in enumerate(sizes):
        alone = codec.decompress(data[item : item + 1])
        assert torch.isfinite(alone).all()
        assert torch.equal(together[item, :, :height, :width], alone[0])
        assert not together[item, :, height:].any() and not together[item, :, :, width:].any()


def test_pictures_of_too_many_codes_are_refused_in_one_line():
    codec = codecs.build("image/hf", model=EMU3)
    with pytest.raises(ValueError, match="at most 16384 codes, got 16385 × 1") as error:
        codec.encode(torch.zeros(1, 3, 2 * 2**14 + 1, 1))
    assert one_line(error)
    index = torch.zeros(1, 2, 2**14 + 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="at most 16384 codes"):
        codec.decode(codecs.Codes(index, torch.tensor([[2 * 2**14 + 1, 1]])))


# -- indices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "sizes"),
    [(2, (2,)), (2**14, (2**14,)), (2**15, (256, 128)), (2**14 + 2, (2731, 6)), (20000, (160, 125))],
)
def test_a_large_codebook_is_two(entries, sizes):
    assert product.factors(entries)[::-1] == sizes


def test_indices_both_ways():
    codec = codecs.build("image/hf", model=EMU3)
    index = torch.arange(2**15).reshape(1, 128, 256)
    indices = codec.from_official(index)
    assert indices[:, 0].max() == 255 and indices[:, 1].max() == 127
    assert torch.equal(codec.official_index(indices), index)
    assert codec.official_index(torch.tensor([7, 3])[None, :, None, None]).item() == 7 + 256 * 3


# -- where weights come from ----------------------------------------------------------------------


def whole_model(kind: str, folder, **options):
    """Save a small Janus or Emu3 model; return its tokenizer."""
    if kind == "janus":
        vision = {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 96, "patch_size": 4,
            "projection_dim": 32, "intermediate_size": 32, "depth": 1,
        }  # fmt: skip
        book = {k: v for k, v in JANUS.items() if k != "model_type"}
        config = transformers.JanusConfig(
            text_config={**TEXT, "model_type": "llama"}, vision_config=vision,
            vq_config={**book, "projection_dim": 32, "image_token_embed_dim": 32},
        )  # fmt: skip
        model = transformers.JanusForConditionalGeneration(config)
        tokenizer = lively(model.model.vqmodel)
    else:
        book = {k: v for k, v in EMU3.items() if k != "model_type"}
        config = transformers.Emu3Config(
            text_config={**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            vq_config=book,
            vocabulary_map={"<image>": 5, "<|extra_0|>": 6},
        )
        model = transformers.Emu3ForConditionalGeneration(config)
        tokenizer = spread(lively(model.model.vqmodel))
    model.save_pretrained(folder, **options)
    return tokenizer


@pytest.mark.parametrize("kind", ["janus", "emu3"])
def test_the_tokenizer_within_a_whole_sharded_model(tmp_path, kind):
    tokenizer = whole_model(kind, tmp_path / "whole", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "alone")
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if "vqmodel." in name}
    others = set(index.values()) - needed
    assert len(needed) > 1 and others
    for file in others:  # what is not read need not be there
        (tmp_path / "whole" / file).unlink()
    inside = codecs.build("image/hf", checkpoint=tmp_path / "whole")
    alone = codecs.build("image/hf", checkpoint=tmp_path / "alone")
    assert inside.fingerprint == alone.fingerprint and inside.config == alone.config
    (tmp_path / "whole" / sorted(needed)[0]).unlink()
    with pytest.raises(FileNotFoundError, match=sorted(needed)[0]) as error:
        codecs.build("image/hf", checkpoint=tmp_path / "whole")
    assert one_line(error)


def test_names_of_earlier_releases_and_other_types_of_numbers(tmp_path):
    tokenizer = whole_model("janus", tmp_path / "whole").to(torch.bfloat16)
    tokenizer.save_pretrained(tmp_path / "half")
    half = codecs.build("image/hf", checkpoint=tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in half.parameters())
    old = tmp_path / "old"
    old.mkdir()
    state = {f"vqmodel.{name}": value for name, value in tokenizer.state_dict().items()} | {"lm_head": torch.ones(3)}
    torch.save(state, old / "pytorch_model.bin")
    (old / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    assert codecs.build("image/hf", checkpoint=old).fingerprint == half.fingerprint
    by_file = codecs.build("image/hf", checkpoint=tmp_path / "half" / "model.safetensors")
    assert by_file.fingerprint == half.fingerprint


def test_saved_and_loaded_without_the_foreign_folder(tmp_path):
    for kind, model in (("janus", janus()), ("emu3", emu3())):
        folder = tmp_path / kind
        model.save_pretrained(folder)
        codec = codecs.build("image/hf", checkpoint=folder)
        routed = codecs.load(folder)  # by its model_type
        assert routed.name == "image/hf" and routed.fingerprint == codec.fingerprint
        codecs.save(codec, tmp_path / f"our-{kind}")
        for file in folder.iterdir():
            file.unlink()
        again = codecs.load(tmp_path / f"our-{kind}")
        x = photograph(20, 31)
        assert again.fingerprint == codec.fingerprint
        assert torch.equal(again.encode(x).indices, codec.encode(x).indices)
        assert torch.equal(codecs.decompress(codec.compress(x)[0]), codec.decode(codec.encode(x)))


# -- what is refused, each in one line ------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (7, "model_type of image/hf must be one of"),
        ({}, "model_type of image/hf must be one of"),
        ({"model_type": ["janus_vqgan"]}, "model_type of image/hf must be one of"),
        ({"model_type": "janus"}, "model_type of image/hf must be one of janus_vqgan, emu3_vqgan, got 'janus'"),
        (JANUS | {"auto_map": {"AutoModel": "x.py"}}, "does not take 'auto_map'"),
        (JANUS | {"embed_dim": "8"}, "embed_dim must be an integer .*got '8'"),
        (JANUS | {"embed_dim": 10**9}, "embed_dim must be an integer from 1 to 4096, got 1000000000"),
        (JANUS | {"channel_multiplier": []}, "channel_multiplier"),
        (JANUS | {"channel_multiplier": [1] * 9}, "channel_multiplier"),
        (JANUS | {"channel_multiplier": [64] * 8, "base_channels": 4096}, "weights must be at most"),
        (JANUS | {"base_channels": 33}, "divisible"),
        (JANUS | {"in_channels": 1}, "in_channels must be 3, got 1"),
        (JANUS | {"double_latent": True}, "double_latent"),
        (EMU3 | {"hidden_size": 32}, "emu3_vqgan cannot be built"),
        (EMU3 | {"temporal_downsample_factor": 3}, "emu3_vqgan cannot be built"),
        (EMU3 | {"latent_channels": 8}, "emu3_vqgan cannot be built"),
        (EMU3 | {"codebook_size": 16411}, "product of two"),
    ],
)
def test_wrong_architectures(model, said):
    with pytest.raises(ValueError, match=said) as error:
        codecs.build("image/hf", model=model)
    assert one_line(error)


@pytest.mark.parametrize(
    "more", [{"mean": [0.5]}, {"mean": "gray"}, {"std": [0, 1, 1]}, {"std": [float("nan")] * 3}, {"mean": [0.4] * 3}]
)
def test_wrong_colors(more):
    with pytest.raises(ValueError, match=next(iter(more))) as error:
        codecs.build("image/hf", model=JANUS, **more)
    assert one_line(error)


@pytest.mark.parametrize("kind", families.WITHOUT_DECODER)
def test_tokenizers_without_a_decoder(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match="no decoder") as error:
        codecs.build("image/hf", checkpoint=tmp_path)
    assert one_line(error)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "must hold a mapping, got list"),
        ("{}", "model_type of image/hf .*got None"),
        ('{"model_type": "bert"}', "model_type of image/hf .*got 'bert'"),
        ('{"model_type": "janus_vqgan", "base_channels": 64}', "another architecture"),
        ('{"model_type": "janus_vqgan", "num_embeddings": -1}', "num_embeddings .*got -1"),
        ('{"model_type": "janus", "vq_config": {}}', "must hold tensors of a tokenizer"),
    ],
)
def test_wrong_folders(tmp_path, config, said):
    janus().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=said) as error:
        codecs.build("image/hf", checkpoint=tmp_path)
    assert one_line(error)


def test_damaged_and_missing_weights(tmp_path):
    janus().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged") as error:
        codecs.build("image/hf", checkpoint=tmp_path)
    assert one_line(error)
    weights.unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"encoder.a": "../b.safetensors"}}')
    with pytest.raises(ValueError, match="outside its folder") as error:
        codecs.build("image/hf", checkpoint=tmp_path)
    assert one_line(error)
    for path in (tmp_path / "config.json", tmp_path / "model.safetensors.index.json"):
        path.unlink()
        with pytest.raises(FileNotFoundError) as error:
            codecs.build("image/hf", checkpoint=tmp_path)
        assert one_line(error)
    with pytest.raises(FileNotFoundError, match="nowhere") as error:
        codecs.build("image/hf", checkpoint=tmp_path / "nowhere")
    assert one_line(error)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'tokenloom\[hf\]'") as error:
        codecs.build("image/hf", model=JANUS)
    assert one_line(error)
