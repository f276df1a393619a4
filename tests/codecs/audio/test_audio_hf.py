"""audio/hf against the classes of transformers."""

from __future__ import annotations

import functools
import json
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line

from tokenloom import codecs
from tokenloom.codecs import Codes, bitstream, foreign
from tokenloom.codecs.audio import hf
from tokenloom.codecs.quantizers.product import level_products

transformers = pytest.importorskip("transformers")

ACOUSTIC = {
    "model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 64, "hidden_size": 16, "codebook_dim": 4,
    "downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2],
}  # fmt: skip
SEMANTIC = {
    "model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
ENCODEC = {
    "model_type": "encodec", "sampling_rate": 8000, "num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 2],
    "target_bandwidths": [10.0, 20.0, 40.0], "num_lstm_layers": 1,
}  # fmt: skip
CONFIGS = {
    "encodec": ENCODEC,
    "encodec-chunks": {
        **ENCODEC, "audio_channels": 2, "normalize": True, "chunk_length_s": 0.05, "overlap": 0.04,
        "norm_type": "time_group_norm", "use_causal_conv": False,
    },
    "dac": {
        "model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5],
        "n_codebooks": 3, "codebook_dim": 4, "sampling_rate": 8000,
    },
    "mimi": {
        "model_type": "mimi", "sampling_rate": 8000, "hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 2],
        "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 4, "upsample_groups": 16,
        "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
        "sliding_window": 8,
    },
    "xcodec": {
        "model_type": "xcodec", "acoustic_model_config": ACOUSTIC, "semantic_model_config": SEMANTIC,
        "target_bandwidths": [0.5, 1, 2],
    },
    "higgs": {
        "model_type": "higgs_audio_v2_tokenizer", "semantic_model_config": SEMANTIC, "codebook_dim": 8,
        "acoustic_model_config": {
            **ACOUSTIC, "downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3],
        },
        "target_bandwidths": [0.5, 1, 2],
    },
    "xcodec2": {
        "model_type": "xcodec2", "hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "encoder_hidden_size": 2,
        "quantization_dim": 80, "semantic_model_config": {
            "model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16,
        },
    },
}  # fmt: skip
LENGTHS = {"higgs": (960, 1001, 9600), "xcodec": (320, 1001, 4800), "xcodec2": (640, 1001, 4800)}
"""Lengths in samples; other kinds use `lengths`."""


def lengths(kind: str) -> tuple[int, ...]:
    return LENGTHS.get(kind, (1, 2, 7, 100, 1001))


def sound(channels: int, samples: int, batch: int = 1, rate: int = 8000) -> torch.Tensor:
    noise = torch.Generator().manual_seed(samples)
    t = torch.arange(samples) / rate
    tone = sum(0.2 * torch.sin(6.28 * f * t * (1 + t)) for f in (220.0, 331.0, 1250.0))
    x = tone * (0.5 + 0.5 * torch.sin(40 * t)) + 0.1 * torch.randn(batch, channels, samples, generator=noise)
    return x.clamp(-1, 1)


@functools.cache
def tiny(kind: str):
    """Return a small codec. Its codebooks match its latents, so its codes vary."""
    torch.manual_seed(0)
    codec = codecs.build("audio/hf", model=CONFIGS[kind])
    with torch.no_grad():
        for name, value in codec.model.named_parameters():
            if "layer_scale" in name or name.endswith("alpha"):
                value.uniform_(0.3, 1.0)
    books = [m for m in codec.model.modules() if hasattr(m, "embed_avg") or hasattr(m, "embed_sum")]
    for book in books:
        book.encode = functools.partial(fitted, book, book.encode)
    hook = kind == "xcodec2" and codec.model.quantizer.project_in.register_forward_pre_hook(spread)
    codec.encode(sound(codec.spec.channels, 3 * codec.spec.sample_rate, rate=codec.spec.sample_rate))
    if hook:
        hook.remove()
    for book in books:
        del book.encode
    return codec


def fitted(book, encode, latents):
    """Fill a codebook with the mean and spread of the latents. Mimi stores sums over the vectors of an entry."""
    flat = latents.reshape(-1, latents.shape[-1])
    if hasattr(book, "embed_sum"):
        book.cluster_usage.uniform_(0.5, 9)
        entries = flat.mean(0) + flat.std(0) * torch.randn(book.embed_sum.shape)
        book.embed_sum.copy_(entries * book.cluster_usage[:, None])
        book._embed = None
    else:
        book.embed.copy_(flat.mean(0) + flat.std(0) * torch.randn(book.embed.shape))
    return encode(latents)


def spread(layer, inputs):
    """Give each scalar level of a projection mean 0 and spread 1."""
    out = F.linear(inputs[0], layer.weight)[0]
    layer.weight.div_(out.std(0)[:, None])
    layer.bias.copy_(-(out / out.std(0)).mean(0))


def reference(model, x: torch.Tensor, setting) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode and decode one waveform by the library, with the padding of its feature extractors."""
    kind, n = model.config.model_type, x.shape[-1]
    with torch.no_grad():
        if kind == "encodec":
            out = model.encode(x, bandwidth=setting)
            codes = [*out.audio_codes]
            codes[-1] = codes[-1][..., : codes[-1].shape[-1] - out.last_frame_pad_length]
            y = model.decode(out.audio_codes, out.audio_scales, last_frame_pad_length=out.last_frame_pad_length)
            return torch.cat(codes, -1), y.audio_values
        if kind == "xcodec2":
            extract = transformers.Xcodec2FeatureExtractor(hop_length=model.config.hop_length)
            codes = model.encode(**extract(x[0, 0], sampling_rate=16000, return_tensors="pt")).audio_codes
            codes = codes[..., : -(-n // 320)]
            return codes, model.decode(codes).audio_values
        if kind == "mimi":
            codes = model.encode(x, num_quantizers=setting).audio_codes
            return codes, model.decode(codes).audio_values
        x = F.pad(x, (0, -n % model.config.hop_length))
        if kind == "dac":
            codes = model.encode(x, n_quantizers=setting).audio_codes
            return codes, model.decode(audio_codes=codes).audio_values[:, None]
        codes = model.encode(x, bandwidth=setting).audio_codes
        return codes, model.decode(codes).audio_values


def foreign_folder(codec, folder, **how):
    """Save the model of a codec by transformers; return the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codec.model.save_pretrained(folder, **how)
    return folder


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_and_signal_equal_the_library(kind, tmp_path):
    """Test every setting, and lengths that are not multiples of the stride, with a transformers folder."""
    model = tiny(kind).model
    codec = codecs.build("audio/hf", checkpoint=str(foreign_folder(tiny(kind), tmp_path)))
    assert codec.fingerprint == codecs.load(tmp_path).fingerprint
    for samples in lengths(kind):
        x = sound(codec.spec.channels, samples, rate=codec.spec.sample_rate)
        for setting in codec.settings.values:
            wanted, y = reference(model, x, setting)
            codes = codec.encode(x, setting)
            got = codes.indices
            if kind == "xcodec2":
                got = got[:, :1] + 256 * got[:, 1:]
            assert torch.equal(got, wanted.long())
            y, z = y[..., :samples].clamp(-1, 1), codec.decode(codes)
            assert z.shape == x.shape and samples - y.shape[-1] < codec.spec.stride[0]
            assert (z[..., : y.shape[-1]] - y).abs().max() < 1e-5


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_vary(kind):
    codec = tiny(kind)
    codes = codec.encode(sound(codec.spec.channels, 3 * codec.spec.sample_rate, rate=codec.spec.sample_rate))
    assert len(codes.indices.unique()) > 100
    assert max(codec.spec.codebook_sizes) <= 2**14 and codec.spec.total


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_length_in_any_batch(kind):
    codec = tiny(kind)
    for samples in (1, 2, 7, 479, 1001):
        x = sound(codec.spec.channels, samples, batch=3)
        codes, y = codec.encode(x), codec.decode(codec.encode(x))
        assert y.shape == x.shape and torch.isfinite(y).all()
        for i in range(3):
            alone = codec.encode(x[i : i + 1])
            assert torch.equal(alone.indices[0], codes.indices[i]) and torch.equal(codec.decode(alone)[0], y[i])
        assert torch.equal(codec.decompress(codec.compress(x)), y)
    data = codec.compress(sound(codec.spec.channels, 479)) + codec.compress(sound(codec.spec.channels, 1001))
    together = codec.decompress(data)
    assert torch.equal(together[:1, :, :479], codec.decompress(data[:1])) and not together[0, :, 479:].any()
    assert torch.equal(together[1:], codec.decompress(data[1:]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_training_mode_and_autocast_change_nothing(kind):
    codec = tiny(kind)
    x = sound(codec.spec.channels, 1001)
    codes, y = codec.encode(x), codec.decode(codec.encode(x))
    codec.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, z = codec.encode(x), codec.decode(codes)
    codec.eval()
    assert torch.equal(codes.indices, again.indices) and torch.equal(y, z)


@pytest.mark.parametrize("kind", CONFIGS)
def test_fewer_quantizers_are_a_prefix(kind):
    codec = tiny(kind)
    if not codec.spec.ordered:
        assert codec.settings.values == (None,)
        return
    x = sound(codec.spec.channels, 1001, batch=2)
    full = codec.encode(x)
    used = [codec.encode(x, s).indices.shape[1] for s in codec.settings.values]
    assert used == sorted(used) and used[-1] == len(codec.spec.codebook_sizes) and used[0] < used[-1]
    for setting, count in zip(codec.settings.values, used, strict=True):
        few = codec.encode(x, setting)
        assert torch.equal(few.indices, full.indices[:, :count])
        mixed = full.indices.clone()
        mixed[0, count:] = -1
        y = codec.decode(Codes(mixed, full.sizes, side=full.side))
        assert torch.equal(y[0], codec.decode(few)[0]) and torch.equal(y[1], codec.decode(full)[1])
    with pytest.raises(ValueError, match="one of") as error:
        codec.encode(x, 7.5)
    assert one_line(error)


def test_our_checkpoint_works_without_the_foreign_file(tmp_path):
    folder = foreign_folder(tiny("mimi"), tmp_path / "theirs")
    codec = codecs.build("audio/hf", checkpoint=folder)
    codecs.save(codec, tmp_path / "ours")
    (folder / "model.safetensors").unlink()
    again = codecs.load(tmp_path / "ours")
    x = sound(1, 1001)
    assert again.fingerprint == codec.fingerprint and again.config == codec.config
    assert torch.equal(again.encode(x).indices, codec.encode(x).indices)
    assert torch.equal(codecs.decompress(codec.compress(x)), codec.decode(codec.encode(x)))


@pytest.mark.parametrize("kind", ["mimi", "encodec"])
def test_weights_in_parts_and_in_a_torch_file(kind, tmp_path):
    codec = tiny(kind)
    wanted = codec.encode(sound(1, 1001)).indices
    foreign_folder(codec, tmp_path / "parts", max_shard_size="10KB")
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 1
    folder = foreign_folder(codec, tmp_path / "torch")
    state = foreign.read(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for folder in (tmp_path / "parts", tmp_path / "torch"):
        assert torch.equal(codecs.load(folder).encode(sound(1, 1001)).indices, wanted)


def test_older_names_of_weight_norm(tmp_path):
    folder = foreign_folder(tiny("encodec"), tmp_path)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    spelt = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {next((k.replace(a, b) for a, b in spelt.items() if a in k), k): v for k, v in state.items()}
    assert any(k.endswith("weight_g") for k in renamed)
    save_file(renamed, folder / "model.safetensors")
    wanted = tiny("encodec").encode(sound(1, 1001)).indices
    assert torch.equal(codecs.load(folder).encode(sound(1, 1001)).indices, wanted)


# -- chunks and frames ----------------------------------------------------------------------------


def test_every_length_near_the_end_of_a_chunk():
    """The library itself fails if the last chunk but one is incomplete too: 770 = 2 · 384 + 2 samples."""
    codec = tiny("encodec-chunks")
    assert codec.spec.window == (400, 384)
    for samples in (383, 384, 385, 392, 399, 400, 401, 767, 768, 769, 770, 784, 785, 1153):
        x = sound(2, samples)
        codes = codec.encode(x)
        assert codes.side["scale"].shape == (1, -(-samples // 384)) == (1, *codec.side_shapes((samples,))["scale"])
        assert codec.decode(codes).shape == x.shape
    with pytest.raises(RuntimeError):
        codec.model.encode(sound(2, 770), bandwidth=40.0)


def test_loudness_is_kept_and_bounded():
    codec = tiny("encodec-chunks")
    x = sound(2, 1001)
    loud, soft = codec.encode(x), codec.encode(x / 16)
    assert torch.equal(loud.indices, soft.indices)
    torch.testing.assert_close(codec.decode(soft) * 16, codec.decode(loud), rtol=1e-3, atol=1e-4)
    for scale in (3e38, -1.0, float("nan")):
        bad = Codes(loud.indices, loud.sizes, side={"scale": torch.full_like(loud.side["scale"], scale)})
        with pytest.raises(ValueError) as error:
            codec.decode(bad)
        assert one_line(error)
    bad = Codes(loud.indices, loud.sizes, side={"scale": torch.full_like(loud.side["scale"], 3e38)})
    with pytest.raises(codecs.BitstreamError):
        codec.decompress(bitstream.write(codec, bad))


def test_mimi_completes_the_last_frame_as_asked():
    """Kyutai's own Mimi adds zeros before the first layer. Only the last frame can differ."""
    layers = tiny("mimi")
    frames = codecs.build("audio/hf", model=CONFIGS["mimi"], whole_frames=True)
    frames.load_state_dict(layers.state_dict())
    x = sound(1, 1001)
    a, b = layers.encode(x).indices, frames.encode(x).indices
    assert torch.equal(a[..., :-1], b[..., :-1]) and not torch.equal(a, b)
    assert torch.equal(b, reference(layers.model, F.pad(x, (0, 7)), 4)[0])
    assert torch.equal(layers.encode(x[..., :992]).indices, frames.encode(x[..., :992]).indices)
    with pytest.raises(ValueError, match="whole_frames"):
        codecs.build("audio/hf", model=CONFIGS["dac"], whole_frames=False)


def test_mimi_follows_its_weights():
    """The library caches the codebooks of the first call; later weights must replace them."""
    codec = codecs.build("audio/hf", model=CONFIGS["mimi"])
    x = sound(1, 1001)
    before = codec.encode(x).indices
    codec.load_state_dict(tiny("mimi").state_dict())
    after = codec.encode(x).indices
    assert torch.equal(after, tiny("mimi").encode(x).indices) and not torch.equal(before, after)


def test_levels_split_into_small_codebooks():
    assert level_products([4] * 8) == (256, 256) and level_products([8, 5, 5, 5]) == (1000,)
    for levels in ([4] * 9, [8] * 6, [16384, 2]):
        sizes = level_products(levels)
        assert max(sizes) <= 2**14 and torch.tensor(sizes).prod() == torch.tensor(levels).prod()


# -- the official layouts -------------------------------------------------------------------------


def descript(codec, encoders: int, decoders: int) -> dict[str, torch.Tensor]:
    """Return a state dict as descript-audio-codec has it: lists of layers, and weight norm."""
    unit = {"snake1": "0", "conv1": "1", "snake2": "2", "conv2": "3"}
    out = {}
    for name, value in codec.model.state_dict().items():
        side, _, rest = name.partition(".")
        part, _, leaf = rest.partition(".")
        if side == "quantizer":
            new = name
        elif part == "block":
            stage, inner, *leaf = leaf.split(".")
            stage = int(stage) + 1
            if inner.startswith("res_unit"):
                place = int(inner[-1]) - (1 if side == "encoder" else -1)
                new = f"block.{place}.block.{unit[leaf[0]]}.{leaf[1]}"
            else:
                place = {"encoder": {"snake1": 3, "conv1": 4}, "decoder": {"snake1": 0, "conv_t1": 1}}[side][inner]
                new = f"block.{place}.{leaf[0]}"
            new = f"{side}.{'block' if side == 'encoder' else 'model'}.{stage}.{new}"
        else:
            last = {"encoder": encoders, "decoder": decoders}[side]
            place = {"conv1": 0, "snake1": last + 1, "conv2": last + 2}[part]
            new = f"{side}.{'block' if side == 'encoder' else 'model'}.{place}.{leaf}"
        if new.endswith(".weight") and "codebook" not in new:
            stem = new.removesuffix("weight")
            out[f"{stem}weight_g"] = value.norm(dim=tuple(range(1, value.ndim)), keepdim=True)
            out[f"{stem}weight_v"] = 2 * value
        else:
            out[new] = value
    return out


def test_descript_checkpoint(tmp_path):
    codec = tiny("dac")
    kwargs = {
        "encoder_dim": 4, "encoder_rates": [2, 5], "decoder_dim": 16, "decoder_rates": [5, 2], "n_codebooks": 3,
        "codebook_size": 1024, "codebook_dim": 4, "sample_rate": 8000, "latent_dim": None, "quantizer_dropout": False,
    }  # fmt: skip
    state = descript(codec, 2, 2)
    assert {"encoder.block.2.block.1.block.3.weight_g", "decoder.model.4.weight_v", "decoder.model.3.alpha"} <= set(
        state
    )
    torch.save({"state_dict": state, "metadata": {"kwargs": kwargs}}, tmp_path / "weights_8khz.pth")
    own = codecs.build("audio/hf", checkpoint=tmp_path / "weights_8khz.pth")
    assert set(own.state_dict()) == set(codec.state_dict()) and own.spec == codec.spec
    for samples in (1, 100, 1001):
        x = sound(1, samples)
        for count in (1, 2, 3):
            codes = own.encode(x, count)
            assert torch.equal(codes.indices, codec.encode(x, count).indices)
            torch.testing.assert_close(own.decode(codes), codec.decode(codes), rtol=0, atol=1e-5)


def kyutai(model) -> dict[str, torch.Tensor]:
    """Return a state dict as moshi has it: one matrix for queries, keys and values; rotary pairs are neighbors."""
    pairs = {
        "encoder.encoder_seanet.layers": "encoder.model", "decoder.decoder_seanet.layers": "decoder.model",
        "encoder.encoder_transformer": "encoder_transformer.transformer",
        "decoder.decoder_transformer": "decoder_transformer.transformer",
        "encoder.downsample.conv.": "downsample.conv.conv.conv.",
        "decoder.upsample.conv.": "upsample.convtr.convtr.convtr.",
        "semantic_residual_vector_quantizer.layers": "rvq_first.vq.layers",
        "semantic_residual_vector_quantizer": "rvq_first",
        "acoustic_residual_vector_quantizer.layers": "rvq_rest.vq.layers",
        "acoustic_residual_vector_quantizer": "rvq_rest",
        "codebook.initialized": "_codebook._initialized", "codebook.cluster_usage": "_codebook.cluster_usage",
        "codebook.embed_sum": "_codebook.embedding_sum", "mlp.fc": "linear", "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2", "self_attn_layer_scale": "layer_scale_1",
        "mlp_layer_scale": "layer_scale_2",
        "self_attn.o_proj": "self_attn.out_projs.0",
    }  # fmt: skip
    out = {}
    for name, value in model.state_dict().items():
        for theirs, new in pairs.items():
            name = name.replace(theirs, new)
        stage = name.split(".")[2:3]
        if name.startswith(("encoder.model", "decoder.model")):
            up = name.startswith("decoder") and ".block." not in name and stage[0] in ("2", "5")
            name = name.replace(".conv.", ".convtr.convtr." if up else ".conv.conv.")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = value.shape[0] // 64
            value = value.reshape(heads, 2, 32, -1).transpose(1, 2).reshape(value.shape)
        out[name] = value
    for stem in [name.removesuffix("q_proj.weight") for name in out if name.endswith("q_proj.weight")]:
        out[f"{stem}in_projs.0.weight"] = torch.cat([out.pop(f"{stem}{part}_proj.weight") for part in "qkv"])
    return out


def test_kyutai_checkpoint(tmp_path):
    from safetensors.torch import save_file

    wide = {
        **CONFIGS["mimi"], "hidden_size": 128, "upsample_groups": 128, "sampling_rate": 24000, "sliding_window": 250,
        "num_hidden_layers": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    codec = codecs.build("audio/hf", model=wide, whole_frames=True)
    for name, value in codec.model.named_parameters():
        value.data.mul_(20 if "layer_scale" in name else 1)
    state = kyutai(codec.model)
    path = tmp_path / "tokenizer-e351c8d8-checkpoint125.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert {
        "decoder.model.2.convtr.convtr.weight", "encoder_transformer.transformer.layers.0.self_attn.in_projs.0.weight",
        "quantizer.rvq_rest.vq.layers.2._codebook.embedding_sum", "downsample.conv.conv.conv.weight",
    } <= set(state)  # fmt: skip
    for source in (path, tmp_path):
        own = codecs.build("audio/hf", checkpoint=source)
        assert own.spec == codec.spec
        for samples in (1, 1001, 8000):  # 8000 samples are 1000 frames, four times what attention reaches
            codes = own.encode(sound(1, samples))
            assert torch.equal(codes.indices, codec.encode(sound(1, samples)).indices)
            assert torch.equal(own.decode(codes), codec.decode(codes))
    assert len(codes.indices.unique()) > 20


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        None, [], {}, {"model_type": "bert"}, {"model_type": ["mimi"]}, {"model_type": "mimi", "auto_map": {}},
        {"model_type": "mimi", "_attn_implementation": "someone/kernel"},
        {"model_type": "mimi", "hidden_act": "os.system"}, {"model_type": "mimi", "num_hidden_layers": 10**6},
        {"model_type": "mimi", "hidden_size": 10**9}, {"model_type": "mimi", "num_quantizers": 1},
        {"model_type": "mimi", "hidden_size": 2**20, "intermediate_size": 2**20},
        {"model_type": "mimi", "frame_rate": 25.0}, {"model_type": "mimi", "sampling_rate": 0},
        {"model_type": "encodec", "target_bandwidths": [1e5]}, {"model_type": "encodec", "target_bandwidths": [-1, 6]},
        {"model_type": "encodec", "target_bandwidths": [float("nan")]},
        {"model_type": "encodec", "codebook_size": 1000}, {"model_type": "encodec", "codebook_size": 2**15},
        {"model_type": "encodec", "upsampling_ratios": [0]}, {"model_type": "encodec", "upsampling_ratios": [2] * 99},
        {"model_type": "encodec", "chunk_length_s": 1.0},
        {"model_type": "encodec", "chunk_length_s": 1.0, "overlap": 0.9},
        {"model_type": "encodec", "audio_channels": 3}, {"model_type": "encodec", "norm_type": "x\ny"},
        {"model_type": "dac", "upsampling_ratios": [2, 2]}, {"model_type": "dac", "codebook_dim": [8, 8]},
        {"model_type": "xcodec", "semantic_model_config": {"model_type": "llama"}},
        {"model_type": "xcodec", "acoustic_model_config": "dac"},
        {"model_type": "xcodec2", "quantization_levels": [2] * 30},
    ],
)  # fmt: skip
def test_invalid_configs(model):
    with pytest.raises(ValueError) as error:
        codecs.build("audio/hf", model=model)
    assert one_line(error)


def altered(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_invalid_files(tmp_path):
    from safetensors.torch import load_file, save_file

    def folder(name: str):
        return foreign_folder(tiny("mimi"), tmp_path / name)

    for changes in (
        {"model_type": "bert"}, {"model_type": None}, {"num_filters": 8}, {"num_hidden_layers": 2},
        {"num_quantizers": 3}, {"hidden_size": 4096, "intermediate_size": 4096},
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            codecs.build("audio/hf", checkpoint=altered(folder("changed"), **changes))
        assert one_line(error)
    lacking = folder("lacking")
    state = load_file(lacking / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("decoder")}, lacking / "model.safetensors")
    with pytest.raises(ValueError, match="decoder") as error:
        codecs.build("audio/hf", checkpoint=altered(lacking, decoder_config=None))
    assert one_line(error)
    save_file({**state, "stray": torch.zeros(3)}, lacking / "model.safetensors")
    with pytest.raises(ValueError, match="stray") as error:
        codecs.build("audio/hf", checkpoint=lacking)
    assert one_line(error)
    (lacking / "model.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(ValueError, match="checkpoint") as error:
        codecs.build("audio/hf", checkpoint=lacking)
    assert one_line(error)
    (lacking / "model.safetensors").unlink()
    for missing in (lacking, tmp_path / "nowhere", tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError) as error:
            codecs.build("audio/hf", checkpoint=missing)
        assert one_line(error) and str(missing) in str(error.value)
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"config\.json") as error:
        codecs.build("audio/hf", checkpoint=tmp_path / "other.safetensors")
    assert one_line(error)
    broken = folder("broken")
    (broken / "config.json").write_text("{" * 9)
    with pytest.raises(ValueError, match="JSON") as error:
        codecs.build("audio/hf", checkpoint=broken)
    assert one_line(error)


def test_a_config_cannot_name_code(tmp_path):
    """Keys of a config that do not describe the architecture are ignored: no remote code, no kernels from the hub."""
    evil = {
        "auto_map": {"AutoModel": "evil--MimiModel"}, "_attn_implementation": "someone/kernel", "return_dict": False,
        "attn_implementation": "someone/kernel", "quantization_config": {"quant_method": "gptq"}, "dtype": "bfloat16",
    }  # fmt: skip
    folder = altered(foreign_folder(tiny("mimi"), tmp_path), **evil)
    (folder / "evil.py").write_text("raise SystemExit")
    codec = codecs.load(folder)
    assert not set(evil) & set(codec.config["model"])
    assert next(codec.parameters()).dtype == torch.float32
    assert torch.equal(codec.encode(sound(1, 100)).indices, tiny("mimi").encode(sound(1, 100)).indices)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'tokenloom\[hf\]'") as error:
        codecs.build("audio/hf", model=CONFIGS["mimi"])
    assert one_line(error)


def test_model_types():
    assert set(hf.AudioHF.model_types) >= {"encodec", "dac", "mimi", "xcodec", "higgs_audio_v2_tokenizer", "xcodec2"}
    with pytest.raises(ValueError, match="checkpoint=") as error:
        codecs.load("audio/hf")
    assert one_line(error)
