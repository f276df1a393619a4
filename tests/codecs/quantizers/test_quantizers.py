"""Quantizers against vector-quantize-pytorch, and against slow loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support.quantizers import latents, trained_rvq

from tokenloom.codecs.quantizers import BSQ, FSQ, LFQ, MAX_CODEBOOK, DeadZone, ResidualVQ, codebooks, product
from tokenloom.codecs.quantizers.codebooks import nearest

GRIDS = [(1,), (37,), (1, 1), (5, 6)]


# -- finite scalar ------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [3], [4], [3, 4, 5, 6, 7], [8, 8, 8, 6, 5], [16, 16]])
@pytest.mark.parametrize("grid", GRIDS)
def test_fsq_equals_the_library(levels, grid):
    from vector_quantize_pytorch import FSQ as Library

    mine, library = FSQ(levels), Library(levels)
    z = latents(len(levels), grid)
    flat, indices = library(z.flatten(2).transpose(1, 2))
    mine_indices = mine.search(z)
    assert mine_indices.dtype == torch.int64
    assert torch.equal(mine_indices, indices.long().reshape(3, 1, *grid))
    torch.testing.assert_close(mine.lookup(mine_indices), flat.transpose(1, 2).reshape(z.shape), rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.quantize(z).latents, mine.lookup(mine_indices), rtol=0, atol=1e-6)
    z, weights = z.requires_grad_(), torch.randn_like(z)
    theirs = library(z.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(z.shape)
    gradients = [torch.autograd.grad((out * weights).sum(), z)[0] for out in (mine.quantize(z).latents, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    codes = library.indices_to_codes(indices)
    torch.testing.assert_close(
        mine.lookup(mine_indices).flatten(2), codes.transpose(1, 2).flatten(2), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("levels", [[8, 5, 4], [3, 3, 3, 4]])
def test_fsq_reaches_every_entry_and_nothing_else(levels):
    """Extreme latents stay within the levels, and a grid of latents reaches all entries."""
    fsq = FSQ(levels)
    wild = torch.tensor([-1e30, -50.0, 0.0, 50.0, 1e30]).repeat(1, len(levels), 1)
    assert fsq.search(wild).min() >= 0 and fsq.search(wild).max() < math.prod(levels)
    for channel, n in enumerate(levels):
        sweep = torch.zeros(1, len(levels), 401)
        sweep[0, channel] = torch.linspace(-6, 6, 401)
        assert len(fsq.search(sweep).unique()) == n
    everything = torch.arange(math.prod(levels))[None, None]
    vectors = fsq.lookup(everything)
    assert len(vectors[0].T.unique(dim=0)) == math.prod(levels)
    assert vectors.min() >= -1 and vectors.max() <= 1


@pytest.mark.parametrize("codebooks", [1, 2, 3, 5])
def test_factorized_fsq_gives_the_same_latents(codebooks):
    levels = [8, 8, 5, 5, 5]
    whole, factorized = FSQ(levels), FSQ(levels, codebooks)
    z = latents(5)
    assert len(factorized.sizes) == codebooks and math.prod(factorized.sizes) == math.prod(levels)
    indices = factorized.search(z)
    assert indices.shape[1] == codebooks
    assert all(int(indices[:, q].max()) < n for q, n in enumerate(factorized.sizes))
    assert torch.equal(factorized.lookup(indices), whole.lookup(whole.search(z)))


def test_large_codebooks_are_exposed_as_several():
    for levels in ([4] * 12, [8] * 6, [512, 512], [3] * 20):
        fsq = FSQ(levels)
        assert max(fsq.sizes) <= MAX_CODEBOOK and math.prod(fsq.sizes) == math.prod(levels)
        assert torch.equal(fsq.search(latents(len(levels))) < torch.tensor(fsq.sizes).reshape(-1, 1, 1),
                           torch.ones(3, len(fsq.sizes), 5, 6, dtype=torch.bool))  # fmt: skip
    for bits, each, count in ((9, 512, 1), (10, 32, 2), (11, 2, 11), (18, 512, 2), (36, 512, 4)):
        assert BSQ(bits).sizes == (each,) * count
    for bits, each, count in ((14, 2**14, 1), (15, 32, 3), (18, 512, 2)):
        assert LFQ(bits).sizes == (each,) * count
    assert BSQ(14, 1).sizes == (2**14,)


def test_training_a_large_fsq_builds_no_codebook():
    """vector-quantize-pytorch would build all entries: 12 s for 4^12, 34 GB for 4^16."""
    fsq = FSQ([4] * 16).train()
    z = latents(16).requires_grad_()
    out = fsq.quantize(z)
    out.latents.square().sum().backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0
    torch.testing.assert_close(out.latents, fsq.lookup(fsq.search(z)), rtol=0, atol=1e-6)


# -- binary spherical ---------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "codebooks"), [(1, 1), (6, 1), (8, 2), (12, 3), (9, 9)])
@pytest.mark.parametrize("grid", GRIDS)
def test_bsq_equals_the_library(bits, codebooks, grid):
    from vector_quantize_pytorch import LFQ

    bsq = BSQ(bits, codebooks)
    library = LFQ(codebook_size=2 ** (bits // codebooks), dim=bits, num_codebooks=codebooks, spherical=True).eval()
    z = latents(bits, grid)
    flat, indices, _ = library(z.flatten(2).transpose(1, 2))
    indices = indices.reshape(3, -1, codebooks).transpose(1, 2).reshape(3, codebooks, *grid)
    mine = bsq.search(z)
    assert mine.dtype == torch.int64 and torch.equal(mine, indices.long())
    torch.testing.assert_close(bsq.lookup(mine), flat.transpose(1, 2).reshape(z.shape), rtol=0, atol=1e-6)
    torch.testing.assert_close(bsq.quantize(z).latents, bsq.lookup(mine), rtol=0, atol=1e-6)
    norms = bsq.lookup(mine).unflatten(1, (codebooks, -1)).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_bsq_zero_has_one_code():
    """Search, training and the library agree on latents that are exactly zero."""
    bsq = BSQ(6, 2)
    z = torch.zeros(1, 6, 4)
    torch.testing.assert_close(bsq.quantize(z).latents, bsq.lookup(bsq.search(z)))


@pytest.mark.parametrize(("cls", "weight"), [(BSQ, 1.0), (LFQ, 0.25)])
def test_binary_losses_are_the_papers(cls, weight):
    """weight · commitment + 0.1 · (entropy of a latent − entropy of all), in float64, with two codebooks of 3 bits."""
    quantizer = cls(6, 2).train()
    z = 0.05 * latents(6)
    groups = z.double().movedim(1, -1).reshape(-1, 2, 3)
    book = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    if cls is BSQ:
        groups, book = torch.nn.functional.normalize(groups, dim=-1), book / 3**0.5
    near = (200 * groups @ book.T).softmax(-1)  # of minus 100 times the squared distance
    own, every = (-(p * p.clamp_min(1e-5).log()).sum(-1).mean() for p in (near, near.mean(0)))
    target = groups.sign() / (3**0.5 if cls is BSQ else 1)
    commitment = (groups - target).square().mean()
    assert quantizer.quantize(z).loss.item() == pytest.approx(
        float(0.1 * (own - every) + weight * commitment), rel=1e-3
    )


def test_bsq_loss_trains_towards_usage():
    torch.manual_seed(0)
    bsq = BSQ(8, 2, entropy_weight=1.0).train()
    z = (0.05 * torch.randn(4, 8, 100) + 1).requires_grad_()
    before = len(bsq.search(z)[:, 0].unique())
    optimizer = torch.optim.SGD([z], 200.0)
    first = None
    for _ in range(60):
        loss = bsq.quantize(z).loss
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first and len(bsq.search(z)[:, 0].unique()) >= before


@pytest.mark.parametrize(
    "quantizer",
    [BSQ(6, 2), BSQ(3), LFQ(6, 2), FSQ([8, 5, 4]), ResidualVQ(16, 6), ResidualVQ(16, 6, normalise=True)],
    ids=lambda q: f"{type(q).__name__}-{len(q.sizes)}",
)
def test_bounded_latents_are_nearest_to_their_entry(quantizer):
    """Codebook by codebook, and for FSQ in units of each channel's step."""
    z, books = latents(quantizer.dim), len(quantizer.sizes)
    unit = quantizer.width if isinstance(quantizer, FSQ) else torch.ones(quantizer.dim)
    every = torch.arange(max(quantizer.sizes)).expand(1, books, -1)
    entries, bounded = ((v * unit[:, None]).unflatten(1, (books, -1)) for v in (
        quantizer.lookup(every), quantizer.bounded(z).flatten(2)))  # fmt: skip
    for q in range(books):
        nearest = torch.cdist(bounded[:, q].movedim(1, 2), entries[:, q].movedim(1, 2)).argmin(2)
        assert torch.equal(nearest, quantizer.search(z)[:, q].flatten(1))
    if isinstance(quantizer, BSQ) and quantizer.spherical:
        assert torch.equal(quantizer.search(z), quantizer.search(quantizer.bounded(z)))
        torch.testing.assert_close(bounded.norm(dim=2), torch.ones(3, books, 30))


