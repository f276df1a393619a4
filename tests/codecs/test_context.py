"""The context model: exact on every machine, and better than no context."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from support.codecs import TINY, one_line, structured, tiny

from tokenloom import codecs
from tokenloom.codecs import bitstream, context, rate
from tokenloom.codecs.context import ContextModel, _table
from tokenloom.codecs.image.ntc import dct_basis, step
from tokenloom.train.config import TrainConfig
from tokenloom.train.loop import train

BOUNDS, GROUPS = (9, 9, 5, 5, 5), [2, 3]


def model(seed: int = 0, spread: float = 0.3) -> ContextModel:
    """Return a model with random weights in every layer."""
    torch.manual_seed(seed)
    made = ContextModel(BOUNDS, GROUPS, width=6)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return made.eval()


def smooth_codes(height: int, width: int, seed: int) -> np.ndarray:
    """Return codes that their neighbors and the first group predict well."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(len(BOUNDS), height + 8, width + 8))
    for axis in (1, 2):
        fields = np.cumsum(fields, axis)
    bounds = np.array(BOUNDS)[:, None, None]
    fields[2:] = fields[[0, 1, 0]]
    return np.clip(np.round(fields[:, 8:, 8:] / 8), -bounds, bounds).astype(np.int64)


def walk(made: ContextModel, codes: np.ndarray, quality: float = 0.25) -> tuple[list[np.ndarray], float]:
    """Return all probabilities of a pass over the codes, and the bits of the codes."""
    seen, bits = [], 0.0
    symbols = codes + np.array(BOUNDS)[:, None, None]

    def coder(p: np.ndarray, channels: slice, mask: np.ndarray) -> np.ndarray:
        nonlocal bits
        row = symbols[channels][:, mask].reshape(-1)
        seen.append(p)
        bits -= np.log2(p[np.arange(len(row)), row] / p.sum(1)).sum()
        return row

    assert np.array_equal(made.code(codes.shape[1:], quality, coder), codes)
    return seen, bits


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (13, 10)])
def test_each_code_is_coded_once_under_probabilities(size):
    codes = smooth_codes(*size, seed=1)
    seen, _ = walk(model(), codes)
    assert sum(map(len, seen)) == codes.size
    for p in seen:
        assert (p > 0).all() and (p.sum(1) < 1.001).all()


def test_probabilities_do_not_depend_on_threads_or_what_is_not_yet_known():
    codes, made = smooth_codes(13, 10, seed=2), model()
    one, _ = walk(made, codes)
    torch.set_num_threads(2)
    try:
        two, _ = walk(made, codes)
    finally:
        torch.set_num_threads(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    other = codes.copy()
    other[2:] = -other[2:]  # of the last group: what comes before it cannot know
    three, _ = walk(made, other)
    assert all(np.array_equal(a, b) for a, b in zip(one[:8], three[:8], strict=True))
    assert not np.array_equal(one[-1], three[-1])


def test_the_integer_network_is_exact():
    """Compare with sums of Python integers."""
    made = model(spread=3.0)
    predictor = made.predictors[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-1500, 1500, (1, 6, 4, 5), generator=generator).double()
    weight, bias = context._integers(predictor.first)
    fast = context._conv(x, weight, bias, 2)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    for channel, row, column in ((0, 0, 0), (3, 2, 4), (5, 3, 1)):
        slow = int(bias[channel])
        for c in range(6):
            for i in range(5):
                for j in range(5):
                    slow += int(weight[channel, c, i, j]) * int(padded[0, c, row + 2 * i, column + 2 * j])
        assert int(fast[0, channel, row, column]) == slow
    exact = predictor.exact(x, 2, context.EVERYWHERE)
    assert torch.equal(exact, exact.round())


@pytest.mark.parametrize("size", [(1, 1), (9, 4), (19, 26)])
def test_a_pass_computes_its_positions_as_the_whole_grid_does(size):
    """With a sparse first layer for the early passes of the first group, and a strided second layer for the others."""
    predictor = model(spread=3.0).predictors[0]
    x = torch.randint(-1500, 1500, (1, 6, *size), generator=torch.Generator().manual_seed(0)).double()
    for row, column, rows, columns, distance in context.ADAM7:
        whole = predictor.exact(x, distance, context.EVERYWHERE)[..., row::rows, column::columns]
        if whole.numel():
            assert torch.equal(predictor.exact(x, distance, (row, column, rows, columns)), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (9, 4), (13, 10)])
def test_a_pass_of_a_later_group_computes_its_positions_as_the_whole_grid_does(size):
    """The second pass adds what is new to the sums of the first one."""
    made = model(spread=3.0)
    codes = torch.from_numpy(smooth_codes(*size, seed=4)).double()[None]
    for params, mask in made._checkerboard(1, codes, 0.75):
        known = torch.from_numpy(np.indices(size).sum(0) % 2 == 0).double() * float(not mask[0, 0])
        inputs = made._inputs(made._scaled(codes, 5), slice(2, 5), known, 0.75, 1, context.ONE)
        assert torch.equal(
            params, made.predictors[1].exact(inputs, 1, context.EVERYWHERE)[0][:, torch.from_numpy(mask)]
        )


def test_windows_of_the_table_are_its_entries():
    """A row holds the probabilities of −bound to bound, from the offsets to the rounded mean."""
    mean, log2_scale = 256 * np.array([[-40.0, 0.1, 2.7, 300.0]]), 256 * np.array([[-9.0, 0.3, 1.6, 90.0]])
    ((rows, first, last),) = context._distributions(np.concatenate([mean, log2_scale]), 9)
    assert (first, last) == (0, 1)
    eighths = np.floor(mean[0] / 256 * 8 + 0.5)
    for row, eighth, scale in zip(rows, eighths, (0, 17, 22, 43), strict=True):
        center = np.floor(eighth / 8 + 0.5)
        offsets = np.arange(-9, 10) - np.clip(center, -9, 9).astype(int) + 2 * context.MAX_BOUND
        assert np.array_equal(row, _table()[scale, int(eighth - 8 * center) + 4, offsets])


