"""The id space and its grammar: exact inverses, slow references, and decoding of all allowed documents."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.codecs import LINES, one_line, tiny
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import Codec, Codes, CodeSpec, Modality, Target, batches, validate
from tokenloom.models.vocabulary import DOCUMENT, END, PAD, STOP, Channel, DocumentState, Vocabulary


class Pairs(Codec):
    """A codec unlike the shipped ones: two quantizers, lengths that vary, no known bounds."""

    name = "text/pairs"
    spec = CodeSpec(Modality.TEXT, (5, 3), (), 0, None, total=True, ordered=False, causal=False)

    def _decode(self, codes: Codes) -> list[str]:
        return [str(row[:, :n].tolist()) for row, n in zip(codes.indices, codes.lengths.tolist(), strict=True)]


class Dots(Codec):
    """A code of each of several quantizers for every pixel."""

    name = "image/dots"

    def __init__(self, quantizers: int) -> None:
        super().__init__()
        self.spec = CodeSpec(Modality.IMAGE, (2,) * quantizers, (1, 1), 3, None, total=True)


@functools.cache
def vocabulary(longest: int = 4096) -> Vocabulary:
    channels = [
        Channel("letters", codecs.build("text/bytes")),
        Channel("emoji-flex", codecs.load("emoji-flex")),
        Channel("emoji-fsq", codecs.load("emoji-fsq")),
        Channel("digits", codecs.load("digits-rvq"), 3, "delay"),
        Channel("words", tiny("text/bpe")),
        Channel("fsq-delayed", codecs.load("emoji-fsq"), pattern="delay"),
    ]
    return Vocabulary(channels, longest)


def random_codes(channel: Channel, size: tuple[int, ...], length: int, seed: int = 0) -> Codes:
    """Return random codes of a signal of this size, as a batch of one."""
    part = next(p for p in vocabulary().layouts if p.channel is channel)
    spec, numbers = channel.codec.spec, torch.Generator().manual_seed(seed)
    grid = spec.grid(size) if spec.stride else (length,)
    books = [torch.randint(n, grid, generator=numbers) for n in spec.codebook_sizes[: part.quantizers]]
    indices, lengths = torch.stack(books)[None], None if spec.stride else torch.tensor([length])
    if spec.modality is Modality.TEXT:
        (text,) = channel.codec.decode(Codes(indices, torch.tensor([[length]]), lengths))
        size = (length if spec.codebook_sizes == (256,) else len(text.encode()),)
    return Codes(indices, torch.tensor([size]), lengths)


def document(*segments: Tensor) -> Tensor:
    return torch.cat([torch.tensor([DOCUMENT]), *segments, torch.tensor([STOP])])


def segment(name: str, size: tuple[int, ...], length: int, seed: int = 0) -> Tensor:
    (ids,) = vocabulary().segment(name, random_codes(vocabulary().channels[name], size, length, seed))
    return ids


def same(a: Codes, b: Codes) -> bool:
    lengths = a.lengths is b.lengths if a.lengths is None or b.lengths is None else torch.equal(a.lengths, b.lengths)
    return torch.equal(a.indices, b.indices) and torch.equal(a.sizes, b.sizes) and lengths


def some_document() -> Tensor:
    """Return one segment of every channel."""
    sizes = {"letters": ((), 5), "emoji-flex": ((70, 60), 20), "emoji-fsq": ((17, 30), 0), "digits": ((1000,), 0),
             "words": ((), 4), "fsq-delayed": ((9, 16), 0)}  # fmt: skip
    return document(*(segment(name, *size) for name, size in sizes.items()))


# -- ids --------------------------------------------------------------------------------------------


def test_ranges_tile_the_ids_exactly() -> None:
    """Every id below `size` has exactly one meaning, so no embedding row is unused."""
    v = vocabulary()
    sizes = [n for c in v.channels.values() for n in c.codec.spec.codebook_sizes[: 3 if c.name == "digits" else None]]
    assert v.size == 4 + 6 + 256 + sum(sizes)
    meanings = [v.describe(id) for id in range(v.size)]
    assert len(set(meanings)) == v.size
    assert meanings[:5] == ["PAD", "DOCUMENT", "STOP", "END", "BEGIN letters"]
    ranges = [v.range(name, q) for name in v.channels for q in range(len(v.channels[name].codec.spec.codebook_sizes))
              if (name, q) not in {("digits", q) for q in (3, 4, 5)}]  # fmt: skip
    assert [len(r) for r in ranges] == sizes
    assert list(itertools.chain(*ranges)) == list(range(4 + 6 + 256, v.size))
    reachable = torch.cat(v.kinds).unique()
    assert torch.equal(reachable, torch.tensor([i for i in range(v.size) if i != DOCUMENT]))
    with pytest.raises(ValueError, match=f"must be 0 to {v.size - 1}, got {v.size}"):
        v.describe(v.size)


def test_a_segment_written_out_by_hand() -> None:
    v = vocabulary()
    (ids,) = v.segment("letters", codecs.build("text/bytes").encode(["hé"]))
    first = v.range("letters", 0).start
    assert ids.tolist() == [v.begin, first + ord("h"), first + 0xC3, first + 0xA9, END]

    codes = random_codes(v.channels["emoji-fsq"], (17, 130), 0)
    (ids,) = v.segment("emoji-fsq", codes)
    rows = [v.range("emoji-fsq", q).start + int(codes.indices[0, q, y, x])
            for y in range(3) for x in range(17) for q in range(5)]  # fmt: skip
    digit = 4 + 6
    assert ids.tolist() == [v.begin + 2, digit + 17, digit + 129, digit + 2, *rows]

    codes = random_codes(v.channels["digits"], (481,), 0)
    (ids,) = v.segment("digits", codes)
    turns = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (3, 1), (2, 2), (3, 2)]
    rows = [v.range("digits", q).start + int(codes.indices[0, q, t]) for t, q in turns]
    assert ids.tolist() == [v.begin + 3, digit + 128 + 3, digit + 97, *rows]


def test_kinds_are_few_ascending_and_what_the_mask_says() -> None:
    v = vocabulary()
    assert len(v.kinds) < 300
    for ids in v.kinds:
        assert ids.dtype == torch.int64 and len(ids) and bool((ids.diff() > 0).all())
    state = v.start()
    for id in some_document()[1:].tolist():
        assert torch.equal(v.mask(state).nonzero()[:, 0], v.kinds[state.kind])
        state = state.advance(id)
    assert state.stopped and not state.between_segments and v.kinds[state.kind].tolist() == [PAD]
    assert state.advance(PAD).advance(PAD) == v.stopped
    plain = Vocabulary([Channel("bytes", codecs.build("text/bytes"))])
    start, code = [plain.begin], list(plain.range("bytes", 0))
    kinds = [
        [STOP, *start],
        [PAD],
        [END],
        code,
        [END, *code],
        start,
    ]  # no digits, since a text has no size in its header
    assert sorted(ids.tolist() for ids in plain.kinds) == sorted(kinds)


# -- exact inverses -----------------------------------------------------------------------------------

SEGMENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["letters", "words"]), st.just(()), st.integers(0, 40)),
        st.tuples(st.just("emoji-flex"), st.tuples(st.integers(1, 64), st.integers(1, 64)), st.integers(1, 64)),
        st.tuples(st.sampled_from(["emoji-fsq", "fsq-delayed"]), st.tuples(*[st.integers(1, 150)] * 2), st.just(0)),
        st.tuples(st.just("digits"), st.tuples(st.integers(1, 20000)), st.just(0)),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(SEGMENTS, st.integers(0, 99))
def test_parse_is_the_inverse_and_states_are_the_slow_walk(segments: list, seed: int) -> None:
    v = vocabulary()
    codes = [random_codes(v.channels[name], size, length, seed) for name, size, length in segments]
    rows = [v.segment(name, item)[0] for (name, _, _), item in zip(segments, codes, strict=True)]
    ids = document(*rows)
    parsed = v.parse(ids)
    assert [name for name, _ in parsed] == [name for name, _, _ in segments]
    assert all(same(a, b) for (_, a), b in zip(parsed, codes, strict=True))

    kinds, places = v.states(ids)
    state, slow = v.start(), []
    for id in ids[1:].tolist():
        slow.append((state.kind, state.place))
        state = state.advance(id)
    slow.append((state.kind, state.place))
    assert kinds.dtype == places.dtype == torch.int64
    assert list(zip(kinds.tolist(), places.tolist(), strict=True)) == slow
    assert v.read(ids) == state and hash(v.read(ids)) == hash(state)


def test_codes_of_real_signals_come_back() -> None:
    v = vocabulary()
    picture = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wave = torch.rand(3, 1, 3000, generator=torch.Generator().manual_seed(1)) - 0.5
    texts = ["", "naïve café 👋🏿", LINES[0]]
    for name, x in (("letters", texts), ("words", texts), ("emoji-flex", picture), ("emoji-fsq", picture),
                    ("digits", wave)):  # fmt: skip
        codes = v.channels[name].encode(x)
        for item, ids in enumerate(v.segment(name, codes)):
            ((found, back),) = v.parse(document(ids))
            wanted = codes[item]
            if wanted.lengths is not None:
                wanted = Codes(wanted.indices[:, :, : int(wanted.lengths)], wanted.sizes, wanted.lengths)
            assert found == name and same(back, wanted)
            if isinstance(x, list):
                assert v.channels[name].codec.decode(back) == [x[item]]


def test_a_batch_of_unequal_sizes_is_cropped() -> None:
    v, name = vocabulary(), "emoji-fsq"
    alone = [random_codes(v.channels[name], size, 0) for size in ((64, 64), (9, 80), (33, 1))]
    for ids, one in zip(v.segment(name, batches.collate(alone)), alone, strict=True):
        assert torch.equal(ids, v.segment(name, one)[0])


@pytest.mark.parametrize(("size", "tiles"), [((64, 64), 1), ((65, 3), 2), ((200, 130), 12)])
def test_end_may_come_within_the_span_and_must_at_its_end(size: tuple[int, int], tiles: int) -> None:
    v = vocabulary()
    state = v.read(torch.cat([torch.tensor([DOCUMENT]), v.header("emoji-flex", size)]))
    code = v.range("emoji-flex", 0).start
    for count in range(tiles * 64):
        assert v.allows(state.kind, code) and v.allows(state.kind, END) == (count >= tiles)
        state = state.advance(code)
    assert v.kinds[state.kind].tolist() == [END] and state.advance(END).between_segments


def test_two_quantizers_of_varying_length_end_at_whole_positions() -> None:
    v = Vocabulary([Channel("pairs", Pairs())])
    codes = Codes(torch.tensor([[[4, 0, 1], [2, 1, 0]]]), torch.tensor([[3]]), torch.tensor([3]))
    (ids,) = v.segment("pairs", codes)
    assert [v.describe(i).split(" of ")[0] for i in ids[1:].tolist()] == [
        "code 4", "code 2", "code 0", "code 1", "code 1", "code 0", "END",
    ]  # fmt: skip
    ((_, back),) = v.parse(document(ids))
    assert torch.equal(back.indices, codes.indices) and back.lengths.tolist() == [3]
    may_end = [END in v.kinds[kind] for kind in v.states(document(ids))[0][1:-2].tolist()]
    assert may_end == [True, False, True, False, True, False, True]


# -- whatever is allowed decodes ----------------------------------------------------------------------


def sampled(v: Vocabulary, rng: random.Random, segments: int | None = None) -> Tensor:
    """Return a document of random allowed ids, with STOP after so many segments."""
    ids, state, closed = [DOCUMENT], v.start(), 0
    while not state.stopped:
        allowed = v.kinds[state.kind]
        ids.append(STOP if closed == segments else int(allowed[rng.randrange(len(allowed))]))
        state = state.advance(ids[-1])
        closed += state.between_segments
    return torch.tensor(ids)


def test_1000_of_1000_random_sequences_parse_and_decode() -> None:
    """The grammar keeps signals small, because `longest` is small."""
    v, rng = vocabulary(longest=80), random.Random(0)
    found = [v.parse(sampled(v, rng, segments=1)) for _ in range(1000)]
    for name, channel in v.channels.items():
        items = [codes for document in found for at, codes in document if at == name]
        assert len(items) > 100
        items.sort(key=lambda codes: (codes.sizes[0] / 64).ceil().tolist() + codes.sizes[0].tolist())
        for start in range(0, len(items), 16):
            codes = batches.collate(items[start : start + 16])
            signals = channel.codec.decode(codes)
            assert len(signals) == len(codes)
            if isinstance(signals, Tensor):
                assert signals.isfinite().all() and list(signals.shape[2:]) == codes.sizes.amax(0).tolist()
    assert sum(map(len, found)) + sum(not document for document in found) == 1000


def test_random_interleaved_documents_come_back_id_for_id() -> None:
    v, rng = vocabulary(longest=80), random.Random(1)
    for _ in range(50):
        ids = sampled(v, rng)
        assert torch.equal(ids, document(*(v.segment(name, codes)[0] for name, codes in v.parse(ids))))


def allowed_sizes(v: Vocabulary, state: DocumentState) -> list[tuple[int, ...]]:
    """Return every size that the digits of a header allow."""
    if not state.reads_size:
        return [state.sizes]
    return [size for id in v.kinds[state.kind].tolist() for size in allowed_sizes(v, state.advance(id))]


def test_a_header_offers_the_sizes_that_fit_and_no_others() -> None:
    """The reference tries every size. Each size has one spelling only."""
    v = vocabulary(longest=150)  # room for 140 codes of a picture, 144 of a sound
    cost = {
        "emoji-flex": lambda size: 64 * -(-size[0] // 64) * -(-size[1] // 64),
        "emoji-fsq": lambda size: 5 * -(-size[0] // 8) * -(-size[1] // 8),
        "digits": lambda size: 3 * -(-size[0] // 160),
    }
    for part in v.layouts:
        if codes := cost.get(part.channel.name):
            reach = range(1, 10_000) if part.axes == 1 else range(1, 300)
            fits = {size for size in itertools.product(reach, repeat=part.axes) if codes(size) <= 148 - 4 * part.axes}
            offered = allowed_sizes(v, v.in_header(part))
            assert len(offered) == len(set(offered)) and set(offered) == fits


# -- documents that are cut off, or wrong ---------------------------------------------------------------


def test_cut_off_anywhere() -> None:
    """Every prefix has the states of the whole document, and parses to its complete segments."""
    v, ids = vocabulary(), some_document()
    kinds, places = v.states(ids)
    whole = v.parse(ids)
    ends = torch.tensor([len(v.segment(name, codes)[0]) for name, codes in whole]).cumsum(0) + 1
    for n in range(1, len(ids) + 1):
        some = v.states(ids[:n])
        assert torch.equal(some[0], kinds[:n]) and torch.equal(some[1], places[:n])
        found = v.parse(ids[:n])
        assert len(found) == int((ends <= n).sum())
        assert all(same(a, b) for (_, a), (_, b) in zip(found, whole, strict=False))
    assert len(v.parse(torch.cat([ids, torch.tensor([PAD, PAD])]))) == len(whole)


def test_one_id_too_many_or_too_few_is_noticed() -> None:
    """A header fixes the number of codes, so a shift breaks the grammar."""
    v = vocabulary()
    for name, size in (("emoji-fsq", (20, 9)), ("fsq-delayed", (20, 9)), ("digits", (700,))):
        ids = document(segment(name, size, 0), segment("letters", (), 3))
        body = range(1, len(ids) - 6)
        for at in body:
            for wrong in (torch.cat([ids[:at], ids[at + 1 :]]), torch.cat([ids[:at], ids[at - 1 : at], ids[at:]])):
                with pytest.raises(ValueError, match=r"id \d+ .*may not come at \d+; \d+ may: ") as error:
                    v.parse(wrong)
                assert one_line(error)
                with pytest.raises(ValueError, match="may not come at"):
                    v.states(wrong)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_is_refused_or_parses_to_what_it_says(data: st.DataObject) -> None:
    """Damage raises ValueError or parses. What parses is allowed, id by id."""
    v, ids = vocabulary(), some_document()
    at = data.draw(st.integers(0, len(ids) - 1))
    ids[at] = data.draw(st.one_of(st.integers(-1, v.digit + 300), st.integers(0, v.size)))
    try:
        state = v.start()
        if ids[0] != DOCUMENT:
            raise ValueError("no document")
        for id in ids[1:].tolist():
            state = state.advance(id)
    except ValueError:
        with pytest.raises(ValueError) as error:
            v.parse(ids)
        assert one_line(error)
        return
    parts = [v.segment(name, codes)[0] for name, codes in v.parse(ids)]
    joined = torch.cat([torch.tensor([DOCUMENT]), *parts])
    assert torch.equal(ids[: len(joined)], joined) and len(joined) >= len(ids) - 1 - v.longest


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (torch.tensor([STOP]), "must begin with DOCUMENT"),
        (torch.tensor([], dtype=torch.int64), "must begin with DOCUMENT"),
        (torch.tensor([[DOCUMENT]]), "one axis"),
        (torch.tensor([1.0]), "int64"),
        ([DOCUMENT], "got list"),
        (torch.tensor([DOCUMENT, DOCUMENT]), "DOCUMENT.* may not come at 1"),
        (torch.tensor([DOCUMENT, PAD]), "PAD.* may not come at 1"),
        (torch.tensor([DOCUMENT, END, END]), "END.* may not come at 1"),
        (torch.tensor([DOCUMENT, STOP, STOP]), "STOP.* may not come at 2"),
        (torch.tensor([DOCUMENT, STOP, DOCUMENT]), "DOCUMENT.* may not come at 2"),
        (torch.tensor([DOCUMENT, 10**9]), "an id must be 0 to .*, got 1000000000"),
        (torch.tensor([DOCUMENT, 6, 10 + 0]), "size digit 0.* may not come at 2"),
        (torch.tensor([DOCUMENT, 6, 10 + 128]), "size digit 128.* may not come at 2"),
    ],
)
def test_invalid_documents_are_refused(ids: Tensor, told: str) -> None:
    for read in (vocabulary().parse, vocabulary().states):
        with pytest.raises(ValueError, match=told) as error:
            read(ids)
        assert one_line(error)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    v = vocabulary()
    for id in (-1, v.size):
        with pytest.raises(ValueError, match=f"an id must be 0 to {v.size - 1}, got {id}"):
            v.parse(torch.tensor([DOCUMENT, id]))
        assert not any(v.allows(kind, id) for kind in range(len(v.kinds)))


# -- states, places, channels -----------------------------------------------------------------------------


def test_places_are_contiguous_per_channel_and_zero_between() -> None:
    v, ids = vocabulary(), some_document()
    _, places = v.states(ids)
    assert int(places.min()) == 0 and int(places.max()) < v.places
    state, owners = v.start(), {}
    for id, place in zip([*ids[1:].tolist(), None], places.tolist(), strict=True):
        assert (place == 0) == (state.between_segments or state.stopped)
        if place:
            owners.setdefault(state.channel.name, []).append(place)
        state = state if id is None else state.advance(id)
    assert list(owners) == list(v.channels)
    spans = [(min(own), max(own)) for own in owners.values()]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    body = owners["letters"]
    assert body == list(range(body[0], body[0] + len(body)))


def test_places_by_hand_do_not_depend_on_how_many_digits_a_size_has() -> None:
    v = vocabulary()
    first = 1 + (512 + 1) + (8 + 512 + 1)  # behind those of letters and emoji-flex
    for size, digits in (((9, 9), [0, 4]), ((200, 9), [0, 1, 4]), ((9, 200), [0, 4, 5]), ((200, 200), [0, 1, 4, 5])):
        ids = document(segment("emoji-fsq", size, 0))[: 2 + len(digits) + 19]
        assert (v.states(ids)[1] - first).tolist() == [-first, *digits, *range(8, 8 + 20)]


def test_places_of_a_long_segment_still_tell_the_quantizer() -> None:
    v = vocabulary()
    ids = document(segment("digits", (100_000,), 0))
    kinds, places = v.states(ids)
    late = places[3 + 600 : -2]
    assert len(late.unique()) == 3 and int(places.max()) < v.places
    assert len(torch.stack([kinds[3 + 600 : -2], late], 1).unique(dim=0)) == 3


@pytest.mark.parametrize(("longest", "own"), [(64, 63), (512, 511), (514, 512), (4096, 512)])
def test_the_first_codes_have_places_of_their_own(longest: int, own: int) -> None:
    """There are 512, or one for each code of the longest segment and one for END behind them."""
    v = Vocabulary([Channel("bytes", codecs.build("text/bytes"))], longest)
    room = longest - 2  # without BEGIN and END
    ids = torch.tensor([DOCUMENT, v.begin, *[v.range("bytes", 0)[7]] * room, END, STOP])
    expected = [0, *(1 + min(i, own) for i in range(room + 1)), 0, 0]
    assert v.states(ids)[1].tolist() == expected and v.places == 1 + own + 1


def test_later_codes_share_a_place_per_quantizer() -> None:
    v = vocabulary()
    ids = document(segment("digits", (100_000,), 0))
    places, count = v.states(ids)[1][4:-2], len(ids) - 6  # behind DOCUMENT, BEGIN and three digits, before STOP
    steps = count // 3
    delayed = [q for t in range(steps + 2) for q in range(3) if 0 <= t - q < steps]
    first = int(places[0])
    assert places.tolist() == [first + (i if i < 512 else 512 + q) for i, q in enumerate(delayed)]


def test_a_state_is_a_value() -> None:
    """Equal documents have equal states, also if the vocabulary has forgotten what it computed for the first."""
    v, ids = vocabulary(), some_document()
    for cut in range(1, len(ids), 3):
        a = v.read(ids[:cut])
        v._bodies.clear()
        b = v.read(ids[:cut])
        assert a == b and hash(a) == hash(b) and repr(a) == repr(b) and len(repr(a)) < 100
    assert v.read(ids[:2]) != v.read(ids[:3])
    for between in (v.start(), v.start("image"), v.stopped, v.in_header(v.layouts[1])):
        assert between.sizes == () and between.prefix == between.digits == between.count == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        b.kind = 0


def test_few_bodies_of_segments_are_kept() -> None:
    v, kept = Vocabulary([Channel("fsq", tiny("image/fsq"))]), []
    for height in range(1, 300):
        v.in_header(v.layouts[0], (height, 1))
        kept.append(len(v._bodies))
    assert kept == [*range(1, 257), *range(1, 44)]


def test_start_with_one_channel_only() -> None:
    v = vocabulary()
    begin = {name: v.begin + i for i, name in enumerate(v.channels)}
    assert v.kinds[v.start().kind].tolist() == [STOP, *begin.values()]
    assert v.kinds[v.start("digits").kind].tolist() == [begin["digits"]]
    assert v.kinds[v.start("image").kind].tolist() == [begin[n] for n in ("emoji-flex", "emoji-fsq", "fsq-delayed")]
    assert {v.start(only).place for only in (None, "image", "digits")} == {0}
    assert v.start("image").between_segments and v.start("text").advance(begin["words"]).channel.name == "words"
    with pytest.raises(ValueError, match=r"STOP.* may not come; 1 may: BEGIN digits"):
        v.start("digits").advance(STOP)
    for id in (-1, v.size):
        with pytest.raises(ValueError) as error:
            v.start().advance(id)
        told = "7 may: STOP, BEGIN letters, BEGIN emoji-flex, …"
        assert str(error.value) == f"id {id}, which is not 0 to {v.size - 1}, may not come; {told}"


def test_header_is_how_a_segment_begins() -> None:
    v, ids = vocabulary(), segment("emoji-fsq", (200, 9), 0)
    head = v.header("emoji-fsq", (200, 9))
    assert torch.equal(ids[: len(head)], head)
    assert v.header("words").tolist() == [v.begin + 4]
    with pytest.raises(ValueError, match="has 2 sizes"):
        v.header("emoji-fsq")
    with pytest.raises(ValueError, match="a size of emoji-fsq must be at least 1, got 0"):
        v.header("emoji-fsq", (9, 0))


def test_channels_by_name_and_modality() -> None:
    v = vocabulary()
    assert v.channel("words").name == "words" and v.channel("image").name == "emoji-flex"
    assert v.channel("audio").name == "digits"
    for call in (v.channel, v.start):
        with pytest.raises(ValueError, match=r"'video'; the vocabulary has letters \(text\), .*digits \(audio\)"):
            call("video")
    assert v.fingerprints["emoji-fsq"] == codecs.load("emoji-fsq").fingerprint.hex()
    assert list(v.fingerprints) == list(v.channels)
    for quantizer in (3, -1):
        with pytest.raises(ValueError, match=f"quantizers 0 to 2, got {quantizer}"):
            v.range("digits", quantizer)


def test_two_vocabularies_of_the_same_channels_agree() -> None:
    a, b = vocabulary(), Vocabulary(list(vocabulary().channels.values()))
    assert (a.size, a.places, len(a.kinds)) == (b.size, b.places, len(b.kinds))
    assert all(torch.equal(x, y) for x, y in zip(a.kinds, b.kinds, strict=True))


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        (lambda: [], "at least one channel"),
        (lambda: [Channel("a", tiny("image/jpeg"))], r"a \(image/jpeg\) cannot enter .*spec.total"),
        (lambda: [Channel("a", tiny("audio/opus"))], r"a \(audio/opus\) cannot enter .*spec.total"),
        (lambda: [Channel("a", tiny("image/ntc"))], r"a \(image/ntc\) cannot enter .*side information"),
        (lambda: [Channel("a", tiny("text/bytes")), Channel("a", tiny("text/bpe"))], "must be unique, got 'a' twice"),
        (
            lambda: [Channel("a", tiny("image/fsq"), pattern="zigzag")],
            "of a must be one of raster, delay, got 'zigzag'",
        ),
        (lambda: [Channel("a", tiny("image/flex"), pattern="delay")], "must be raster because its lengths vary"),
        (lambda: [Channel("a", tiny("audio/rvq"), 4)], "quantizers of audio/rvq must be one of"),
        (lambda: [Channel("a", tiny("image/fsq"), 4)], "image/fsq has no setting, so setting must be None, got 4"),
        (lambda: [Channel("a", tiny("audio/rvq"), Target(kbps=6))], "each item has its own number of quantizers"),
        (lambda: [Channel("a", "image/fsq")], "needs a codec, got str"),
    ],
)
def test_channels_that_cannot_enter(channels, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        Vocabulary(channels())
    assert one_line(error)


def test_longest_is_checked() -> None:
    text, flex = Channel("a", codecs.build("text/bytes")), Channel("a", codecs.load("emoji-flex"))
    for channel, longest, told in (
        (text, 15, r"an integer from 16 to 2\*\*24, got 15"), (text, 2**24 + 1, "an integer from 16"),
        (text, "80", "an integer from 16"), (text, 80.0, "an integer from 16"), (flex, 40, "a needs more than 40 ids"),
        (Channel("a", Dots(7)), 16, "a needs more than 16 ids for its smallest signal"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            Vocabulary([channel], longest)
    assert [Vocabulary([text], longest).longest for longest in (16, 2**24)] == [16, 2**24]
    assert Vocabulary([text]).longest == 4096


def test_the_smallest_picture_may_fill_a_segment() -> None:
    """BEGIN, 8 digits, 6 codes and END are 16 ids."""
    v = Vocabulary([Channel("dots", Dots(6))], 16)
    assert allowed_sizes(v, v.in_header(v.layouts[0])) == [(1, 1)] and v.layouts[0].room == 6
    for size, axis in (((1, 2), 1), ((2, 1), 0)):
        with pytest.raises(
            ValueError, match=f"takes 12 codes; one segment has room for 6, .* 1 samples along axis {axis}"
        ):
            v.header("dots", size)


def test_sizes_are_bounded_by_their_digits_and_by_the_largest_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = Vocabulary([Channel("digits", codecs.load("digits-rvq"), 3)], 2**24).layouts[0]
    assert sounds.largest(()) == 2**28 - 1  # four digits of 7 bits
    monkeypatch.setattr(validate, "MAX_PIXELS", 600)
    pictures = Vocabulary([Channel("fsq", tiny("image/fsq"))]).layouts[0]
    assert [pictures.largest(sizes) for sizes in ((), (1,), (20,), (601,))] == [600, 600, 30, 0]


def test_a_target_may_be_the_setting_where_lengths_vary() -> None:
    v = Vocabulary([Channel("a", tiny("image/flex"), Target(slope=0.01))])
    picture = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    codes = v.channels["a"].encode(picture)
    for item, ids in enumerate(v.segment("a", codes)):
        assert len(ids) == 1 + 2 + int(codes.lengths[item]) + 1


def test_codes_that_do_not_fit_are_refused() -> None:
    v = vocabulary()
    letters, fsq, digits = (v.channels[name] for name in ("letters", "emoji-fsq", "digits"))
    all_six = digits.codec.encode(torch.zeros(1, 1, 500), 6)
    mixed = Codes(torch.tensor([[[1], [2], [-1]]]), torch.tensor([[100]]))
    for name, codes, told in (
        ("digits", all_six, "has 3 quantizers, got 6; encode with setting=3"),
        ("digits", mixed, "has 3 quantizers, got 2"),
        ("digits", random_codes(fsq, (8, 8), 0), "indices of .* must be"),
        ("letters", random_codes(letters, (), 4095), "at most 4094 codes, got 4095"),
        ("emoji-fsq", random_codes(fsq, (500, 500), 0), "takes 19845 codes; one segment has room for 4086, which is"),
        ("video", all_six, "unknown channel or modality 'video'"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            v.segment(name, codes)
        assert one_line(error)
    assert len(v.segment("letters", random_codes(letters, (), 4094))[0]) == v.longest
