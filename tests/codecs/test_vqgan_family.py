"""image/taming and image/llamagen: published checkpoints against transformers' classes of the same networks."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
import yaml
from support.codecs import one_line
from support.taming import chameleon_and_decoder, config_of, janus, photograph, taming_checkpoint, taming_state

from tokenloom import codecs
from tokenloom.codecs import Codes, Target, rate
from tokenloom.codecs.image import llamagen, taming, vqgan_network
from tokenloom.codecs.image.vqgan_network import PixelAttention
from tokenloom.codecs.quantizers import product
from tokenloom.train.config import CropConfig, OptimizerConfig, TrainConfig
from tokenloom.train.loop import train

OURS = {"channels": 32, "multipliers": [1, 1, 2], "blocks": 1, "latents": 16}
TINY = {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1, "attention": [2], "latents": 8, "groups": 4, "dim": 8}
LARGE = 20000
"""Codebook size above 2^14 that is not a power of two."""


@torch.no_grad()
def janus_codes(model, x):
    """Return the codes of the original model. transformers' `encode` lacks the normalization of its `decode`."""
    raw = model.quantize.embedding.weight.data
    model.quantize.embedding.weight.data = F.normalize(raw, dim=1)
    codes = model.encode(x * 2 - 1).image_tokens
    model.quantize.embedding.weight.data = raw
    return codes.reshape(len(x), *(n // 4 for n in x.shape[2:]))


@torch.no_grad()
def decoded(encoder, decoder, rows: torch.Tensor) -> torch.Tensor:
    """Decode vectors (*positions, dim) by taming's `decode`, to [0, 1]."""
    return ((decoder(encoder.post_quant_conv(rows.movedim(-1, 1))) + 1) / 2).clamp(0, 1)


def same_codes(codec, codes: Codes, wanted: torch.Tensor) -> None:
    assert len(wanted.unique()) > 100
    assert torch.equal(codec.official_index(codes), wanted)
    assert torch.equal(codec.from_official(wanted), codes.indices)


# -- codes and signals ----------------------------------------------------------------------------


@pytest.mark.parametrize("attends", [(2,), (), (1, 2)])
def test_taming_equals_the_reference(attends, tmp_path):
    encoder, decoder = chameleon_and_decoder(attends)
    codec = codecs.build(
        "image/taming", checkpoint=taming_checkpoint(tmp_path / "last.ckpt", taming_state(encoder, decoder))
    )
    assert codec.config == {"codebook_size": 512, "dim": 8, "gumbel": False, "attention": list(attends), **OURS}
    x = photograph()
    wanted = encoder.encode(x * 2 - 1).image_tokens.reshape(1, 24, 21)
    codes = codec.encode(x)
    same_codes(codec, codes, wanted)
    reference = decoded(encoder, decoder, encoder.quantize.embedding.weight[wanted])
    torch.testing.assert_close(codec.decode(codes), reference, rtol=0, atol=1e-4)
    assert reference.std() > 0.05


@pytest.mark.parametrize("key", ["ema", "model", "state_dict"])
def test_llamagen_equals_the_reference(key, tmp_path):
    model = janus()
    state = {"quantize.codebook_used": torch.zeros(65536)}
    for name, value in model.state_dict().items():
        name = re.sub(r"\.(down|up)\.(\d)\.", r".conv_blocks.\2.", name.replace(".block.", ".res."))
        for i, part in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f".mid.{part}.", f".mid.{i}.")
        state[name] = value
    beside = {"model": {name: value + 1 for name, value in state.items()}} if key == "ema" else {}
    torch.save({**beside, key: state, "optimizer": {}, "steps": 5}, tmp_path / "vq.pt")
    codec = codecs.build("image/llamagen", checkpoint=str(tmp_path / "vq.pt"))
    assert codec.config == {"codebook_size": 512, "dim": 8, "attention": [2], **OURS}
    x = photograph(96, 96)
    codes, wanted = codec.encode(x), janus_codes(model, x)
    same_codes(codec, codes, wanted)
    with torch.no_grad():
        reference = ((model.decode(wanted.flatten(1)) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(codec.decode(codes), reference, rtol=0, atol=1e-4)
    assert codec.embed(codes).norm(dim=1).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("prefix", [None, "", "model.vqmodel.", "gen_vision_model."])
def test_janus_weights_alone_and_within_the_model(prefix, tmp_path):
    from safetensors.torch import save_file

    model = janus()
    if prefix is None:
        model.save_pretrained(tmp_path)
    else:
        state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
        beside = {"model.language_model.norm.weight": torch.ones(4)} if prefix else {}
        save_file(state | beside, tmp_path / "model.safetensors")
    codec = codecs.build("image/llamagen", checkpoint=str(tmp_path))
    x = photograph(96, 96)
    same_codes(codec, codec.encode(x), janus_codes(model, x))


def test_gumbel_takes_the_likeliest_entry(tmp_path):
    encoder, decoder = chameleon_and_decoder(dim=16)
    state = taming_state(encoder, decoder)
    entries = state.pop("quantize.embedding.weight")
    weight = (entries + 0.2 * entries.std() * torch.randn_like(entries))[..., None, None] * 2
    bias = -entries.square().sum(1)
    state |= {"quantize.proj.weight": weight, "quantize.proj.bias": bias, "quantize.embed.weight": entries}
    codec = codecs.build("image/taming", checkpoint=taming_checkpoint(tmp_path / "last.ckpt", state))
    assert codec.config["gumbel"]
    x = photograph()
    with torch.no_grad():
        wanted = F.conv2d(encoder.quant_conv(encoder.encoder(x * 2 - 1)), weight, bias).argmax(1)
    codes = codec.encode(x)
    same_codes(codec, codes, wanted)
    torch.testing.assert_close(codec.decode(codes), decoded(encoder, decoder, entries[wanted]), rtol=0, atol=1e-4)
    codec.train()
    latents = codec.analyze(x[..., :32, :32])
    straight = codec.quantizer.quantize(latents)
    (straight.latents.sum() + straight.loss).backward()
    assert straight.loss > 0 and all(p.grad.abs().sum() > 0 for p in codec.quantizer.parameters())
    codec.eval()
    torch.testing.assert_close(
        codec.quantizer.quantize(latents).latents, codec.quantizer.lookup(codec.quantizer.search(latents))
    )


def test_a_large_codebook_is_told_by_two_quantizers(tmp_path):
    encoder, decoder = chameleon_and_decoder(entries=LARGE)
    codec = codecs.build(
        "image/taming", checkpoint=taming_checkpoint(tmp_path / "last.ckpt", taming_state(encoder, decoder))
    )
    assert codec.spec.codebook_sizes == (125, 160) and codec.spec.total and not codec.spec.ordered
    x = photograph()
    wanted = encoder.encode(x * 2 - 1).image_tokens.reshape(1, 24, 21)
    codes = codec.encode(x)
    same_codes(codec, codes, wanted)
    assert wanted.max() > 2**14 and torch.equal(codes.indices[:, 0] + 125 * codes.indices[:, 1], wanted)
    reference = decoded(encoder, decoder, encoder.quantize.embedding.weight[wanted])
    torch.testing.assert_close(codec.decode(codes), reference, rtol=0, atol=1e-4)
    assert torch.equal(codec.decompress(codec.compress(x)), codec.decode(codes))
    corner = Codes(torch.tensor([124, 159]).reshape(1, 2, 1, 1), torch.tensor([[4, 4]]))
    assert torch.equal(codec.embed(corner).flatten(), encoder.quantize.embedding.weight[-1])


def test_splits():
    assert product.factors(2**14) == (2**14,) and product.factors(2**18) == (512, 512)
    assert product.factors(2**15) == (128, 256)
    with pytest.raises(ValueError, match="16411 entries") as error:  # a prime
        product.factors(16411)
    assert one_line(error)


def test_attention_in_parts_is_attention(monkeypatch):
    layer, x = PixelAttention(8, 4).eval(), torch.randn(2, 8, 5, 7)
    with torch.no_grad():
        whole = layer(x)
        q, k, v = (conv(layer.norm(x)).flatten(2) for conv in (layer.q, layer.k, layer.v))
        weights = (torch.einsum("bcq,bck->bqk", q, k) * 8**-0.5).softmax(2)
        slow = x + layer.project(torch.einsum("bqk,bck->bcq", weights, v).reshape(x.shape))
        monkeypatch.setattr(vqgan_network, "MAX_SCORES", 3 * 35)
        parts = layer(x)
    torch.testing.assert_close(whole, slow)
    torch.testing.assert_close(parts, slow)


# -- what an imported codec is ----------------------------------------------------------------------


def test_it_is_saved_without_the_file_it_came_from(tmp_path):
    path = taming_checkpoint(tmp_path / "last.ckpt", taming_state(*chameleon_and_decoder()))
    codec = codecs.build("image/taming", checkpoint=path)
    x = photograph(41, 30)
    data, y = codec.compress(x), codec.decode(codec.encode(x))
    (tmp_path / "last.ckpt").unlink()
    codecs.save(codec, tmp_path / "ours")
    again = codecs.load(tmp_path / "ours")
    assert again.fingerprint == codec.fingerprint and torch.equal(codecs.decompress(data), y)
    assert y.shape == x.shape and rate.nominal(codec.spec, codec.encode(x)).item() == 9 * 11 * 8


def test_small_pictures_are_not_changed_by_larger_ones_of_their_batch():
    torch.manual_seed(0)
    codec = codecs.build("image/taming", codebook_size=64, **TINY)
    small, large = photograph(9, 14), photograph(40, 33)
    both = codec.decompress(codec.compress(small) + codec.compress(large))
    torch.testing.assert_close(both[:1, :, :9, :14], codec.decode(codec.encode(small)), rtol=0, atol=1e-6)
    torch.testing.assert_close(both[1:], codec.decode(codec.encode(large)), rtol=0, atol=1e-6)


def test_one_value_in_a_group():
    """An image of one pixel with as many groups as channels works. PyTorch's own group norm refuses it."""
    codec = codecs.build("image/llamagen", codebook_size=32, **(TINY | {"groups": 8, "multipliers": [1, 1, 1]}))
    assert codec.decode(codec.encode(photograph(1, 1))).shape == (1, 3, 1, 1)


def test_averages_are_taken_where_they_are_asked_for(tmp_path):
    state = taming_state(*chameleon_and_decoder())
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in state.items()}
    plain = {name: torch.zeros_like(value) for name, value in state.items()}
    counts = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    path = taming_checkpoint(tmp_path / "last.ckpt", plain | averages | counts)
    codec = codecs.build("image/taming", checkpoint=path, ema=True)
    assert torch.equal(codec.quantizer.codebook[0], state["quantize.embedding.weight"])
    assert not codecs.build("image/taming", checkpoint=path).quantizer.codebook.any()
    path = taming_checkpoint(tmp_path / "last.ckpt", state)
    with pytest.raises(ValueError, match="must hold averaged weights") as error:
        codecs.build("image/taming", checkpoint=path, ema=True)
    assert one_line(error)


def test_targets_and_training_go_on_from_a_checkpoint(tmp_path):
    """In three training steps the imported codebook is updated, not initialized again."""
    path = taming_checkpoint(tmp_path / "last.ckpt", taming_state(*chameleon_and_decoder()))
    before = codecs.build("image/taming", checkpoint=path)
    with pytest.raises(ValueError):
        before.encode(photograph(), Target(psnr=20.0))
    run = TrainConfig(
        codec={"name": "image/taming", "checkpoint": path}, data={"name": "scenes", "count": 8, "size": 40},
        losses={"l1": 1.0, "quantizer": 1.0}, optimizer=OptimizerConfig(lr=1e-5, warmup=1),
        crop=CropConfig(size=32, scale=0.8), steps=3, batch_size=2, log_every=1, device="cpu", ema=0.0,
        precision="32-true", out=str(tmp_path / "run"),
    )  # fmt: skip
    train(run)
    after = codecs.load(tmp_path / "run")
    moved = (after.quantizer.codebook - before.quantizer.codebook).abs()
    assert 0 < moved.max() < 1e-3 and after.config == before.config


# -- what is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last_ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("taming") / "last.ckpt"
    return taming_checkpoint(path, taming_state(*chameleon_and_decoder()))


def test_a_config_is_checked_and_nothing_in_it_is_imported(last_ckpt, tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    codec = codecs.build("image/taming", checkpoint=last_ckpt, config=str(path))
    assert codec.config["multipliers"] == [1, 1, 2]
    for changes, wanted in (
        ({"n_embed": 1024}, "codebook_size 1024 .* 512 by the weights"), ({"ch": 10**12}, "channels 1000000000000"),
        ({"ch_mult": [1] * 10**3}, "multipliers"), ({"attn_resolutions": []}, r"attention \[\]"),
        ({"resolution": -1}, "resolution -1"), ({"ch_mult": "x"}, "ch_mult 'x'"), ({"double_z": True}, "double_z"),
        ({"in_channels": 1}, "in_channels must be 3, got 1"), ({"resolution": "256"}, "resolution '256'"),
    ):  # fmt: skip
        path.write_text(yaml.safe_dump(config_of(**changes)))
        with pytest.raises(ValueError, match=wanted) as error:
            codecs.build("image/taming", checkpoint=last_ckpt, config=str(path))
        assert one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nmodel: {params: [*b, *b]}\n",  # what a bomb is made of
        "model: {params: {embed_dim: 8}}", "[1, 2]", "", "model: !!python/object/apply:os.abort []", "a: [" * 5000,
        "model: {params: {embed_dim: 8, n_embed: 512, ddconfig: {ch: 32}}}", "\x00",
    ],
)  # fmt: skip
def test_configs_that_are_none(text, last_ckpt, tmp_path):
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"model\.yaml") as error:
        codecs.build("image/taming", checkpoint=last_ckpt, config=str(tmp_path / "model.yaml"))
    assert one_line(error)