def test_integers_agree_with_the_network_that_was_trained():
    made, codes = model(spread=0.1), smooth_codes(16, 16, seed=3)
    x = torch.from_numpy(codes)[None].float()
    trained = made.bits(x, x, torch.tensor([0.25])).item()
    _, coded = walk(made, codes)
    assert coded == pytest.approx(trained, rel=0.02)


def test_training_learns_from_neighbors():
    torch.manual_seed(0)
    made = ContextModel(BOUNDS, GROUPS, width=16)
    train = torch.from_numpy(np.stack([smooth_codes(16, 16, seed=s) for s in range(8)])).float()
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        made.bits(train, train, torch.zeros(8)).mean().backward()
        optimizer.step()
    test = smooth_codes(16, 16, seed=99)
    _, bits = walk(made.eval(), test, 0.0)
    order0 = sum(-n * np.log2(n / 256) for row in test for n in np.unique(row, return_counts=True)[1])
    assert bits < 0.7 * order0


def test_wild_weights_stay_bounded():
    made, codes = model(spread=1e6), smooth_codes(6, 6, seed=4)
    seen, bits = walk(made, codes)
    assert np.isfinite(bits) and all(np.isfinite(p).all() for p in seen)


def test_table_is_a_logistic_distribution():
    table, reach = _table(), 2 * context.MAX_BOUND
    offsets = np.arange(-reach, reach + 1)
    for scale, fraction in ((0, 0), (7, 4), (20, 6), (30, 8)):
        mean, width = (fraction - 4) / 8, 2 ** (-4 + scale / 4)
        wanted = logistic.cdf(offsets + 0.5, mean, width) - logistic.cdf(offsets - 0.5, mean, width)
        assert np.allclose(table[scale, fraction], wanted, atol=1e-6)


def test_groups_that_do_not_fit():
    with pytest.raises(ValueError, match="must split") as error:
        ContextModel((9, 9, 5), [1, 2], 4)
    assert one_line(error)


def test_basis_is_orthonormal_and_starts_with_the_means():
    basis = dct_basis(192).flatten(1)
    assert torch.allclose(basis @ basis.T, torch.eye(192), atol=1e-5)
    means = dct_basis(192)[:3]
    assert torch.allclose(means.mean((2, 3), keepdim=True).expand_as(means), means, atol=1e-6)


def test_an_untrained_codec_is_a_transform_codec():
    """Before training, the error comes from rounding and from omitted channels, at every quality."""
    codec = codecs.build("image/ntc", channels=768, widths=[8, 8, 8], depths=[0, 0, 0], decoder_depths=[0, 0, 0],
                         context=8)  # fmt: skip
    x = structured(codec, (64, 48))
    errors = [(codec.decode(codec.encode(x, q)) - x).square().mean().item() for q in codec.settings.sweep]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < (step(33) * 160 / 255) ** 2 / 4


def test_an_invalid_quality():
    codec = tiny("image/ntc")
    codes = codec.encode(structured(codec, (20, 20)), 9)
    codes.side["quality"][0] = 9.5
    with pytest.raises(ValueError, match=r"quality of image/ntc must be one of .*got 9.5") as error:
        codec.decode(codes)
    assert one_line(error)


def test_containers_hold_what_the_model_predicts():
    codec = tiny("image/ntc")
    codes = codec.encode(structured(codec, (80, 100)), 25)
    (data,) = bitstream.write(codec, codes)
    assert torch.equal(bitstream.read(codec, [data]).indices, codes.indices)
    assert rate.coded([data]).item() < rate.nominal(codec.spec, codes).item()


def test_certain_codes_cost_almost_nothing():
    """Codes of far less than one bit decode. The check for forged sizes accepts them."""
    codec = copy.deepcopy(tiny("image/ntc"))
    with torch.no_grad():
        for predictor in codec.context.predictors:
            for parameter in predictor.parameters():
                parameter.zero_()
            predictor.last.bias[predictor.out :] = context.SMALLEST_SCALE
    codes = codec.encode(torch.full((1, 3, 160, 160), 0.5))
    zeros = torch.tensor(codec.context.bounds)[:, None, None].expand_as(codes.indices[0])
    codes.indices[0] = zeros
    (data,) = bitstream.write(codec, codes)
    assert 8 * len(data) < 0.1 * zeros.numel()
    assert torch.equal(bitstream.read(codec, [data]).indices, codes.indices)


def test_training_lowers_the_rate_and_logs_it(tmp_path):
    cfg = TrainConfig(
        codec={"name": "image/ntc", **TINY["image/ntc"]}, data={"name": "scenes", "count": 24}, out=str(tmp_path),
        steps=30, batch_size=4, validate_every=10, save_every=1000, log_every=10, device="cpu",
        losses={"l2": 1.0},  # its own loss comes with the codec: without it, bits would cost nothing
    )  # fmt: skip
    cfg.crop.size, cfg.optimizer.lr, cfg.optimizer.warmup = 64, 5e-3, 1
    train(cfg)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    bits = [float(value) for _, name, value in rows[1:] if name == "validation/bits_per_pixel"]
    assert len(bits) == 3 and bits[-1] < 0.9 * bits[0]
    assert not [name for _, name, _ in rows if name.startswith("validation/usage/")]
