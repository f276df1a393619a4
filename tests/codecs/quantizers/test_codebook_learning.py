"""Training of codebooks: k-means start, moving averages, revival, several processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.codecs import tiny
from support.quantizers import latents, trained_rvq

from tokenloom import codecs, data
from tokenloom.codecs import quantizers
from tokenloom.codecs.quantizers import BSQ, FSQ, ResidualVQ
from tokenloom.codecs.quantizers.codebooks import Batch
from tokenloom.metrics.tokens import CodeCounts
from tokenloom.train.tasks.codec import count_codes, validate
from tokenloom.train.tasks.signals import signal_for

# -- training -----------------------------------------------------------------------------------


def test_training_starts_and_moves_the_codebooks():
    torch.manual_seed(1)
    rvq = ResidualVQ(16, 6, 2, dropout=False, decay=0.8).train()
    fresh = rvq.codebook.clone()
    data = 5 + 2 * torch.randn(4, 6, 100)
    assert not rvq.started.any()
    rvq.quantize(data)
    assert rvq.started.all()
    started = rvq.codebook.clone()
    assert not torch.equal(started, fresh)
    assert started[0].mean() > 3, "k-means starts the first codebook where the data is"
    rvq.quantize(data)
    assert not torch.equal(rvq.codebook, started), "the EMA moves on"
    assert torch.allclose(
        rvq.codebook_sum / rvq.cluster_size[..., None].clamp_min(1e-5), rvq.codebook, rtol=0.2, atol=0.2
    )
    before = {k: v.clone() for k, v in rvq.state_dict().items()}
    rvq.eval().quantize(data)
    rvq.search(data)
    assert all(torch.equal(v, before[k]) for k, v in rvq.state_dict().items()), "outside training nothing moves"


def test_fresh_codebooks_in_eval_stay_as_they_are():
    """vector-quantize-pytorch runs k-means in eval mode too."""
    rvq = ResidualVQ(16, 6, 2).eval()
    before = {k: v.clone() for k, v in rvq.state_dict().items()}
    out = rvq.quantize(latents(6))
    rvq.search(latents(6))
    assert all(torch.equal(v, before[k]) for k, v in rvq.state_dict().items())
    torch.testing.assert_close(out.latents, rvq.lookup(rvq.search(latents(6))), rtol=0, atol=1e-5)


def test_dead_entries_are_revived():
    torch.manual_seed(0)
    rvq = ResidualVQ(16, 4, decay=0.5).train()
    rvq.quantize(torch.randn(2, 4, 200))
    with torch.no_grad():
        rvq.codebook[0, :8] = 100.0  # far from everything
        rvq.codebook_sum[0, :8] = 100.0
        rvq.cluster_size[0, :8] = 0.01
    data = torch.randn(2, 4, 200)
    for _ in range(3):
        rvq.quantize(data)
    assert rvq.codebook.abs().max() < 10
    assert len(rvq.eval().search(data).unique()) > 12


def test_error_falls_with_training():
    torch.manual_seed(0)
    rvq = ResidualVQ(16, 4, 2, decay=0.8).train()
    centers = 4 * torch.randn(16, 4)
    data = centers[torch.randint(16, (4, 100))].transpose(1, 2) + 0.1 * torch.randn(4, 4, 100)
    first = (data - rvq.quantize(data).latents).square().mean()
    for _ in range(20):
        rvq.quantize(data)
    rvq.eval()
    last = (data - rvq.lookup(rvq.search(data))).square().mean()
    assert last < first and last < 0.5


def test_state_survives_dict_and_device_moves():
    rvq, z = trained_rvq(), latents(6)
    twin = ResidualVQ(16, 6, 3, decay=0.8)
    twin.load_state_dict(rvq.state_dict())
    assert torch.equal(twin.eval().search(z), rvq.search(z))
    moved = copy.deepcopy(rvq).to("cpu").to(torch.float64).to(torch.float32)
    assert torch.equal(moved.search(z), rvq.search(z))
    torch.manual_seed(0)
    rvq.train().quantize(z)
    torch.manual_seed(0)
    twin.train().quantize(z)
    for key, value in rvq.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    moved.train().quantize(z)  # and a copy trains its own buffers, not those of the original
    after = rvq.codebook.clone()
    moved.quantize(z)
    assert torch.equal(rvq.codebook, after)


def test_a_copy_of_a_training_quantizer_is_its_own():
    torch.manual_seed(0)
    rvq = trained_rvq().train()
    rvq.quantize(latents(6))
    twin = copy.deepcopy(rvq)
    before = rvq.codebook.clone()
    twin.quantize(latents(6) + 1)
    assert torch.equal(rvq.codebook, before) and not torch.equal(twin.codebook, before)
    assert set(rvq.state_dict()) == {"codebook", "cluster_size", "codebook_sum", "started"}


def test_k_means_leaves_a_mean_without_latents_where_it_is():
    points = torch.full((2, 3, 2), 5.0)
    means, counts = quantizers.codebooks.kmeans(points, 2, quantizers.codebooks.Batch(points))
    assert means.tolist() == [[5.0, 5.0], [5.0, 5.0]] and counts.tolist() == [6, 0]


def test_dropout_makes_every_prefix_decode():
    torch.manual_seed(0)
    rvq = ResidualVQ(8, 4, 4).train()
    data = torch.randn(4, 4, 64)
    rvq.quantize(data)
    rvq.eval()
    prefixes = [rvq.lookup(rvq.search(data, n)) for n in range(1, 5)]
    rvq.train()
    seen = set()
    for _ in range(40):
        out = rvq.quantize(data).latents
        rvq.eval()
        seen.add(min(range(4), key=lambda n: float((rvq.lookup(rvq.search(data, n + 1)) - out).abs().mean())))
        rvq.train()
    assert len(prefixes) == 4 and len(seen) > 1


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_quantizers_that_drop_out_add_no_loss(update):
    """The loss is the sum over the stages in use, divided by the number of all stages; 1.25 is 1 + β."""
    torch.manual_seed(0)
    rvq = ResidualVQ(8, 4, 3, update=update, dead_below=0.0).train()
    rvq.started.fill_(True)
    seen = set()
    for _ in range(12):
        z, books = torch.randn(2, 20, 4), rvq.codebook.detach().clone()
        out = rvq.quantize(z.transpose(1, 2))
        total, loss, used = torch.zeros_like(z), 0.0, 0
        while used == 0 or (total.transpose(1, 2) - out.latents).abs().max() > 1e-5:
            book = books[used]
            chosen = book[torch.cdist(z - total, book.expand(2, 8, 4)).argmin(2)]
            loss += (z - total - chosen).square().mean().item() * (1.25 if update == "gradient" else 1) / 3
            total, used = total + chosen, used + 1
        assert out.loss.item() == pytest.approx(loss, rel=1e-4)
        seen.add(used)
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("quantizer", [FSQ([8, 5, 4]), BSQ(6, 2), trained_rvq()], ids=["fsq", "bsq", "rvq"])
def test_gradients_go_straight_through(quantizer):
    z = latents(quantizer.dim, spread=0.5).requires_grad_()
    quantizer.train()
    out = quantizer.quantize(z)
    assert out.latents.shape == z.shape and out.loss.ndim == 0 and torch.isfinite(out.loss)
    out.latents.sum().backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().mean() > 0.1
    quantizer.eval()


@pytest.mark.parametrize("quantizer", [FSQ([8, 5, 4]), BSQ(6, 2), trained_rvq()], ids=["fsq", "bsq", "rvq"])
def test_autocast_around_changes_nothing(quantizer):
    z = latents(quantizer.dim)
    quantizer.eval()
    plain = quantizer.quantize(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer.quantize(z)
        assert torch.equal(quantizer.search(z), quantizer.search(z))
        indices = quantizer.search(z)
        vectors = quantizer.lookup(indices)
    assert torch.equal(inside.latents, plain.latents) and torch.equal(inside.loss, plain.loss)
    assert torch.equal(indices, quantizer.search(z)) and torch.equal(vectors, quantizer.lookup(indices))
    assert vectors.dtype == torch.float32


# -- how codebooks learn ------------------------------------------------------------------------

LEARNING = [{"update": "ema"}, {"update": "gradient"}, {"update": "ema", "normalise": True},
            {"update": "gradient", "normalise": True}]  # fmt: skip


@pytest.mark.parametrize(("quantizers", "normalise"), [(1, False), (3, False), (1, True)])
def test_moving_averages_equal_the_library(quantizers, normalise):
    """Compare vectors, loss, codebook and both averages after every step."""
    from vector_quantize_pytorch import ResidualVQ as Library

    torch.manual_seed(0)
    mine = ResidualVQ(16, 6, quantizers, dropout=False, decay=0.8, dead_below=0.0, normalise=normalise).train()
    mine.started.fill_(True)
    library = Library(dim=6, codebook_size=16, num_quantizers=quantizers, decay=0.8, rotation_trick=False,
                      use_cosine_sim=normalise).train()  # fmt: skip
    for q, layer in enumerate(library.layers):
        layer._codebook.embed.copy_(mine.codebook[q : q + 1])
        layer._codebook.embed_avg.copy_(mine.codebook_sum[q : q + 1])
    for step in range(5):
        z = latents(6) + 0.1 * step
        out = mine.quantize(z)
        flat, _, losses = library(z.flatten(2).transpose(1, 2))
        torch.testing.assert_close(out.latents, flat.transpose(1, 2).reshape(z.shape), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.loss, losses.mean())
        for q, layer in enumerate(library.layers):
            theirs = layer._codebook
            torch.testing.assert_close(mine.cluster_size[q], theirs.cluster_size[0])
            torch.testing.assert_close(mine.codebook_sum[q], theirs.embed_avg[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(mine.codebook[q], theirs.embed[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("learning", LEARNING, ids=str)
def test_the_gradient_passes_once(learning):
    """With a straight-through estimator per stage, the gradient would count once per quantizer."""
    rvq = ResidualVQ(16, 6, 1 if "normalise" in learning else 4, dropout=False, **learning).eval()
    z = latents(6).requires_grad_()
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    (rvq.quantize(z).latents * weights).sum().backward()
    if "normalise" in learning:  # through z / |z|
        twin = z.detach().clone().requires_grad_()
        (torch.nn.functional.normalize(twin, dim=1) * weights).sum().backward()
        weights = twin.grad
    torch.testing.assert_close(z.grad, weights)


def test_gradient_codebooks_have_the_loss_of_vq_vae():
    """The loss is |sg[z] − e|² + β |z − sg[e]|² (arXiv 1711.00937, eq. 3). Each term has one gradient."""
    torch.manual_seed(0)
    vq = ResidualVQ(8, 3, update="gradient").train()
    vq.started.fill_(True)
    z = torch.randn(2, 3, 20, requires_grad=True)
    book = vq.codebook[0].detach().clone()
    chosen = book[vq.search(z.detach())[:, 0]].transpose(1, 2)
    loss = vq.quantize(z).loss
    torch.testing.assert_close(loss, (1 + 0.25) * (chosen - z).square().mean())
    loss.backward()
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - chosen) / z.numel())
    errors = (chosen - z.detach()).transpose(1, 2).flatten(0, 1)
    sums = torch.zeros(8, 3).index_add_(0, vq.search(z.detach())[:, 0].flatten(), errors)
    torch.testing.assert_close(vq.codebook.grad[0], 2 * sums / z.numel())


@pytest.mark.parametrize("learning", [{"update": "gradient"}, {"update": "gradient", "normalise": True}], ids=str)
def test_gradient_codebooks_learn(learning):
    torch.manual_seed(0)
    vq = ResidualVQ(16, 4, dead_below=0.0, **learning).train()
    vq.started.fill_(True)  # from random entries, not from k-means
    centers = torch.randn(16, 4)
    optimizer = torch.optim.AdamW(vq.parameters(), 0.02)
    errors = []
    for _ in range(150):
        z = (centers[torch.randint(16, (4, 50))] + 0.05 * torch.randn(4, 50, 4)).transpose(1, 2)
        loss = vq.quantize(z).loss
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])
    assert set(vq.state_dict()) == {"codebook", "cluster_size", "started"}


@pytest.mark.parametrize("learning", LEARNING[2:], ids=str)
def test_normalized_lookup_is_by_angle(learning):
    """The lengths of latents and entries have no effect; vectors of `lookup` have length 1."""
    torch.manual_seed(0)
    vq = ResidualVQ(64, 8, **learning).eval()
    z = latents(8)
    indices = vq.search(z)
    cosine = torch.nn.functional.cosine_similarity(z.movedim(1, -1).unsqueeze(-2), vq.codebook[0], dim=-1)
    assert torch.equal(indices[:, 0], cosine.argmax(-1))
    assert torch.equal(vq.search(z * 7.5), indices)
    torch.testing.assert_close(vq.lookup(indices).norm(dim=1), torch.ones(3, 5, 6))
    torch.testing.assert_close(vq.quantize(z).latents, vq.lookup(indices), rtol=0, atol=1e-6)
    vq.train().quantize(z)
    vq.eval()
    torch.testing.assert_close(vq.lookup(vq.search(z)).norm(dim=1), torch.ones(3, 5, 6))


def usage(rvq: ResidualVQ, z: torch.Tensor) -> float:
    """Return the share of entries in use, of the least used codebook."""
    was = rvq.training
    indices = rvq.eval().search(z)
    rvq.train(was)
    return min(len(indices[:, q].unique()) / n for q, n in enumerate(rvq.sizes))


def collapsed(quantizers: int, dead_below: float, **learning) -> ResidualVQ:
    """Return a codebook whose first entry is nearest to all latents; the others are far away and long unused."""
    torch.manual_seed(0)
    rvq = ResidualVQ(64, 4, quantizers, dead_below=dead_below, **learning).train()
    with torch.no_grad():
        rvq.codebook[:] = 0.0
        rvq.codebook[:, 1:, 0] = -50.0
        rvq.codebook[:, 0, 0] = 1.0
        rvq.cluster_size[:, 1:] = 1e-3
        if rvq.update == "ema":
            rvq.codebook_sum[:] = rvq.codebook * rvq.cluster_size[..., None]
        rvq.started.fill_(True)
    return rvq


@pytest.mark.parametrize("decay", [0.8, 0.99])
@pytest.mark.parametrize("quantizers", [1, 4])
@pytest.mark.parametrize("learning", LEARNING, ids=str)
def test_a_collapsed_codebook_recovers_by_revival_alone(learning, quantizers, decay):
    if quantizers > 1 and "normalise" in learning:
        pytest.skip("a normalized codebook is a single one")
    shares = {}
    for dead_below in (0.1, 0.0):
        rvq = collapsed(quantizers, dead_below, decay=decay, **learning)
        data_of_training = torch.randn(40, 4, 4, 64) + torch.tensor([3.0, 0, 0, 0])[:, None]
        assert usage(rvq, data_of_training[0]) <= 2 / 64
        optimizer = torch.optim.SGD(rvq.parameters(), 0.1) if learning["update"] == "gradient" else None
        for z in data_of_training:
            loss = rvq.quantize(z).loss
            if optimizer:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        shares[dead_below] = usage(rvq, data_of_training.movedim(0, -1).flatten(2))
    assert shares[0.1] > 0.9, shares
    assert shares[0.0] < 0.1, shares


def test_revival_moves_the_averages():
    """Otherwise one step would return a revived entry to its old place."""
    vq = collapsed(1, 0.1, decay=0.9)
    z = torch.randn(4, 4, 64)
    vq.quantize(z)
    revived = vq.codebook[0, 1:].clone()
    assert (revived[:, None] == z.transpose(1, 2).reshape(-1, 4)).all(2).any(1).all()
    torch.testing.assert_close(vq.codebook_sum[0, 1:], revived * vq.cluster_size[0, 1:, None])
    torch.testing.assert_close(vq.cluster_size[0, 1:], torch.full((63,), 0.1))
    vq.quantize(z)
    assert vq.codebook.abs().max() < 10


def share_lost(dead_below: float) -> float:
    """Return the share of 128 points, 16 per batch, that a codebook of 256 entries has lost."""
    torch.manual_seed(0)
    vq = ResidualVQ(256, 2, decay=0.99, dead_below=dead_below).train()
    centers = torch.randn(128, 2) * 5
    for _ in range(300):
        vq.quantize(centers[torch.randint(128, (4, 4))].transpose(1, 2))
    points = centers.T[None]
    return float(((vq.lookup(vq.search(points)) - points).norm(dim=1) > 0.01).float().mean())


def test_small_batches_keep_their_entries(monkeypatch):
    """An entry that is used once in eight small batches is not dead."""
    assert share_lost(0.1) == 0 and share_lost(2.0) == 0
    monkeypatch.setattr(quantizers.vector, "DEAD_SHARE", 1e9)  # the threshold as it stands
    assert share_lost(2.0) > 0.1


@pytest.mark.parametrize("learning", LEARNING, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_change_no_codebook(learning, bad):
    torch.manual_seed(0)
    for rvq in (ResidualVQ(16, 4, **learning).train(), collapsed(1, 0.1, **learning)):
        before = {k: v.clone() for k, v in rvq.state_dict().items()}
        z = torch.randn(2, 4, 30)
        z[1, 2, 3] = bad
        rvq.quantize(z)
        assert all(torch.equal(v, before[k]) for k, v in rvq.state_dict().items())


def _one_of_two(rank: int, folder: str, run: Callable[[int], object]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(run(rank), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def in_two_processes(folder: Path, run: Callable[[int], object]) -> list:
    """Return what `run` returns on each rank."""
    context = torch.multiprocessing.get_context("fork")  # of a parent that has no process group: quick, and safe
    children = [context.Process(target=_one_of_two, args=(rank, str(folder), run)) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def distributed_data() -> torch.Tensor:
    """Return 12 batches of 6 items. The cluster moves half-way, so entries become unused."""
    z = torch.randn(12, 6, 4, 20, generator=torch.Generator().manual_seed(7))
    z[6:] += 20
    return z


@pytest.mark.parametrize(
    "learning", [{"quantizers": 3, "decay": 0.5}, {"update": "gradient", "normalise": True, "decay": 0.5}], ids=str
)
@pytest.mark.usefixtures("loopback")
def test_two_processes_equal_one(learning, tmp_path):
    """k-means, averages, quantizer dropout and revival equal those of one process with the whole batch."""

    def run(rank: int) -> list[dict]:
        torch.manual_seed(0)
        rvq, states = ResidualVQ(32, 4, **learning).train(), []
        for z in distributed_data():
            rvq.quantize(z[rank::2])  # dealt as data/loader.py deals items
            states.append({k: v.clone() for k, v in rvq.state_dict().items()})
        return states

    first, second = in_two_processes(tmp_path, run)
    torch.manual_seed(0)
    alone = ResidualVQ(32, 4, **learning).train()
    revived = 0
    for z, a, b in zip(distributed_data(), first, second, strict=True):
        alone.quantize(z)
        for key, value in alone.state_dict().items():
            assert torch.equal(a[key], b[key]), key
            torch.testing.assert_close(a[key], value, rtol=1e-4, atol=1e-4, msg=key)
        revived += int((alone.cluster_size == 0.1).sum())
    assert revived > 20


@pytest.mark.usefixtures("loopback")
def test_processes_draw_alike_and_leave_out_a_batch_together(tmp_path):
    def run(rank: int) -> tuple[int, bool, bool]:
        torch.manual_seed(rank)
        z = torch.zeros(2, 3, 4)
        drawn, finite = Batch(z).integer(2**30), Batch(z).finite
        z[0, 0, 0] = math.nan if rank else 0.0
        return drawn, finite, Batch(z).finite

    first, second = in_two_processes(tmp_path, run)
    assert first == second == (first[0], True, False)


@pytest.mark.usefixtures("loopback")
def test_the_entropy_of_all_latents_is_that_of_two_processes(tmp_path):
    """Processes of different latents: the mean of their losses is the loss of one process with the whole batch."""
    z = 0.05 * latents(6)[:2]
    z[1] = z[1].abs()
    whole = BSQ(6, 2).train().quantize(z).loss
    losses = in_two_processes(tmp_path, lambda rank: BSQ(6, 2).train().quantize(z[rank::2]).loss)
    torch.testing.assert_close(sum(losses) / 2, whole)


# -- codebook use -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image/rvq", "image/fsq", "audio/rvq"])
def test_usage_and_perplexity_are_of_the_whole_validation_set(name):
    codec = tiny(name)
    if name.startswith("audio"):
        source = data.open_source("phrases", count=3, seconds=1.0, sample_rate=8000)
    else:
        source = data.open_source("scenes", count=5, size=40)
    figures, _ = validate(codec, source, torch.device("cpu"))
    counts = [torch.zeros(n, dtype=torch.long) for n in codec.spec.codebook_sizes]
    for item in source.items():
        for q, index in enumerate(codec.encode(signal_for(codec, item)[None]).indices[0]):
            for code in index.flatten().tolist():
                counts[q][code] += 1
    perplexities = [math.exp(-sum(p * math.log(p) for p in (n / n.sum()).tolist() if p)) for n in counts]
    usages = [float((n > 0).double().mean()) for n in counts]
    assert figures["perplexity"] == pytest.approx(sum(perplexities) / len(counts))
    assert figures["usage"] == pytest.approx(sum(usages) / len(counts))
    if len(counts) > 1:
        assert [figures[f"perplexity/{q + 1}"] for q in range(len(counts))] == pytest.approx(perplexities)
        assert [figures[f"usage/{q + 1}"] for q in range(len(counts))] == pytest.approx(usages)
    else:
        assert not [key for key in figures if "/" in key]
    fresh = copy.deepcopy(codec)
    assert count_codes(fresh, source, torch.device("cpu")) == len(source)
    assert all(torch.equal(row[: len(n)], n) for row, n in zip(fresh.counts, counts, strict=True))


def test_usage_ignores_padding():
    """Unused quantizers (−1) and padding are not counted."""
    indices = torch.tensor([[[0, 1, 1, 3], [2, 2, 2, 2]], [[1, 1, 1, 1], [-1, -1, -1, -1]]])
    sizes = torch.full((2, 1), 4)
    counts = CodeCounts((4, 4))
    counts.update(codecs.Codes(indices, sizes))
    first, second = counts.summary()
    assert (first.used, first.tokens, second.used, second.tokens) == (3, 8, 1, 4)
    counts.update(codecs.Codes(indices, sizes, lengths=torch.tensor([2, 0])))
    assert [use.tokens for use in counts.summary()] == [10, 6]
