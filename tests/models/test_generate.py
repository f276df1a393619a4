"""Sampling against slow references: the cache, guidance, top-k, top-p, random streams."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.codecs import one_line, tiny
from torch import Tensor

from tokenloom import codecs
from tokenloom.models import generate
from tokenloom.models.generate import sample
from tokenloom.models.sampling import MAX_BEST_OF, check_defaults, check_ranges, choose, resolve
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel, DocumentState, Vocabulary


@functools.cache
def vocabulary() -> Vocabulary:
    channels = [Channel("bytes", codecs.build("text/bytes")), Channel("fsq", tiny("image/fsq")),
                Channel("flex", tiny("image/flex"))]  # fmt: skip
    return Vocabulary(channels, longest=64)


@functools.cache
def network(context: int = 96) -> Transformer:
    """Random weights that are large enough for the next id to depend on the previous ids."""
    torch.manual_seed(0)
    net = Transformer(vocabulary().size, vocabulary().places, 32, 2, 4, 2, context=context)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3)
    return net.eval()


def prompt(text: str, to: str = "fsq", size: tuple[int, ...] = (24, 32)) -> Tensor:
    """A document with a text, or none, and the beginning of an image."""
    v = vocabulary()
    said = v.segment("bytes", codecs.build("text/bytes").encode([text])) if text else []
    return torch.cat([torch.tensor([DOCUMENT]), *said, v.header(to, size)])


PROMPTS = [prompt("a red heart"), prompt("b", "flex", (48, 48)), prompt("", "fsq", (16, 16)), prompt("a kite in blue")]
NOTHING = [prompt(""), prompt("", "flex", (48, 48)), prompt("", "fsq", (16, 16)), prompt("")]
GUIDED = {"guidance": 2.5, "unconditional": NOTHING}


def run(prompts: list[Tensor], net: Transformer | None = None, **how: object) -> list[list[int]]:
    """Sample until the end of the segment. Return the new ids as lists."""
    how = {"until": lambda state: state.between_segments, "seed": 5, **how}
    rows = sample(net or network(), vocabulary(), prompts, [vocabulary().read(p) for p in prompts], **how)
    assert all(row.dtype == torch.int64 for row in rows)
    return [row.tolist() for row in rows]


class Uncached:
    """A slow reference of the reader, which reads all ids again in each step."""

    def __init__(self, net: Transformer, grammar: Vocabulary, sides: list, limit: int) -> None:
        self.net = net
        self.rows = [torch.stack([row, grammar.states(row)[1]], 1) for side in sides for row in side]
        self._read()

    def _read(self) -> None:
        both = torch.nn.utils.rnn.pad_sequence(self.rows, batch_first=True)
        last = torch.tensor([len(row) - 1 for row in self.rows])
        self.hidden = self.net(both[..., 0], both[..., 1])[torch.arange(len(last)), last]

    def feed(self, ids: list[int], places: list[int]) -> None:
        new = torch.tensor([ids, places]).T[:, None]
        self.rows = [torch.cat([row, one]) for row, one in zip(self.rows, new, strict=True)]
        self._read()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[i] for i in rows]


def only(row: int) -> dict:
    return {"guidance": 2.5, "unconditional": [NOTHING[row]]}


@pytest.mark.parametrize("guided", [False, True], ids=["alone", "guided"])
@pytest.mark.parametrize(
    "how",
    [{"temperature": 0}, {}, {"temperature": 0.7, "top_k": 9, "top_p": 0.8}],
    ids=["greedy", "sampled", "truncated"],
)
def test_cached_equals_uncached_token_for_token(guided: bool, how: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {**how, **(GUIDED if guided else {})}
    fast = run(PROMPTS, **how)
    monkeypatch.setattr(generate, "_CachedReader", Uncached)
    slow = run(PROMPTS, **how)
    assert fast == slow
    assert [len(row) for row in fast][::2] == [12, 4]  # the codes of 24 × 32 and of 16 × 16 at stride 8
    assert len({tuple(row) for row in fast}) == len(PROMPTS)


@pytest.mark.parametrize("guided", [False, True], ids=["alone", "guided"])
def test_rows_do_not_depend_on_each_other(guided: bool) -> None:
    together = run(PROMPTS, **(GUIDED if guided else {}))
    for row in range(len(PROMPTS)):
        assert run([PROMPTS[row]], first_row=row, **(only(row) if guided else {})) == [together[row]]


def test_samples_parse_and_decode() -> None:
    v = vocabulary()
    for start, new in zip(PROMPTS, run(PROMPTS), strict=True):
        name, codes = v.parse(torch.cat([start, torch.tensor(new)]))[-1]
        picture = v.channels[name].codec.decode(codes)
        assert picture.shape[2:] == tuple(codes.sizes[0].tolist())


def test_a_whole_document_ends_with_stop() -> None:
    starts = [torch.tensor([DOCUMENT])] * 20
    rows = run(starts, until=None)
    assert any(row[-1] == STOP for row in rows)
    assert all(STOP not in row[:-1] for row in rows)
    assert all(row[-1] == STOP or len(row) == 95 for row in rows)  # or the context of 96 is full


def test_seeds() -> None:
    same = [PROMPTS[0]] * 3
    assert run(same) == run(same)
    assert run(same) != run(same, seed=6)
    assert run(same) == run(same, temperature=1.0, guidance=1.0) != run(same, temperature=1.5)
    assert run(same, seed=None) != run(same, seed=None)
    assert len({tuple(row) for row in run(same)}) == 3
    assert run(same, first_row=1)[:2] == run(same)[1:]
    assert run(same, max_tokens=5) == [row[:5] for row in run(same)]
    before = torch.get_rng_state()
    run(same)
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
def slowly(row: int, guidance: float) -> list[int]:
    """A slow reference: greedy, one row, no cache, a mask over all ids."""
    net, v = network(), vocabulary()
    both, state, out = [PROMPTS[row], NOTHING[row]], v.read(PROMPTS[row]), []
    while not state.between_segments:
        logits = []
        for ids in both:
            places = v.states(ids)[1]
            logits.append(net.logits(net(ids[None], places[None])[0, -1]))
        mixed = logits[1] + guidance * (logits[0] - logits[1])
        id = int(mixed.masked_fill(~v.mask(state), -torch.inf).argmax())
        both, state = [torch.cat([ids, torch.tensor([id])]) for ids in both], state.advance(id)
        out.append(id)
    return out


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_its_formula(guidance: float) -> None:
    fast = run(PROMPTS, temperature=0, guidance=guidance, unconditional=NOTHING)
    assert fast == [slowly(row, guidance) for row in range(len(PROMPTS))]


def test_guidance_0_ignores_the_prompt_and_1_needs_no_second_prompt() -> None:
    assert run([PROMPTS[0]], guidance=0, unconditional=[NOTHING[0]]) == run([NOTHING[0]])
    assert run(PROMPTS, guidance=1.0, unconditional=NOTHING) == run(PROMPTS)
    assert run(PROMPTS, **GUIDED) != run(PROMPTS)


def slow_choice(logits: np.ndarray, u: float, temperature: float, top_k: int | None, top_p: float | None) -> int:
    kept = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    weight = {i: np.exp((logits[i] - logits[kept[0]]) / temperature) for i in kept}
    total = sum(weight.values())
    if top_p is not None:
        nucleus, mass = [], 0.0
        for i in kept:
            if mass >= top_p:
                break
            nucleus.append(i)
            mass += weight[i] / total
        kept = nucleus
    if top_k is None and top_p is None:
        kept = sorted(kept)
    below, total = 0.0, sum(weight[i] for i in kept)
    for i in kept:
        below += weight[i] / total
        if u < below:
            return i
    return kept[-1]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 4, 99])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.5, 0.9, 1.0])
def test_choices_are_those_of_a_loop(temperature: float, top_k: int | None, top_p: float | None) -> None:
    numbers = np.random.default_rng(0)
    logits = numbers.normal(size=(40, 12)).astype(np.float32) * 2
    logits[5] = 1.0  # all equal
    u = numbers.random(40, np.float32)
    u[:2] = 0, 1 - 2**-24
    chosen = choose(torch.from_numpy(logits), torch.from_numpy(u).double(), temperature, top_k, top_p)
    assert chosen.tolist() == [
        slow_choice(row.astype(np.float64), float(x), temperature, top_k, top_p)
        for row, x in zip(logits, u, strict=True)
    ]


def test_a_draw_at_a_boundary_takes_the_id_above_it() -> None:
    """Id i is drawn by numbers from the sum of the probabilities before it, so never an id of probability 0."""
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(4, 5)
    u = torch.tensor([0.0, 0.5 - 2**-24, 0.5, 1 - 2**-24], dtype=torch.float64)
    assert choose(logits, u, 1.0).tolist() == [1, 1, 3, 3]
    assert choose(logits, u, 1.0, top_k=5).tolist() == choose(logits, u, 1.0, top_p=1.0).tolist() == [1, 1, 3, 3]


def test_the_nucleus_ends_where_it_reaches_the_probability() -> None:
    u = torch.tensor([1 - 2**-24], dtype=torch.float64)
    assert choose(torch.zeros(1, 4), u, 1.0, top_p=0.5).tolist() == [1]  # a quarter each
    assert choose(torch.zeros(1, 4), u, 1.0, top_p=0.5 + 2**-20).tolist() == [2]


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(20_000, 4)
    u = torch.from_numpy(np.random.default_rng(1).random(20_000))
    counts = choose(logits, u, 0.8).bincount(minlength=4) / 20_000
    torch.testing.assert_close(counts, (logits[0] / 0.8).softmax(0), atol=0.012, rtol=0)
    assert choose(logits, u, 0).unique().tolist() == [2]
    assert set(choose(logits, u, 1.0, top_k=2).tolist()) == {0, 2}


def test_tiny_temperatures_stay_finite() -> None:
    logits, u = torch.tensor([[3.0, 2.0, -50.0]]), torch.tensor([0.9], dtype=torch.float64)
    assert choose(logits, u, 1e-6).tolist() == [0]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shapes of the ids that the transformer reads."""
    shapes, forward = [], Transformer.forward

    def watched(self: Transformer, ids: Tensor, *rest: object, **more: object) -> Tensor:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, *rest, **more)

    monkeypatch.setattr(Transformer, "forward", watched)
    return shapes


