"""image/magvit2: published checkpoints, arithmetic against a slow implementation, conversion of indices."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line, signals, structured

from tokenloom import codecs
from tokenloom.codecs import Codes
from tokenloom.codecs.image.magvit2 import MAGVIT2
from tokenloom.codecs.quantizers import LFQ

SIZES = {"channels": 32, "multipliers": [1, 2, 2], "blocks": 2, "bits": 18}


def shapes(channels: int, multipliers: list[int], blocks: int, bits: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the official generator's tensors."""
    out: dict[str, tuple[int, ...]] = {}

    def block(name: str, before: int, after: int) -> None:
        out.update({f"{name}.norm1.weight": (before,), f"{name}.norm1.bias": (before,)})
        out.update({f"{name}.norm2.weight": (after,), f"{name}.norm2.bias": (after,)})
        out.update({f"{name}.conv1.weight": (after, before, 3, 3), f"{name}.conv2.weight": (after, after, 3, 3)})
        if before != after:
            out[f"{name}.nin_shortcut.weight"] = (after, before, 1, 1)

    def with_bias(name: str, *shape: int) -> None:
        out.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    widths = [channels * m for m in multipliers]
    top = len(widths) - 1
    out["encoder.conv_in.weight"] = (channels, 3, 3, 3)
    for i, after in enumerate(widths):
        for j in range(blocks):
            before = after if j else ([channels, *widths][i])
            block(f"encoder.down.{i}.block.{j}", before, after)
        if i < top:
            with_bias(f"encoder.down.{i}.downsample", after, after, 3, 3)
    with_bias("decoder.conv_in", widths[-1], bits, 3, 3)
    for half in ("encoder", "decoder"):
        for j in range(blocks):
            block(f"{half}.mid_block.{j}", widths[-1], widths[-1])
    with_bias("encoder.norm_out", widths[-1])
    with_bias("encoder.conv_out", bits, widths[-1], 1, 1)
    before = widths[-1]
    for i in range(top, -1, -1):
        with_bias(f"decoder.adaptive.{i}.gamma", before, bits)
        with_bias(f"decoder.adaptive.{i}.beta", before, bits)
        for j in range(blocks):
            block(f"decoder.up.{i}.block.{j}", before, widths[i])
            before = widths[i]
        if i:
            with_bias(f"decoder.up.{i}.upsample.conv1", 4 * before, before, 3, 3)
    with_bias("decoder.norm_out", widths[0])
    with_bias("decoder.conv_out", 3, widths[0], 3, 3)
    return out