def test_a_config_that_is_not_there(last_ckpt):
    with pytest.raises(FileNotFoundError, match=r"no config at .*nowhere\.yaml"):
        codecs.build("image/taming", checkpoint=last_ckpt, config="nowhere.yaml")


def without(*names: str):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("image/taming", without("quantize."), "lacks quantize.embedding.weight"),
        ("image/taming", without("encoder.conv_out"), "lacks encoder.conv_out.weight"),
        ("image/taming", without("encoder.down.1.block.0.norm1"), r"lacks encoder\.stages\.1\.blocks\.0\.norm1"),
        ("image/taming", without("post_quant_conv."), "must hold one VQGAN"),
        ("image/taming", without("decoder.mid.attn_1."), "no attention in the middle"),
        ("image/taming", lambda s: s | {"quantize.used": torch.arange(9)}, "quantize.used"),
        ("image/taming", lambda s: s | {"other.post_quant_conv.weight": torch.ones(1)}, "several, under , other."),
        ("image/taming", lambda s: s | {"encoder.down.9.block.0.conv1.weight": torch.ones(1)}, "lacks"),
        ("image/taming", lambda s: s | {"encoder.conv_in.weight": torch.ones(3)}, "must hold an encoder of images"),
        ("image/taming", lambda s: s | {"quantize.embedding.weight": torch.ones(3)}, "or its rows"),
        ("image/taming", lambda s: s | {"encoder.extra": torch.ones(3)}, "stray encoder.extra"),
        ("image/llamagen", lambda s: s, "build it as image/taming"),
    ],
)  # fmt: skip
def test_checkpoints_that_are_others(name, change, wanted, last_ckpt, tmp_path):
    state = torch.load(last_ckpt, weights_only=True)["state_dict"]
    path = taming_checkpoint(tmp_path / "other.ckpt", change(state))
    with pytest.raises(ValueError, match=wanted) as error:
        codecs.build(name, checkpoint=path)
    assert one_line(error)


