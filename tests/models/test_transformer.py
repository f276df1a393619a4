"""The network against slow loops: attention, rotations, packed documents, losses, the cache."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line
from torch import Tensor

from tokenloom.models import layers as module
from tokenloom.models.layers import Projection, RootMeanSquareNorm, attend, rotate
from tokenloom.models.transformer import Transformer

SMALL = {"vocabulary": 50, "places": 30, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "context": 64}


def network(**changes: object) -> Transformer:
    """A small network in which every block acts, because projections that start at zero are filled."""
    torch.manual_seed(0)
    net = Transformer(**{**SMALL, **changes})
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():
                weight.normal_(std=0.2)
            elif (weight == 1).all():
                weight.uniform_(0.5, 2)
    return net.eval()


def batch(rows: int = 2, steps: int = 20, seed: int = 1) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(50, (rows, steps), generator=numbers), torch.randint(30, (rows, steps), generator=numbers)


def heads(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries with 4 heads; keys and values with 2."""
    numbers = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, h, n, 8, generator=numbers) for h in (4, 2, 2))


def slow_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """A slow reference; `allowed` is bool (batch, n, m)."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = allowed[b, i]
                group = h // (q.shape[1] // k.shape[1])
                weights = (k[b, group, seen] @ q[b, h, i] / math.sqrt(q.shape[-1])).softmax(0)
                out[b, h, i] = weights @ v[b, group, seen]
    return out


@pytest.mark.parametrize("grad", [False, True], ids=["fused", "products"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_grouped_heads_is_that_of_a_loop(grad: bool, masked: bool) -> None:
    q, k, v = heads(9)
    allowed = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    if masked:
        allowed[0, 5:, :3] = False
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~allowed[:, None], -math.inf) if masked else None
    with torch.set_grad_enabled(grad):
        out = attend(q, k, v, mask, causal=not masked)
    torch.testing.assert_close(out, slow_attention(q, k, v, allowed))


@torch.no_grad()
def test_weights_of_8_bits_serve_few_rows_without_gradients() -> None:
    exact, net = network(), network().use_int8()
    few, many = batch(1, 8), batch(2, 20)
    assert 1e-3 < (net(*few) - exact(*few)).norm() / exact(*few).norm() < 0.1
    assert torch.equal(net(*many), exact(*many))
    with torch.enable_grad():
        torch.testing.assert_close(net(*few), exact(*few))


def test_weights_of_8_bits_are_within_half_a_step() -> None:
    layer = Projection(16, 4)
    with torch.no_grad():
        layer.weight[2] = 0
        layer.weight[3] *= 1000
        layer.use_int8()
        steps = layer.weight.abs().amax(1, keepdim=True) / 127
        ours = layer(torch.eye(16)[:8]).T
    assert ((ours - layer.weight[:, :8]).abs() <= 0.51 * steps + 0.01 * layer.weight[:, :8].abs()).all()


def test_attention_of_one_query_is_that_of_a_loop() -> None:
    q, k, v = heads(9)
    allowed = torch.arange(9) < torch.tensor([[[9]], [[4]]])
    mask = torch.zeros(2, 1, 1, 9).masked_fill(~allowed[:, None], -math.inf)
    torch.testing.assert_close(attend(q[:, :, :1], k, v, mask, False), slow_attention(q[:, :, :1], k, v, allowed))


def test_grouped_heads_equal_heads_that_are_repeated() -> None:
    """A network with 2 key heads equals one with 4 whose key and value weights are repeated."""
    few, many = network(), network(kv_heads=4)
    state = few.state_dict()
    for layer in range(SMALL["layers"]):
        q, k, v = state[f"blocks.{layer}.attention.qkv.weight"].split([32, 16, 16])
        twice = [x.view(2, 8, 32).repeat_interleave(2, 0).flatten(0, 1) for x in (k, v)]
        state[f"blocks.{layer}.attention.qkv.weight"] = torch.cat([q, *twice])
        scale = state[f"blocks.{layer}.attention.qk_norm.weight"]
        state[f"blocks.{layer}.attention.qk_norm.weight"] = torch.cat([scale[:4], scale[4:].repeat_interleave(2, 0)])
    many.load_state_dict(state)
    torch.testing.assert_close(few(*batch()), many(*batch()))


def test_the_fused_kernel_and_the_products_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    net, documents = network(), torch.arange(20).expand(2, -1) // 7
    grads = []
    for fused in (False, True):
        if fused:
            monkeypatch.setattr(
                module, "_products",
                lambda q, k, v, mask, causal: F.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True),
            )  # fmt: skip
        net.zero_grad()
        net(*batch(), documents=documents).square().mean().backward()
        grads.append([weight.grad.clone() for weight in net.parameters() if weight.grad is not None])
    for slow, fast in zip(*grads, strict=True):
        torch.testing.assert_close(slow, fast, rtol=1e-3, atol=1e-5)


def test_rotations_leave_products_that_depend_on_the_distance_only() -> None:
    net = network()
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(a: int, b: int) -> float:
        x, y = (rotate(z, net.cos[None, [i], None], net.sin[None, [i], None]) for z, i in ((q, a), (k, b)))
        return float((x * y).sum())

    assert product(3, 1) == pytest.approx(product(40, 38), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)
    assert product(7, 7) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_moving_all_positions_changes_nothing() -> None:
    net, (ids, places) = network(), batch()
    moved = torch.arange(20).expand(2, -1) + torch.tensor([[40], [5]])
    torch.testing.assert_close(net(ids, places, positions=moved), net(ids, places), rtol=1e-4, atol=1e-5)
    spread = torch.arange(20).expand(2, -1) * 2
    assert not torch.allclose(net(ids, places, positions=spread), net(ids, places), atol=1e-2)


@pytest.mark.parametrize("shape", [(32,), (6, 8)])
def test_the_norm_and_its_gradient_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RootMeanSquareNorm(*shape).double()
    norm.weight.data.uniform_(0.5, 2)
    x = torch.randn(2, 3, *shape, requires_grad=True)
    slow = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.float()
    towards = torch.randn_like(slow)
    wanted = torch.autograd.grad((slow * towards).sum(), [x, norm.weight])
    fast = norm(x)
    torch.testing.assert_close(fast.float(), slow)
    for ours, theirs in zip(torch.autograd.grad((fast * towards).sum(), [x, norm.weight]), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert norm(torch.zeros(1, *shape)).isfinite().all()


def test_nothing_comes_from_later_ids() -> None:
    net, (ids, places) = network(), batch()
    before = net(ids, places)
    ids[:, 12], places[:, 15] = (ids[:, 12] + 1) % 50, (places[:, 15] + 1) % 30
    after = net(ids, places)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("grad", [False, True])
def test_documents_in_one_row_equal_documents_alone(grad: bool) -> None:
    net, (ids, places) = network(), batch(rows=1, steps=30)
    lengths = [1, 12, 7, 10]
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    with torch.set_grad_enabled(grad):
        packed = net(ids, places, documents=documents)[0].split(lengths)
        alone = [net(i[None], p[None])[0] for i, p in zip(ids[0].split(lengths), places[0].split(lengths), strict=True)]
        assert not torch.allclose(net(ids, places)[0, 1:], torch.cat(packed)[1:], atol=1e-2)
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_places_matter() -> None:
    net, (ids, places) = network(), batch()
    assert not torch.allclose(net(ids, places), net(ids, (places + 1) % 30), atol=1e-2)


def test_a_fresh_network_has_blocks_that_do_nothing_yet() -> None:
    torch.manual_seed(0)
    net, (ids, places) = Transformer(**SMALL), batch()
    x = F.rms_norm(net.embedding(ids) + net.places(places), (32,))
    torch.testing.assert_close(net(ids, places), x, rtol=1e-4, atol=1e-4)


def test_dropout_is_for_training() -> None:
    net, (ids, places) = network(dropout=0.5), batch()
    assert torch.equal(net(ids, places), net(ids, places))
    assert torch.equal(net(ids, places), network()(ids, places))
    net.train()
    assert not torch.allclose(net(ids, places), net(ids, places))


@pytest.mark.parametrize("lengths", [[6, 6, 6], [9, 4, 1]], ids=["equal", "unequal"])
def test_the_cache_gives_what_reading_everything_gives(lengths: list[int]) -> None:
    """Prompts of several lengths, then single ids, then three ids at once, then only two rows."""
    net, (ids, places) = network(), batch(rows=3, steps=24)
    with torch.inference_mode():
        whole = net(ids, places)
        cache = net.new_cache(3, 24)
        first = max(lengths)
        hidden = net(ids[:, :first], places[:, :first], cache=cache)
        for row, n in enumerate(lengths):
            torch.testing.assert_close(hidden[row, :n], whole[row, :n], rtol=1e-4, atol=1e-5)
        cache.lengths = torch.tensor(lengths)
        rows = torch.arange(3)
        for steps in (1, 1, 1, 3, 1):
            at = cache.lengths[:, None] + torch.arange(steps)
            hidden = net(ids[rows[:, None], at], places[rows[:, None], at], cache=cache)
            torch.testing.assert_close(hidden, whole[rows[:, None], at], rtol=1e-4, atol=1e-5)
            if steps == 3:
                rows = torch.tensor([2, 0])
                cache.select(rows)
        assert cache.lengths.tolist() == [lengths[2] + 7, lengths[0] + 7]


def test_the_cache_has_a_capacity() -> None:
    net, (ids, places) = network(), batch()
    cache = net.new_cache(2, 21)
    net(ids, places, cache=cache)
    with pytest.raises(ValueError, match=r"22 ids do not fit into a cache of 21") as error:
        net(ids[:, :2], places[:, :2], cache=cache)
    assert one_line(error)
    with pytest.raises(ValueError, match="must be 1 to the context of 64, got 65"):
        net.new_cache(2, 65)


ALLOWED = [torch.arange(10, 40), torch.tensor([3]), torch.tensor([2, 5, 7, 49]), torch.arange(50), torch.arange(3)]


def some_targets() -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, targets and kinds. Kind 4 does not occur."""
    numbers = torch.Generator().manual_seed(3)
    kinds = torch.randint(4, (40,), generator=numbers)
    targets = [ALLOWED[k][torch.randint(len(ALLOWED[k]), (), generator=numbers)] for k in kinds]
    return torch.randn(40, 32, generator=numbers), torch.stack(targets), kinds