def weights(seed: int = 0, **sizes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(**(SIZES | sizes)).items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            state[name] = value * 0.2 + ("norm" in name and name.endswith("weight"))
        else:
            state[name] = value / np.sqrt(np.prod(shape[1:]))
    return state


def checkpoint(folder, state: dict[str, torch.Tensor], **more) -> str:
    path = folder / "some.ckpt"
    loss = {"loss.discriminator.main.0.weight": torch.ones(3), "loss.perceptual_loss.lin0.weight": torch.ones(2)}
    torch.save({"state_dict": state | loss, "epoch": 7, "global_step": 3, **more}, path)
    return str(path)


def averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {f"model_ema.{name.replace('.', '')}": value for name, value in state.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(5)}
    return names | counters | {"model_ema.lossdiscriminatormain0weight": torch.ones(3)}


# -- the slow twin: the official arithmetic step by step --------------------------------------------


def norm(x, state, name=None):
    groups = x.reshape(len(x), 32, -1).double()
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    x = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    if name is None:
        return x
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def active(x, state, name):
    x = norm(x, state, name)
    return x / (1 + (-x).exp())


def conv(x, state, name, **more):
    weight = state[f"{name}.weight"].double()
    bias = state.get(f"{name}.bias")
    more = {"padding": weight.shape[-1] // 2} | more
    return F.conv2d(x.double(), weight, None if bias is None else bias.double(), **more)


def residual(x, state, name):
    y = conv(active(x, state, f"{name}.norm1"), state, f"{name}.conv1")
    y = conv(active(y, state, f"{name}.norm2"), state, f"{name}.conv2")
    return y + (conv(x, state, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in state else x)


def slow_encode(x, state, stages=3, blocks=2):
    """Map (1, 3, h, w) in [-1, 1] to latents, float64."""
    x = conv(x, state, "encoder.conv_in")
    for i in range(stages):
        for j in range(blocks):
            x = residual(x, state, f"encoder.down.{i}.block.{j}")
        if i < stages - 1:
            x = conv(x, state, f"encoder.down.{i}.downsample", stride=2)
    for j in range(blocks):
        x = residual(x, state, f"encoder.mid_block.{j}")
    return conv(active(x, state, "encoder.norm_out"), state, "encoder.conv_out")


def slow_decode(words, state, stages=3, blocks=2):
    """Map ±1 (1, bits, h, w) to images around [-1, 1], float64."""
    words = words.double()
    flat = words[0].flatten(1)
    mean = flat.mean(1)
    spread = (((flat - mean[:, None]) ** 2).sum(1) / (flat.shape[1] - 1) + 1e-6).sqrt()
    x = conv(words, state, "decoder.conv_in")
    for j in range(blocks):
        x = residual(x, state, f"decoder.mid_block.{j}")
    for i in reversed(range(stages)):
        linear = {
            part: state[f"decoder.adaptive.{i}.{part}.weight"].double() @ given
            + state[f"decoder.adaptive.{i}.{part}.bias"]
            for part, given in (("gamma", spread), ("beta", mean))
        }
        x = norm(x, state) * linear["gamma"][:, None, None] + linear["beta"][:, None, None]
        for j in range(blocks):
            x = residual(x, state, f"decoder.up.{i}.block.{j}")
        if i:
            wide = conv(x, state, f"decoder.up.{i}.upsample.conv1")
            width = wide.shape[1] // 4
            x = wide.new_zeros(1, width, 2 * wide.shape[2], 2 * wide.shape[3])
            for down in range(2):
                for right in range(2):
                    first = (2 * down + right) * width
                    x[:, :, down::2, right::2] = wide[:, first : first + width]
    return conv(active(x, state, "decoder.norm_out"), state, "decoder.conv_out")


def photograph(height: int, width: int) -> torch.Tensor:
    from skimage import data

    picture = np.ascontiguousarray(data.astronaut()[40 : 40 + height, 150 : 150 + width])
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


# -- reading the official layout --------------------------------------------------------------------


def test_the_layout_has_as_many_tensors_as_the_published_one():
    assert len(shapes(128, [1, 1, 2, 2, 4], 4, 18)) == 339
    with torch.device("meta"):
        ours = MAGVIT2().state_dict()
    wanted = shapes(128, [1, 1, 2, 2, 4], 4, 18)
    assert {k: tuple(v.shape) for k, v in ours.items() if k != "counts"} == wanted


@pytest.mark.parametrize("bits", [14, 18])
def test_codes_and_pictures_are_the_official_ones(tmp_path, bits):
    state = weights(bits=bits)
    codec = codecs.build("image/magvit2", checkpoint=checkpoint(tmp_path, state))
    assert codec.config == SIZES | {"bits": bits, "codebooks": {14: 1, 18: 2}[bits]}
    assert codec.spec.codebook_sizes == {14: (2**14,), 18: (2**9,) * 2}[bits] and codec.spec.stride == (4, 4)
    x = photograph(96, 64)
    latents = slow_encode(x * 2 - 1, state)
    wanted = sum((latents[:, c] > 0).long() << c for c in range(bits))
    codes = codec.encode(x)
    index = codec.official_index(codes)
    away = (latents.abs() > 1e-4).all(1)
    assert away.float().mean() > 0.95 and len(wanted.unique()) > 100
    assert torch.equal(index[away], wanted[away])
    words = codec.embed(codes)
    assert set(words.unique().tolist()) == {-1.0, 1.0}
    reconstruction = (slow_decode(words, state) + 1) / 2
    assert reconstruction.std() > 0.1
    torch.testing.assert_close(codec.synthesize(words).double(), reconstruction, rtol=0, atol=1e-4)
    torch.testing.assert_close(codec.decode(codes).double(), reconstruction.clamp(0, 1), rtol=0, atol=1e-4)


def test_averaged_weights_come_first(tmp_path):
    plain, average = weights(0), weights(1)
    both = codecs.build("image/magvit2", checkpoint=checkpoint(tmp_path, plain | averaged(average)))
    alone = codecs.build("image/magvit2", checkpoint=checkpoint(tmp_path, average))
    raw = codecs.build("image/magvit2", checkpoint=checkpoint(tmp_path, plain))
    assert both.fingerprint == alone.fingerprint != raw.fingerprint
    lame = averaged(average)
    del lame["model_ema.decoderconv_outbias"]
    with pytest.raises(ValueError, match="decoderconv_outbias") as error:
        codecs.build("image/magvit2", checkpoint=checkpoint(tmp_path, plain | lame))
    assert one_line(error)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"quantize.embedding.weight": torch.ones(8, 4)}, "IBQ"),
        (lambda s: {f"first_stage_model.{k}": v for k, v in s.items()}, "must hold an image tokenizer"),
        (lambda s: {k: v[..., None] if v.ndim == 4 else v for k, v in s.items()}, "3 dimensions"),
        (lambda s: without(s, "decoder.conv_out.bias"), "lacks decoder.conv_out.bias"),
        (lambda s: without(s, "encoder.down.1.block.0.conv1.weight"), "lacks encoder.down.1.block.0.conv1.weight"),
        (lambda s: s | {"decoder.mid.attn_1.q.weight": torch.ones(4, 4)}, "stray decoder.mid.attn_1.q.weight"),
        (lambda s: s | {"decoder.conv_in.weight": torch.ones(1, 2, 3, 3)}, "decoder.conv_in.weight must be"),
        (lambda s: {}, "encoder.conv_in.weight"),
    ],
)
def test_other_models_are_refused_in_one_line(tmp_path, change, said):
    path = checkpoint(tmp_path, change(weights()))
    with pytest.raises(ValueError, match=said) as error:
        codecs.build("image/magvit2", checkpoint=path)
    assert one_line(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt") as error:
        codecs.build("image/magvit2", checkpoint=str(tmp_path / "nowhere.ckpt"))
    assert one_line(error)


def test_saved_and_loaded_without_the_foreign_file(tmp_path):
    path = checkpoint(tmp_path, weights())
    codec = codecs.build("image/magvit2", checkpoint=path, codebooks=3)
    assert codec.spec.codebook_sizes == (64,) * 3
    codecs.save(codec, tmp_path / "ours")
    (tmp_path / "some.ckpt").unlink()
    again = codecs.load(tmp_path / "ours")
    x = photograph(40, 33)
    assert again.fingerprint == codec.fingerprint
    assert torch.equal(again.encode(x).indices, codec.encode(x).indices)
    assert torch.equal(again.decompress(codec.compress(x)), codec.decode(codec.encode(x)))


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 48}, {"channels": 0}, {"multipliers": []}, {"multipliers": [1, 10**6]}, {"blocks": 0}, {"bits": 0},
     {"bits": "18"}, {"bits": 18, "codebooks": 1}, {"bits": 18, "codebooks": 4}],
)  # fmt: skip
def test_wrong_architectures_are_refused_in_one_line(wrong):
    with pytest.raises(ValueError) as error:
        codecs.build("image/magvit2", **(SIZES | wrong))
    assert one_line(error)