def test_janus_is_not_taken_for_taming(tmp_path):
    janus().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="build it as image/llamagen"):
        codecs.build("image/taming", checkpoint=str(tmp_path))


def test_no_checkpoint(tmp_path):
    for name in ("image/taming", "image/llamagen"):
        with pytest.raises(FileNotFoundError, match="nowhere") as error:
            codecs.build(name, checkpoint=str(tmp_path / "nowhere.ckpt"))
        assert one_line(error)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image/taming", {"channels": 30}), ("image/taming", {"channels": 2**40}), ("image/taming", {"groups": 0}),
        ("image/taming", {"multipliers": []}), ("image/taming", {"multipliers": [1] * 9}),
        ("image/taming", {"multipliers": [512] * 8, "channels": 8, "blocks": 16}), ("image/taming", {"blocks": 0}),
        ("image/taming", {"attention": [3]}), ("image/taming", {"attention": "all"}), ("image/taming", {"latents": 0}),
        ("image/taming", {"codebook_size": 2**24, "dim": 2**10}), ("image/taming", {"gumbel": 1}),
        ("image/taming", {"codebook_size": 16411}), ("image/taming", {"codebook_size": 2**30, "gumbel": True}),
        ("image/llamagen", {"codebook_size": True}), ("image/llamagen", {"dim": 1.5}),
        ("image/llamagen", {"dead_below": -1}), ("image/llamagen", {"gumbel": False}),
    ],
)  # fmt: skip
def test_absurd_sizes(name, change):
    with pytest.raises(ValueError) as error:
        codecs.build(name, **(TINY | {"codebook_size": 64} | change))
    assert one_line(error)