def test_losses_are_those_of_a_loop_and_so_are_their_gradients() -> None:
    net, (hidden, targets, kinds) = network(), some_targets()
    hidden.requires_grad_()
    slow = []
    for h, target, kind in zip(hidden, targets, kinds, strict=True):
        scores = {int(i): h @ net.embedding.weight[i] for i in ALLOWED[kind]}
        slow.append(torch.stack(list(scores.values())).logsumexp(0) - scores[int(target)])
    slow = torch.stack(slow)
    fast = net.losses(hidden, targets, kinds, ALLOWED)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert (fast[kinds == 1] == 0).all()
    weights = torch.rand(40)
    grads = [torch.autograd.grad((x * weights).sum(), [hidden, net.embedding.weight]) for x in (slow, fast)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_target_that_may_not_come_costs_infinitely_many_nats() -> None:
    net, (hidden, targets, kinds) = network(), some_targets()
    targets[0], kinds[0], targets[1], kinds[1] = 9, 0, 48, 2
    losses = net.losses(hidden, targets, kinds, ALLOWED)
    assert losses[:2].isinf().all()
    assert losses[2:].isfinite().all()
    assert net.losses(hidden[:0], targets[:0], kinds[:0], ALLOWED).shape == (0,)


def test_logits_of_some_ids_are_those_of_all() -> None:
    net, hidden = network(), torch.randn(2, 3, 32)
    chosen = torch.tensor([4, 9, 30])
    assert net.logits(hidden).shape == (2, 3, 50)
    torch.testing.assert_close(net.logits(hidden, chosen), net.logits(hidden)[..., chosen])


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_is_close_and_its_logits_are_float32(way: str) -> None:
    net, (ids, places) = network(), batch()
    wanted = net(ids, places)
    if way == "weights":
        hidden = net.bfloat16()(ids, places)
        logits = net.logits(hidden)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = net(ids, places)
            logits = net.logits(hidden)
        assert hidden.dtype == torch.float32
    assert logits.dtype == torch.float32
    assert F.cosine_similarity(hidden.float(), wanted, -1).min() > 0.99


def test_it_learns_a_sequence_that_needs_attention() -> None:
    """The task is copying: the second half repeats the random ids of the first."""
    torch.manual_seed(0)
    net = Transformer(8, 9, width=32, layers=1, heads=2, kv_heads=1, context=8)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(120):
        half = torch.randint(8, (32, 4))
        ids = torch.cat([half, half], 1)
        hidden = net(ids[:, :7], torch.arange(7).expand(32, -1))[:, 3:].flatten(0, 1)
        targets = half.flatten()
        loss = net.losses(hidden, targets, torch.zeros_like(targets), [torch.arange(8)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # chance is ln 8 = 2.08


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "got width 32 and 5 heads"),
        ({"width": 36, "heads": 4}, "multiple of 2 · heads, got width 36 and 4"),
        ({"kv_heads": 3}, "got 4 heads and 3 kv_heads"),
        ({"layers": 0}, "layers must .* got 0"),
        ({"context": 1.5}, "context must .* got 1.5"),
        ({"dropout": 1.0}, "dropout must .* got 1.0"),
        ({"dropout": "much"}, "dropout must .* got 'much'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Transformer(**{**SMALL, **changes})
    assert one_line(error)


def test_inputs_that_do_not_fit_are_refused() -> None:
    net, (ids, places) = network(), batch(steps=65)
    with pytest.raises(ValueError, match="65 ids do not fit into a context of 64"):
        net(ids, places)
    ids, places = batch()
    with pytest.raises(ValueError, match=r"ids \(2, 20\) and places \(2, 19\)"):
        net(ids, places[:, 1:])
    with pytest.raises(ValueError, match=r"documents \(20,\)"):
        net(ids, places, documents=torch.zeros(20).long())
    with pytest.raises(ValueError, match="must be None with a cache"):
        net(ids, places, documents=torch.zeros(2, 20).long(), cache=net.new_cache(2))
    with pytest.raises(ValueError, match="must be below the context of 64, got 64"):
        net(ids, places, positions=torch.arange(20).expand(2, -1) + 45)
    with pytest.raises(ValueError, match="a kind must be 0 to 4, got 5"):
        net.losses(torch.randn(1, 32), torch.tensor([3]), torch.tensor([5]), ALLOWED)
    with pytest.raises(ValueError, match="2 hidden states, 1 targets"):
        net.losses(torch.randn(2, 32), torch.tensor([3]), torch.tensor([1]), ALLOWED)


def test_the_config_builds_the_same_network() -> None:
    net = network(hidden=40)
    again = Transformer(**net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(*batch()), net(*batch()))
    assert Transformer(**SMALL).config["hidden"] == 96  # 8/3 · 32 = 85.3, rounded up