def test_rows_that_end_leave_the_batch(read: list[tuple[int, ...]]) -> None:
    steps = []
    rows = run([prompt("x", "fsq", (8, 8 * n)) for n in (1, 3, 3, 6)], progress=steps.append)
    assert [len(row) for row in rows] == [1, 3, 3, 6]
    assert read[1:] == [(3, 1), (3, 1), (1, 1), (1, 1), (1, 1)]
    assert steps == [4, 3, 3, 1, 1, 1]


def test_equal_prompts_are_read_once(read: list[tuple[int, ...]]) -> None:
    run([PROMPTS[0]] * 4, guidance=2.0, unconditional=[NOTHING[0]] * 4)
    assert read[:2] == [(2, len(PROMPTS[0])), (8, 1)]


def test_an_id_without_alternative_is_taken() -> None:
    """Only PAD may follow STOP, and only END may follow the last code of a flexible image."""
    v = vocabulary()
    state = v.read(PROMPTS[1])
    codes = []
    while len(v.kinds[state.kind]) > 1:
        codes.append(int(v.kinds[state.kind][-1]))
        state = state.advance(codes[-1])
    full = torch.cat([PROMPTS[1], torch.tensor(codes)])
    assert run([full, PROMPTS[0]])[0] == v.kinds[state.kind].tolist()