# -- residual vector ----------------------------------------------------------------------------


@pytest.mark.parametrize("quantizers", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
def test_rvq_equals_the_library(quantizers, grid):
    from vector_quantize_pytorch import ResidualVQ as Library

    rvq = trained_rvq(quantizers)
    library = Library(dim=6, codebook_size=16, num_quantizers=quantizers, kmeans_init=False).eval()
    for q, layer in enumerate(library.layers):
        layer._codebook.embed.copy_(rvq.codebook[q : q + 1])
    z = latents(6, grid, spread=3)
    flat, indices, _ = library(z.flatten(2).transpose(1, 2))
    mine = rvq.search(z)
    assert torch.equal(mine, indices.permute(0, 2, 1).reshape(3, quantizers, *grid))
    torch.testing.assert_close(rvq.lookup(mine), flat.transpose(1, 2).reshape(z.shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(rvq.quantize(z).latents, rvq.lookup(mine), rtol=0, atol=1e-5)
    for count in range(1, quantizers + 1):
        assert torch.equal(rvq.search(z, count), mine[:, :count])


def test_rvq_search_equals_a_slow_loop():
    rvq, z = trained_rvq(), latents(6, spread=3)
    for b, i, j in ((0, 0, 0), (1, 4, 5), (2, 2, 3)):
        residual = z[b, :, i, j].double()
        for q, book in enumerate(rvq.codebook.double()):
            index = min(range(16), key=lambda k: float((residual - book[k]).square().sum()))
            assert int(rvq.search(z)[b, q, i, j]) == index
            residual = residual - book[index]
        torch.testing.assert_close(rvq.lookup(rvq.search(z))[b, :, i, j], (z[b, :, i, j].double() - residual).float())


def test_more_quantizers_never_add_error():
    rvq, z = trained_rvq(4), latents(6, spread=3)
    errors = [(z - rvq.lookup(rvq.search(z, n))).square().mean().item() for n in range(1, 5)]
    assert errors[-1] < errors[0] and rvq.ordered and not trained_rvq(1).ordered
    indices = rvq.search(z)
    indices[0, 2:] = -1
    torch.testing.assert_close(rvq.lookup(indices)[0], rvq.lookup(rvq.search(z, 2))[0])


@pytest.mark.parametrize(("rows", "entries"), [(1, 2), (300, 7), (3000, 2000)])
def test_nearest_equals_cdist(rows, entries):
    generator = torch.Generator().manual_seed(rows)
    vectors, book = torch.randn(rows, 5, generator=generator), torch.randn(entries, 5, generator=generator)
    found = nearest(vectors, book)
    distances = torch.cdist(vectors.double(), book.double())
    best = distances.min(1).values
    reached = distances[torch.arange(rows), found]
    assert ((reached - best) < 1e-4).all()
    assert (found == distances.argmin(1)).float().mean() > 0.999
    assert torch.equal(nearest(book, book), torch.arange(entries))
    assert nearest(vectors.reshape(rows, 1, 5), book).shape == (rows, 1)


@pytest.mark.parametrize("entries", [codebooks.ENTRIES + 1, 2 * codebooks.ENTRIES, 3000])
def test_the_first_of_equal_entries_is_nearest(entries):
    """In a tile, between groups and between tiles; and an index of a vector that is NaN is in range."""
    generator = torch.Generator().manual_seed(entries)
    half = torch.randint(-4, 5, (entries // 2, 6), generator=generator).float()
    book = torch.cat([half, half.flip(0), half[: entries % 2]])
    vectors = torch.randint(-4, 5, (600, 6), generator=generator).float()
    assert len(vectors) * entries > codebooks.FEW
    distances = (vectors[:, None] - book).square().sum(-1)  # integers, so that equal ones are equal
    assert torch.equal(nearest(vectors, book), distances.argmin(1))
    vectors[::2] = math.nan
    found = nearest(vectors, book)
    assert torch.equal(found[1::2], distances.argmin(1)[1::2]) and (found >= 0).all() and (found < entries).all()


def test_nearest_far_from_the_origin():
    """For large ‖v‖ the expanded square loses digits; the index must still be one of the nearest."""
    generator = torch.Generator().manual_seed(0)
    book = 30 + torch.randn(64, 8, generator=generator)
    vectors = 30 + torch.randn(500, 8, generator=generator)
    distances = torch.cdist(vectors.double(), book.double())
    reached = distances.gather(1, nearest(vectors, book)[:, None])[:, 0]
    assert ((reached - distances.min(1).values) < 1e-3).all()


def test_chunked_search_equals_whole(monkeypatch):
    rvq, z = trained_rvq(), latents(6, (40, 40))
    whole = rvq.search(z)
    monkeypatch.setattr(codebooks, "MAX_DISTANCES", 16 * 100)
    assert torch.equal(rvq.search(z), whole)


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: FSQ([]), lambda: FSQ([2, 8]), lambda: FSQ([8, 2.5]), lambda: FSQ([8, 8], 3), lambda: FSQ([8, 8], 0),
        lambda: FSQ([1001]), lambda: FSQ([True, 8]), lambda: FSQ([8, "8"]), lambda: FSQ([8, 8], True),
        lambda: FSQ([8, 8], 1.5), lambda: FSQ(8), lambda: FSQ(None),
        lambda: BSQ(0), lambda: BSQ(-3), lambda: BSQ(8, 3), lambda: BSQ(30, 1), lambda: BSQ(8, 0), lambda: BSQ(8, -2),
        lambda: BSQ(8.0), lambda: BSQ("8"), lambda: BSQ(17, 2),
        lambda: ResidualVQ(1, 4), lambda: ResidualVQ(MAX_CODEBOOK + 1, 4), lambda: ResidualVQ(16, 0),
        lambda: ResidualVQ(16, 4, 0), lambda: ResidualVQ(16.5, 4), lambda: ResidualVQ(16, 4, 2.0),
        lambda: ResidualVQ(16, 4, decay=1.5), lambda: ResidualVQ("16", 4), lambda: ResidualVQ(16, 4, True),
        lambda: ResidualVQ(16, 4, dead_below=-1), lambda: ResidualVQ(16, 4, dead_below="0.1"),
        lambda: ResidualVQ(16, 4, dead_below=float("nan")), lambda: ResidualVQ(16, 4, update="sgd"),
        lambda: ResidualVQ(16, 4, update=None), lambda: ResidualVQ(16, 4, 2, normalise=True),
        lambda: ResidualVQ(16, 4, normalise="yes"), lambda: ResidualVQ(16, 4, normalise=1),
        lambda: FSQ([513]), lambda: FSQ([3] * 257), lambda: FSQ([3], 2), lambda: BSQ(1025), lambda: BSQ(8, 16),
        lambda: ResidualVQ(2**14 + 1, 4), lambda: ResidualVQ(16, 4097), lambda: ResidualVQ(16, 4, 65),
        lambda: ResidualVQ(16, 4, decay=0), lambda: ResidualVQ(16, 4, decay=1), lambda: ResidualVQ(16, 4, decay="0.9"),
        lambda: ResidualVQ(16, 4, dead_below=1e6 + 1), lambda: ResidualVQ(16, 4, dead_below=True),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(make):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) and "\n" not in str(error.value)


def test_arguments_at_their_limits_are_taken():
    assert FSQ([512]).sizes == (512,) and FSQ((3, 3), 2).sizes == (3, 3) and FSQ([128, 128]).sizes == (2**14,)
    assert math.prod(FSQ([3] * 256).sizes) == 3**256 and BSQ(1).sizes == (2,) and BSQ(1024).sizes == (256,) * 128
    for size, dim, quantizers in ((2, 1, 1), (2**14, 1, 1), (2, 4096, 1), (2, 1, 64)):
        rvq = ResidualVQ(size, dim, quantizers)
        assert rvq.codebook.shape == (quantizers, size, dim) and rvq.sizes == (size,) * quantizers and rvq.dim == dim
    for dead_below in (0, 1e6):
        assert ResidualVQ(2, 1, dead_below=dead_below).dead_below == dead_below
    default = ResidualVQ(16, 4, 2)
    assert (default.decay, default.dead_below, default.update, default.normalise) == (0.99, 0.1, "ema", False)
    assert not any(q.ordered for q in (FSQ([3]), BSQ(2), DeadZone((1,))))
    assert default.dropout and default.ordered and not ResidualVQ(16, 4).dropout and not ResidualVQ(16, 4).ordered


def test_checkpoints_hold_what_is_learned_only():
    """Constants follow from the arguments. A layer for training is not part of the state."""
    for quantizer in (FSQ([5, 4, 3]), BSQ(6), LFQ(6)):
        quantizer.quantize(latents(quantizer.dim))
        assert not quantizer.state_dict()
    assert set(DeadZone((2, 5)).state_dict()) == {"threshold"}


# -- product codes ------------------------------------------------------------------------------


def test_large_indices_are_split_as_evenly_as_possible():
    assert [product.factors(n) for n in (1, 2**14, 2**18, 2**28, 3 * 2**14)] == [
        (1,), (2**14,), (512, 512), (2**14, 2**14), (192, 256),
    ]  # fmt: skip
    for entries in (2**14 + 27, 2**29):  # a prime, and too many
        with pytest.raises(ValueError, match=f"a codebook of {entries} entries must be a product of two"):
            product.factors(entries)


def test_levels_are_joined_into_the_fewest_codebooks():
    assert product.level_products([8, 5, 4]) == (160,) and product.level_products([2**14]) == (2**14,)
    assert product.level_products([8] * 6) == (512, 512) and product.level_products([128, 128, 2]) == (2**14, 2)
    assert product.level_products([4] * 15) == (4**5,) * 3 and product.level_products([2**14, 2**14]) == (2**14, 2**14)
    with pytest.raises(ValueError, match="a level must be at most 16384, got "):
        product.level_products([4, 2**14 + 1])


def test_digits_of_an_index_by_hand():
    """The first digit is the least significant: 23 = 2 + 1 · 3 + 1 · 3 · 6."""
    index = torch.tensor([[23, 0, 107]])
    digits = product.split(index, (3, 6, 7))
    assert digits.tolist() == [[[2, 0, 2], [1, 0, 5], [1, 0, 5]]]
    assert torch.equal(product.join(digits, (3, 6, 7)), index)


# -- dead zone ----------------------------------------------------------------------------------


def test_small_latents_are_shrunk_then_rounded_within_the_bounds():
    """x − 0.25 · clamp(x, −1, 1) for the first channel and x − 0.4 · clamp(x, −1, 1) for the second."""
    zone = DeadZone((2, 5))
    assert zone.sizes == (5, 11) and zone.dim == 2 and zone.threshold.tolist() == [0.25, 0.25]
    zone.threshold.data[1] = 0.4
    z = torch.tensor([[[0.6, 0.7, -0.7, 1.2, -9.0], [0.7, 0.9, -1.5, 3.0, -9.0]]], requires_grad=True)
    torch.testing.assert_close(
        zone.shrink(z), torch.tensor([[[0.45, 0.525, -0.525, 0.95, -2], [0.42, 0.54, -1.1, 2.6, -5]]])
    )
    rounded = torch.tensor([[[0.0, 1, -1, 1, -2], [0, 1, -1, 3, -5]]])
    assert zone.search(z).tolist() == [[[2, 3, 1, 3, 0], [5, 6, 4, 8, 0]]]
    assert torch.equal(zone.lookup(zone.search(z)), rounded)
    out = zone.quantize(z)
    torch.testing.assert_close(out.latents, rounded)
    assert out.loss.item() == 0
    out.latents.sum().backward()  # through the shrinkage, not through the rounding or beyond the bounds
    torch.testing.assert_close(z.grad, torch.tensor([[[0.75, 0.75, 0.75, 1, 0], [0.6, 0.6, 1, 1, 0]]]))


def test_thresholds_stay_between_0_and_a_half():
    zone = DeadZone((2, 2))
    zone.threshold.data[:] = torch.tensor([-1.0, 0.9])
    torch.testing.assert_close(zone.shrink(torch.full((1, 2, 1), 1.5)).flatten(), torch.tensor([1.5, 1.5 - 0.49]))