def test_defaults_are_the_published_networks():
    from transformers import JanusVQVAE, JanusVQVAEConfig

    with torch.device("meta"):
        official = JanusVQVAE(JanusVQVAEConfig()).state_dict()
        ours = llamagen.LlamaGen().state_dict(), taming.Taming(dim=8).state_dict()
    wanted = sorted(tuple(value.shape) for name, value in official.items() if not name.startswith("quantize."))
    for state in ours:
        network = {name: value for name, value in state.items() if name.startswith(("encoder.", "decoder."))}
        assert sorted(tuple(value.shape) for value in network.values()) == wanted


def test_a_whole_photograph_rounds_no_more_than_it_has_to():
    """The root-mean-square error against float64 stays below what float32 sums of this length lose.

    A sum of n products of random sign, added one after the other, has partial sums of variance k, k = 1 … n. Each
    addition rounds its partial sum to the unit u = 2^-24, an error of standard deviation at most u/√3 times the sum.
    So the variance of the error is Σ k · u²/3 = n² · u²/6, and relative to the result, of variance n, it is n · u²/6.
    Errors of different convolutions are independent and the norms keep them from growing: the variances add up.
    Norms, activations and residual sums round a few more times each, hence the factor 2. Other orders of addition
    lose less. The memory order channels_last computes faster, but its group norm loses 4 to 10 times as much.
    """
    torch.manual_seed(0)
    codec = codecs.build(
        "image/taming", codebook_size=64, dim=4, channels=32, multipliers=[1, 2, 4], latents=4, attention=[]
    )
    latents = torch.randn(1, 4, 80, 120)
    products = sum(m.weight[0].numel() for m in codec.decoder.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        exact = copy.deepcopy(codec.decoder).double()(latents.double())
        error = codec.synthesize(latents).double() * 2 - 1 - exact
    assert error.square().mean().sqrt() < 2 * 2**-24 * (products / 6) ** 0.5 * exact.std()