# -- indices ----------------------------------------------------------------------------------------


def test_official_indices_by_hand():
    codec = codecs.build("image/magvit2", **SIZES)
    signs = -torch.ones(1, 18, 1, 3)
    signs[0, 0, 0, 0] = 1  # channel 0 is bit 0
    signs[0, 9, 0, 1] = 1  # channel 9 is bit 9: the second quantizer's bit 0
    signs[0, [1, 8, 10, 17], 0, 2] = 1
    indices = codec.quantizer.search(signs * 0.3)
    assert indices.tolist() == [[[[1, 0, 2 + 256]], [[0, 1, 2 + 256]]]]
    official = codec.official_index(Codes(indices, torch.tensor([[4, 12]])))
    assert official.tolist() == [[[1, 512, 2 + 256 + 1024 + 131072]]]
    assert torch.equal(codec.quantizer.lookup(indices), signs)
    assert codec.quantizer.search(torch.zeros(1, 18, 1, 1)).tolist() == [[[[0]], [[0]]]]  # 0 is no bit, as officially


@pytest.mark.parametrize(("bits", "codebooks"), [(18, None), (18, 3), (14, None), (14, 2), (5, 5)])
def test_indices_both_ways(bits, codebooks):
    codec = codecs.build("image/magvit2", **(SIZES | {"bits": bits, "codebooks": codebooks}))
    generator = torch.Generator().manual_seed(0)
    official = torch.randint(2**bits, (3, 20, 30), generator=generator)
    indices = codec.from_official(official)
    for q, entries in enumerate(codec.spec.codebook_sizes):
        assert indices[:, q].min() >= 0 and indices[:, q].max() < entries
    assert torch.equal(codec.official_index(indices), official)
    words = codec.quantizer.lookup(indices)
    for c in range(bits):
        assert torch.equal(words[:, c] > 0, (official >> c) % 2 == 1)
    assert torch.equal(codec.quantizer.search(words), indices)