def test_training_mode_comes_back_and_dropout_is_off() -> None:
    torch.manual_seed(0)
    net = Transformer(vocabulary().size, vocabulary().places, 32, 2, 4, 2, dropout=0.5)
    net.load_state_dict(network().state_dict())
    assert run(PROMPTS, net.train()) == run(PROMPTS)
    assert net.training
    with torch.autocast("cpu", torch.bfloat16):
        assert run(PROMPTS, net) == run(PROMPTS)


def test_bfloat16_weights_sample() -> None:
    net = Transformer(**network().config)
    net.load_state_dict(network().state_dict())
    assert [len(row) for row in run(PROMPTS, net.bfloat16(), **GUIDED)][::2] == [12, 4]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"temperature": -0.1}, "temperature must .* got -0.1"),
        ({"temperature": float("nan")}, "temperature must .* got nan"),
        ({"temperature": "hot"}, "temperature must .* got 'hot'"),
        ({"guidance": float("inf"), "unconditional": NOTHING}, "guidance must .* got inf"),
        ({"guidance": -1, "unconditional": NOTHING}, "guidance must .* got -1"),
        ({"guidance": 2.0}, "guidance 2.0 needs an unconditional prompt"),
        ({"guidance": 2.0, "unconditional": NOTHING[:2]}, "4 states do not fit 4 and 2 prompts"),
        ({"guidance": 2.0, "unconditional": [torch.tensor([DOCUMENT])] * 4}, "ends at place 0"),
        ({"top_k": 0}, "top_k must .* got 0"),
        ({"top_k": 2.5}, "top_k must .* got 2.5"),
        ({"top_k": True}, "top_k must .* got True"),
        ({"top_p": 0.0}, "top_p must .* got 0.0"),
        ({"top_p": 1.01}, "top_p must .* got 1.01"),
        ({"max_tokens": 0}, "max_tokens must .* got 0"),
        ({"seed": -1}, "seed must .* got -1"),
        ({"seed": 0.5}, "seed must .* got 0.5"),
    ],
)
def test_values_out_of_range_are_refused(how: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        run(PROMPTS, **how)
    assert one_line(error)


def test_prompts_that_do_not_fit_are_refused() -> None:
    long = prompt("x" * 60)
    with pytest.raises(ValueError, match=f"a prompt of {len(long)} ids leaves no room in a context of 40") as error:
        run([long], network(40))
    assert one_line(error)
    with pytest.raises(ValueError, match="prompts must not be empty"):
        run([])
    with pytest.raises(ValueError, match="ends at place"):
        sample(network(), vocabulary(), [PROMPTS[0]], [vocabulary().start()])


@pytest.mark.parametrize("guided", [False, True])
def test_a_prompt_that_fills_the_context_is_refused(guided: bool) -> None:
    """One more id would have no place to be read from, though it could be drawn."""
    length = len(PROMPTS[0])
    how = only(0) if guided else {}
    with pytest.raises(ValueError, match=f"a prompt of {length} ids leaves no room in a context of {length}"):
        run([PROMPTS[0]], network(length), **how)
    assert run([PROMPTS[0]], network(length + 1), **how) == [run([PROMPTS[0]], **how)[0][:1]]


def test_a_full_context_ends_the_row() -> None:
    net = network(len(PROMPTS[0]) + 5)
    assert run([PROMPTS[0]], net) == [run([PROMPTS[0]])[0][:5]]


def test_damaged_weights_are_refused() -> None:
    net = Transformer(**network().config)
    net.norm.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        run(PROMPTS, net)


def test_states_are_those_of_the_grammar() -> None:
    """`only` restricts the first segment, which the ids do not show."""
    v = vocabulary()
    start: DocumentState = v.start("image")
    rows = sample(network(), v, [torch.tensor([DOCUMENT])] * 8, [start] * 8, seed=0, max_tokens=1)
    assert {row.item() for row in rows} <= {v.header(name, (8, 8))[0].item() for name in ("fsq", "flex")}


def test_any_grammar_works() -> None:
    """Ids are 0 to 4, and 0 ends a row. The state counts ids."""
    kinds = [torch.arange(5), torch.arange(1)]

    class Counting:
        def __init__(self, n: int, over: bool = False) -> None:
            self.kind, self.place, self.stopped = int(over), n, over

        def advance(self, id: int) -> Counting:
            return Counting(min(self.place + 1, 9), id == 0)

    grammar = SimpleNamespace(
        kinds=kinds, stopped=Counting(0, True), states=lambda ids: (None, torch.arange(len(ids)).clamp(max=9))
    )
    torch.manual_seed(0)
    net = Transformer(5, 10, 16, 1, 2, 1, context=64)
    rows = sample(net, grammar, [torch.tensor([1, 2])] * 30, [Counting(1)] * 30, seed=0)
    assert all(row[-1] == 0 or len(row) == 62 for row in rows)
    assert 1 < np.mean([len(row) for row in rows]) < 12


# -- parameters and their defaults --------------------------------------------------------------

IMAGES = {"temperature": 0.5, "image": {"temperature": 0.7, "top_k": 9}, "flex": {"top_k": 3}}


def test_a_call_overrides_defaults_and_the_narrower_default_the_wider() -> None:
    plain = {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": None, "best_of": 1}
    assert resolve({}, {}, ()) == plain
    assert resolve({}, IMAGES, ("audio", "rvq")) == plain | {"temperature": 0.5}
    assert resolve({}, IMAGES, ("image", "fsq")) == plain | {"temperature": 0.7, "top_k": 9}
    assert resolve({"top_p": 0.9, "temperature": None}, IMAGES, ("image", "flex")) == plain | {
        "temperature": 0.7, "top_k": 3, "top_p": 0.9,
    }  # fmt: skip
    assert resolve({"best_of": MAX_BEST_OF, "top_k": 1}, IMAGES, ("image",))["best_of"] == MAX_BEST_OF == 64
    for wrong in ({"heat": 1}, {"best_of": 0}, {"best_of": 65}, {"best_of": True}, {"temperature": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))) as error:
            resolve(wrong, IMAGES, ("image",))
        assert one_line(error)


def test_defaults_of_a_model_are_copied_and_checked() -> None:
    copied = check_defaults(IMAGES, ("image", "flex"))
    assert copied == IMAGES and copied["flex"] is not IMAGES["flex"] and check_defaults({}, ()) == {}
    for wrong, words in (
        (3, "defaults must be a mapping, got 3"),
        ({"image": 0.7}, "defaults.image must be a mapping, got 0.7"),
        ({"heat": 1}, "unknown defaults.heat; known are guidance, temperature, top_k, top_p, best_of, flex, image$"),
        ({"flex": {"image": {}}}, "unknown defaults.image"),
        ({"audio": {"top_k": 3}}, "unknown defaults.audio"),
        ({"top_p": 2}, "top_p must .* got 2"),
        ({"image": {"top_k": 0}}, "top_k must .* got 0"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            check_defaults(wrong, ("image", "flex"))
        assert one_line(error)


def test_check_takes_what_is_in_range() -> None:
    check_ranges(0, 0)
    check_ranges(7.5, 1.2, 1, 1.0, 1, seed=0)