# -- training, and what a picture's edge does ---------------------------------------------------------


def test_the_quantizers_loss_is_the_papers():
    torch.manual_seed(0)
    quantizer = LFQ(6, codebooks=2, entropy_weight=0.1).train()
    latents = torch.randn(2, 6, 4, 5) * 0.05
    latents.requires_grad_()
    quantized = quantizer.quantize(latents)
    assert torch.equal(quantized.latents.detach(), torch.where(latents > 0, 1.0, -1.0))
    book = torch.tensor([[1.0 if (n >> c) & 1 else -1.0 for c in range(3)] for n in range(8)], dtype=torch.float64)
    groups = latents.detach().double().permute(0, 2, 3, 1).reshape(-1, 2, 3)
    chances = (2 * groups @ book.T * 100).softmax(-1)

    def entropy(p):
        return -(p * p.clamp_min(1e-5).log()).sum(-1)

    own, whole = entropy(chances).mean(), entropy(chances.mean(0)).mean()
    commitment = (groups - groups.sign()).square().mean()
    assert quantized.loss.item() == pytest.approx((0.1 * (own - whole) + 0.25 * commitment).item(), abs=1e-4)
    (quantized.latents * torch.arange(6.0)[:, None, None]).sum().backward()
    assert torch.equal(latents.grad, torch.arange(6.0)[:, None, None].expand_as(latents))  # straight through


def test_it_trains_without_a_codebook_of_2_to_18():
    torch.manual_seed(0)
    codec = codecs.build("image/magvit2", **SIZES).train()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    x = photograph(32, 32)
    start, losses = time.perf_counter(), []
    for _ in range(8):
        picture, own = codec.reconstruct(x)
        loss = F.mse_loss(picture, x) + 0.1 * own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(F.mse_loss(picture, x).item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in codec.parameters())
    assert losses[-1] < losses[0]
    assert time.perf_counter() - start < 20  # the joint entropy term alone would take tens of seconds


def test_a_batch_of_unequal_sizes_is_decoded_one_by_one():
    torch.manual_seed(0)
    codec = codecs.build("image/magvit2", **SIZES)
    data = [codec.compress(structured(codec, size))[0] for size in ((1, 1), (13, 22), (5, 40))]
    together = codec.decompress(data)
    assert together.shape == (3, 3, 13, 40)
    for item, size in zip(range(3), ((1, 1), (13, 22), (5, 40)), strict=True):
        alone = codec.decompress(data[item : item + 1])
        assert torch.isfinite(alone).all()
        assert torch.equal(together[item, :, : size[0], : size[1]], alone[0])
        assert not together[item, :, size[0] :].any() and not together[item, :, :, size[1] :].any()


def test_the_smallest_width_takes_a_picture_of_one_pixel():
    codec = codecs.build("image/magvit2", channels=32, multipliers=[1], blocks=1, bits=4)
    y = codec.decode(codec.encode(signals(codec, (1, 1), 1)))
    assert y.shape == (1, 3, 1, 1) and torch.isfinite(y).all()
