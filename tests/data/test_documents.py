"""Documents and their kinds, copies of signals, and the generator of words."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.codecs import one_line, tiny
from support.packs import TONES, png, write_packs, write_tar

from tokenloom import data
from tokenloom.codecs import validate
from tokenloom.codecs.types import Modality
from tokenloom.data import variants
from tokenloom.data.documents.documents import Documents
from tokenloom.data.documents.emoji import split_tone
from tokenloom.data.documents.kind import copy_suffix
from tokenloom.data.documents.kinds import DIGITS
from tokenloom.data.sources import words

SOURCES = {
    "emoji": {"name": "tar", "path": "emoji.tar"},
    "digits": {"name": "tar", "path": "digits.tar"},
    "words": {"name": "words", "count": 12, "size": 32},
}


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def documents(packs):
    """Return a function that opens documents of given kinds, with 6 copies of images and 3 of sounds."""

    def make(*kinds: dict, dropout: float = 0.0, **options) -> Documents:
        options = {"sources": SOURCES, "copies": {"image": 6, "audio": 3}, "folder": str(packs), **options}
        return Documents(kinds=list(kinds), dropout=dropout, **options)

    return make


EVERY = (
    {"kind": "caption", "source": "emoji", "aliases": {"keycap 7": ["seven", "7"]}},
    {"kind": "caption", "source": "digits"},
    {"kind": "edit", "source": "emoji"}, {"kind": "analogy", "source": "emoji"}, {"kind": "series", "source": "emoji"},
    {"kind": "sum", "source": "digits"}, {"kind": "sum", "source": "emoji", "named": "keycap {digit}"},
)  # fmt: skip


def drawn(some: Documents, count: int = 300, seed: int = 0) -> list[list]:
    return [some.draw(seed, g) for g in range(count)]


# -- drawing ------------------------------------------------------------------------------------


def test_a_document_is_a_pure_function_of_seed_and_number(documents):
    a, b = documents(*EVERY, dropout=0.2), documents(*EVERY, dropout=0.2)
    first = drawn(a)
    assert [b.draw(0, g) for g in reversed(range(300))] == first[::-1]
    other = drawn(a, seed=1)
    assert sum(x == y for x, y in zip(first, other, strict=True)) < 30
    assert len({repr(parts) for parts in first}) > 150


def test_shares(documents):
    some = documents(
        {"kind": "caption", "source": "emoji", "share": 3}, {"kind": "caption", "source": "digits"},
        {"kind": "caption", "source": "words", "share": 0.5},
    )  # fmt: skip
    found = Counter(part.source for parts in drawn(some, 1800) for part in parts if part.source)
    for source, share in (("emoji", 3 / 4.5), ("digits", 1 / 4.5), ("words", 0.5 / 4.5)):
        assert found[source] / 1800 == pytest.approx(share, abs=0.05)


def test_dropout_keeps_the_last_part_alone_and_asks_for_it(documents):
    whole, last, some = (drawn(documents(*EVERY, dropout=share), 500) for share in (0.0, 1.0, 0.3))
    for before, after in zip(whole, last, strict=True):
        (part,) = after
        assert part.given is False and part == type(part)(**{**vars(before[-1]), "given": False})
    assert all(a in (b, c) for a, b, c in zip(some, whole, last, strict=True))
    dropped = sum(a != b for a, b in zip(some, whole, strict=True))
    assert dropped / 500 == pytest.approx(0.3, abs=0.08)


def test_uses_are_the_most_copies_that_any_kind_takes(documents):
    some = documents(
        {"kind": "caption", "source": "emoji", "copies": 2}, {"kind": "edit", "source": "emoji"},
        {"kind": "caption", "source": "emoji", "channel": "flexible", "copies": 1}, {"kind": "sum", "source": "digits"},
    )  # fmt: skip
    assert some.uses == {("emoji", None): 6, ("emoji", "flexible"): 1, ("digits", None): 3}
    for part in (part for parts in drawn(some) for part in parts if part.source):
        assert 0 <= part.copy < some.uses[part.source, part.channel]


# -- kinds --------------------------------------------------------------------------------------


@pytest.fixture
def styled(packs) -> dict[str, dict]:
    """Write pictures in two other styles, one of a name that `emoji` lacks, and return the sources."""
    files = {}
    for n, (name, style) in enumerate(
        [("red heart", "flat"), ("red heart", "round"), ("waving hand", "flat"), ("a, b", "flat"), ("a, b", "round")]
    ):
        files |= {f"{n}.png": png(np.full((32, 32, 3), n / 9)), f"{n}.txt": name.encode()}
        files[f"{n}.json"] = f'{{"style": "{style}"}}'.encode()
    write_tar(packs / "styled.tar", files)
    return SOURCES | {"styled": {"name": "tar", "path": "styled.tar", "caption": "{caption}, {style}"}}


@pytest.mark.parametrize("plain", [None, "emoji"])
def test_styles(documents, styled, plain):
    some = documents({"kind": "style", "source": "styled", "plain": plain, "original": 0.4}, sources=styled)
    assert some.library["styled"].captions[3] == "a, b, flat"
    assert some.uses == {("styled", None): 6} | ({("emoji", None): 6} if plain else {})
    seen = Counter()
    for parts in drawn(some, 400):
        *before, image, instruction, result = parts
        assert image.given and instruction.given and not result.given and image.copy == result.copy
        (a, first), (b, second) = (
            (name, style) if part.source == "styled" else (some.library["emoji"].captions[part.item], "noto")
            for part in (image, result)
            for name, _, style in [some.library[part.source].captions[part.item].rpartition(", ")]
        )
        assert a == b and first != second and instruction.text == f"draw it as {second}"
        if before:
            caption = some.library[image.source].captions[image.item]
            assert before[0].text == caption + copy_suffix(image.modality, image.copy) and before[0].given
        seen.update([(a, first, second), bool(before)])
    names = {"red heart", "a, b"} | ({"waving hand"} if plain else set())
    assert {name for name, *_ in (key for key in seen if isinstance(key, tuple))} == names
    pairs = 2 + 2 + (4 + 2 if plain else 0)  # ordered pairs of two styles, of three, and of two with the plain one
    assert len([key for key in seen if isinstance(key, tuple)]) == pairs and 150 < seen[True] < 250


def test_styles_that_are_not_there_are_refused(documents, styled):
    for options, reason in (
        ({"source": "emoji"}, "must be `name, style`, got"),
        ({"source": "styled", "plain": "none"}, "plain must be one of"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=reason) as error:
            documents({"kind": "style", **options}, sources=styled)
        assert one_line(error)


def test_templates_of_captions(packs, styled):
    source = data.open_source(name="tar", path=str(packs / "styled.tar"), caption="{style}: {caption} {x")
    assert source[0].caption == "flat: red heart {x" and [*source.captions()][4] == "round: a, b {x"
    with pytest.raises(ValueError, match=r"emoji.tar:e00.png: its metadata has no 'style', which data.caption names"):
        data.open_source(name="tar", path=str(packs / "emoji.tar"), caption="{caption}, {style}")[0]


def test_captions_announce_copies_and_name_what_follows(documents):
    aliases = {"keycap 7": ["seven", "7"]}
    some = documents({"kind": "caption", "source": "emoji", "aliases": aliases, "reverse": 0.4, "original": 0.3})
    captions, seen = some.library["emoji"].captions, Counter()
    for first, second in drawn(some, 800):
        assert first.given and not second.given
        if first.modality is Modality.IMAGE:
            assert second.text == captions[first.item]  # captions to write never name a copy
            seen["reverse"] += 1
            continue
        name, *announced = first.text.split(", ")
        assert name in (captions[second.item], *aliases.get(captions[second.item], ()))
        assert announced == ["moved"] * (second.copy > 1) + ["mirrored"] * (second.copy % 2)
        seen.update([name, ("copy", second.copy)])
    assert seen["reverse"] / 800 == pytest.approx(0.4, abs=0.06)
    assert seen["seven"] and seen["7"] and seen["keycap 7"]
    assert all(seen["copy", copy] for copy in range(6)) and seen["copy", 0] / (800 - seen["reverse"]) > 0.3


def test_captions_of_sounds_keep_quiet_about_copies(documents):
    found = drawn(documents({"kind": "caption", "source": "digits", "reverse": 0, "original": 0}))
    assert {text.text for text, _ in found} == set(DIGITS) and {sound.copy for _, sound in found} == {0, 1, 2}
    suffixes = [copy_suffix(Modality.IMAGE, copy) for copy in range(4)]
    assert suffixes == ["", ", mirrored", ", moved", ", moved, mirrored"]


def test_only_some_captions(documents):
    found = drawn(
        documents({"kind": "caption", "source": "emoji", "only": "^keycap [0-4]$", "reverse": 0, "copies": 1})
    )
    assert {text.text for text, _ in found} == {f"keycap {digit}" for digit in range(5)}


def test_edits_keep_copy_and_figure(documents):
    some = documents({"kind": "edit", "source": "emoji"})
    captions, shapes, asked = some.library["emoji"].captions, Counter(), set()
    for parts in drawn(some, 600):
        *before, order, after = parts
        before, shown = before[:-1], before[-1]
        if order.text == "mirror it":
            assert (after.item, after.copy) == (shown.item, shown.copy ^ 1) and not before
        else:
            wanted = re.fullmatch(r"make it (\S+) skin tone", order.text)[1]
            assert after.copy == shown.copy and after.item != shown.item
            assert split_tone(captions[after.item]) == (split_tone(captions[shown.item])[0], wanted)
            asked.add((split_tone(captions[shown.item])[1], wanted))
        assert order.given and not after.given
        if before:
            assert before[0].text == captions[shown.item] + copy_suffix(Modality.IMAGE, shown.copy)
            assert before[0].given and not shown.given  # after its caption, the first image is a target too
        else:
            assert shown.given
        shapes[order.text == "mirror it", bool(before)] += 1
    assert set(shapes) == {(False, False), (False, True), (True, False)}
    assert asked == {(a, b) for a in TONES for b in TONES[1:] if a != b}


def test_analogies(documents):
    some = documents({"kind": "analogy", "source": "emoji"})
    captions = some.library["emoji"].captions
    for parts in drawn(some):
        (a, x), (b, y), (c, z), (d, w) = (split_tone(captions[part.item]) for part in parts)
        assert a == b != c == d and x == z != y == w and y is not None
        assert len({part.copy for part in parts}) == 1 and [p.given for p in parts] == [True, False, False, False]


def test_series(documents):
    some = documents({"kind": "series", "source": "emoji", "count": 3})
    for parts in drawn(some, 50):
        assert [part.text for part in parts[::2]] == [some.library["emoji"].captions[p.item] for p in parts[1::2]]
        assert len(parts) == 6 and not any(part.given for part in parts)


@pytest.mark.parametrize(("source", "named"), [("digits", "{word}"), ("emoji", "keycap {digit}")])
def test_sums_add_up(documents, source, named):
    some = documents({"kind": "sum", "source": source, "named": named})
    captions = some.library[source].captions
    numbers = {named.format(word=word, digit=digit): digit for digit, word in enumerate(DIGITS)}
    shapes = Counter()
    for parts in drawn(some, 400):
        *question, written, spoken = parts
        words = "".join(part.text or DIGITS[numbers[captions[part.item]]] for part in question)
        first, second = (DIGITS.index(word) for word in words.split(" plus "))
        assert written.text == DIGITS[first + second] and numbers[captions[spoken.item]] == first + second
        assert all(part.given for part in question) and not written.given and not spoken.given
        assert not any(a.text and b.text for a, b in itertools.pairwise(question))  # texts are joined
        shapes["".join("t" if part.text else "s" for part in question)] += 1
    assert set(shapes) == {"t", "st", "ts", "sts"}


def test_pictures_and_sounds_never_share_a_document(documents):
    found = Counter(frozenset(part.modality for part in parts) for parts in drawn(documents(*EVERY), 2000))
    assert not any({Modality.IMAGE, Modality.AUDIO} <= modalities for modalities in found)
    assert {Modality.IMAGE, Modality.AUDIO} <= frozenset().union(*found)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("waving hand dark skin tone", ("waving hand", "dark")),
        ("man medium-light skin tone beard", ("man beard", "medium-light")),
        ("man medium skin tone", ("man", "medium")),
        ("dark sky", ("dark sky", None)),
        ("pale skin tone", ("pale skin tone", None)),
        ("", ("", None)),
        ("man dark skin tone and woman light skin tone", None),
        ("two hands dark skin tone dark skin tone", None),
        ("hand very-dark skin tone", ("hand very-dark skin tone", None)),
    ],
)
def test_tones(caption, wanted):
    assert split_tone(caption) == wanted


# -- mistakes of users --------------------------------------------------------------------------

CAPTION = {"kind": "caption", "source": "emoji"}


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ({**CAPTION, "kind": "poem"}, {}, "one of caption, edit, style, analogy, series, sum, got 'poem'"),
        ({"source": "emoji"}, {}, "series, sum, got None"),
        ({"kind": "caption"}, {}, "needs a source, one of emoji"),
        ({**CAPTION, "source": "emojis"}, {}, "one of emoji, digits, words, got 'emojis'"),
        ({**CAPTION, "colour": 3}, {}, "caption takes no 'colour'; it takes share, source, reverse, aliases"),
        ({**CAPTION, "share": 0}, {}, "share of caption must be a positive number, got 0"),
        ({**CAPTION, "share": -1.0}, {}, "got -1.0"),
        ({**CAPTION, "share": float("inf")}, {}, "got inf"),
        ({**CAPTION, "share": float("nan")}, {}, "got nan"),
        ({**CAPTION, "share": "much"}, {}, "got 'much'"),
        ({**CAPTION, "reverse": 1.5}, {}, "reverse must be a share from 0 to 1, got 1.5"),
        ({**CAPTION, "original": -0.1}, {}, "original must be a share from 0 to 1, got -0.1"),
        ({**CAPTION, "copies": 0}, {}, "copies must be an integer of at least 1, got 0"),
        ({**CAPTION, "aliases": "seven"}, {}, "aliases must be a mapping such as {keycap 7: [seven]}, got 'seven'"),
        ({**CAPTION, "aliases": {"keycap 7": "seven"}}, {}, "must be a mapping such as"),
        ({**CAPTION, "only": "("}, {}, "only must be a regular expression, got '('"),
        ({**CAPTION, "only": "zebra"}, {}, "zebra"),
        ({"kind": "series", "source": "emoji", "count": 0}, {}, "count must be an integer of at least 1, got 0"),
        ({"kind": "edit", "source": "words"}, {}, "words needs two captions that differ only in their skin tone"),
        ({"kind": "sum", "source": "emoji"}, {}, "emoji has no item with the caption 'zero'"),
        ({"kind": "sum", "source": "emoji", "named": "keycap {number}"}, {}, "keycap {number}"),
        ({"kind": "sum", "source": "emoji", "named": 7}, {}, "got 7"),
        ("caption", {}, "got None"),
        (CAPTION, {"dropout": 1.5}, "dropout must be a share from 0 to 1, got 1.5"),
        (CAPTION, {"dropout": "some"}, "got 'some'"),
        (CAPTION, {"copies": {"text": 2}}, "only image and audio"),
        (CAPTION, {"copies": {"image": 0}}, "copies.image must be an integer of at least 1, got 0"),
        (CAPTION, {"copies": 4}, "data.copies must be a mapping such as {image: 8, audio: 4}, got 4"),
        (CAPTION, {"sources": {}}, "data.sources must be a mapping such as {emoji: {name: tar, path: …}}, got {}"),
        (CAPTION, {"sources": {"emoji": {"path": "x.tar"}}}, "data.sources.emoji"),
        (CAPTION, {"sources": {"emoji": {"name": "nothing"}}}, "nothing"),
        (CAPTION, {"sources": {"emoji": {"name": "tar", "path": "missing.tar"}}}, "missing.tar"),
        (CAPTION, {"sources": {"emoji": {"name": "words", "split": "dev"}}}, "one of train, test, got 'dev'"),
    ],
)
def test_mistakes_are_one_line(documents, kind, options, says):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        documents(kind, **options)
    assert says in str(error.value) and one_line(error), str(error.value)


@pytest.mark.parametrize("kinds", ["caption", {"kind": "caption"}, [], None])
def test_kinds_are_a_list(packs, kinds):
    with pytest.raises(ValueError, match=r"data\.kinds must be a list such as") as error:
        Documents(SOURCES, kinds, folder=str(packs))
    assert one_line(error)


def test_sources_of_texts_or_of_several_modalities_are_refused(documents, tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    texts = {"texts": {"name": "folder", "path": str(tmp_path)}}
    with pytest.raises(ValueError, match="'texts' holds texts"):
        documents({"kind": "caption", "source": "texts"}, sources=texts)
    parts = [{"name": "words", "count": 1}, {"name": "phrases", "count": 1, "seconds": 1}]
    with pytest.raises(ValueError, match=r"data\.sources\.both: .* has another"):
        documents({"kind": "caption", "source": "both"}, sources={"both": {"name": "mix", "parts": parts}})


def test_analogies_that_no_two_figures_allow_are_refused(documents, tmp_path):
    """Drawing such an analogy would never end."""
    files = {}
    for i, caption in enumerate(["hand", "hand dark skin tone", "fist", "fist light skin tone"]):
        files |= {f"{i}.png": png(np.full((8, 8, 3), i / 4)), f"{i}.txt": caption.encode()}
    sources = {"few": {"name": "tar", "path": write_tar(tmp_path / "few.tar", files)}}
    assert documents({"kind": "edit", "source": "few"}, sources=sources, folder=None).draw(0, 0)
    with pytest.raises(ValueError, match="few needs two emoji that share two skin tones"):
        documents({"kind": "analogy", "source": "few"}, sources=sources, folder=None)


def test_a_broken_item_is_refused(documents, tmp_path):
    """Without it, the items after it would have other numbers."""
    files = {"a.png": b"no picture", "a.txt": b"a"}
    sources = {"broken": {"name": "tar", "path": write_tar(tmp_path / "broken.tar", files)}}
    with pytest.raises(ValueError, match=r"a\.png") as error:
        documents({"kind": "caption", "source": "broken"}, sources=sources, folder=None)
    assert one_line(error)


# -- copies -------------------------------------------------------------------------------------


def picture(seed: int = 0, side: int = 48) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, side // 4, side // 4))
    return torch.from_numpy(pixels).repeat_interleave(4, 1).repeat_interleave(4, 2).float() / 255


def test_copies_of_pictures():
    x = picture()
    copies = [variants.image(x, k) for k in range(12)]
    assert torch.equal(copies[0], x)
    for even, odd in zip(copies[::2], copies[1::2], strict=True):
        assert torch.equal(odd, even.flip(2)) and not torch.equal(odd, even)
    assert len({copy.numpy().tobytes() for copy in copies}) == 12
    for copy in copies:
        assert copy.shape == x.shape and copy.dtype == torch.float32 and copy.min() >= 0 and copy.max() <= 1
        assert torch.equal((copy * 255).round() / 255, copy)
    assert torch.equal(variants.image(x, 7), copies[7])


def test_a_copy_moves_all_pictures_alike():
    """The transformation of a plane depends neither on the other planes nor on the image."""
    a, b, c = picture(1), picture(2), picture(3)
    for copy in range(6):
        mixed = variants.image(torch.stack([a[0], b[1], c[2]]), copy)
        for k, one in enumerate((a, b, c)):
            assert torch.equal(mixed[k], variants.image(one, copy)[k])


def test_copies_of_pictures_stay_within_their_bounds():
    side = 96
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = torch.from_numpy(x**2 + y**2 < 20**2).float().expand(3, -1, -1).contiguous()
    for copy in range(2, 60):
        weight = variants.image(disc, copy)[0].double().numpy()
        scale = np.sqrt(weight.sum() / disc[0].sum().item())
        assert variants.SCALE[0] - 0.01 < scale < variants.SCALE[1] + 0.01
        for axis in (x, y):
            assert abs((axis * weight).sum() / weight.sum()) < variants.SHIFT * variants.SCALE[1] * side + 0.1


def test_copies_of_sounds():
    x = 0.2 * torch.sin(torch.arange(4000) / 5)[None] + 0.1 * torch.sin(torch.arange(4000) / 2.3)[None]
    copies = [variants.audio(x, 8000, k) for k in range(12)]
    assert torch.equal(copies[0], x) and len({copy.shape for copy in copies}) > 8
    for copy in copies[1:]:
        assert 1 / variants.SPEED[1] - 0.01 < copy.shape[1] / 4000 < 1 / variants.SPEED[0] + 0.01
    twice = [variants.audio(2 * x, 8000, k) for k in range(12)]
    for one, two in zip(copies, twice, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("peak", [1.0, 0.9, 0.75, 1e-4, 0.0])
def test_the_gain_never_clips(peak):
    x = torch.sin(torch.arange(3000) / 7) * torch.sin(torch.arange(3000) / 900)
    x = (x / x.abs().max() * peak)[None]
    for k in range(40):
        copy = variants.audio(x, 8000, k)
        assert copy.abs().max() <= 1 and copy.isfinite().all()
        if peak < 1:  # otherwise resampling clips peaks between samples
            assert (copy.abs() >= 1).sum() <= 2, "the top of one swing, not a plateau"
        validate.signal(copy[None], tiny("audio/rvq"))


# -- words --------------------------------------------------------------------------------------


def test_words_are_what_their_captions_say():
    source = data.open_source("words", count=40, size=32, seed=3)
    again = data.open_source("words", count=90, size=32, seed=3)
    for i in (39, 0, 17):
        item = source[i]
        word, ink = re.fullmatch(r"the word ([A-Z]{2,4}) in (\w+)", item.caption).groups()
        assert torch.equal(item.signal, words.render(word, ink, 32)) and torch.equal(again[i].signal, item.signal)
        assert item.signal.shape == (3, 32, 32) and item.modality is Modality.IMAGE
    other = data.open_source("words", count=40, size=32, seed=4)
    assert sum(a.caption == b.caption for a, b in zip(source.items(), other.items(), strict=True)) < 10


def test_the_split_is_the_words_own():
    """For every seed, no test word occurs in training."""
    shown = {"train": set(), "test": set()}
    for split, seeds in (("train", (0, 1, 2)), ("test", (0, 5))):
        for seed in seeds:
            items = data.open_source("words", count=150, size=16, seed=seed, split=split).items()
            shown[split] |= {item.caption.split()[2] for item in items}
    assert not shown["train"] & shown["test"] and min(map(len, shown.values())) > 100
    for split, some in shown.items():
        assert {words.split(word) for word in some} == {words.split(word.lower()) for word in some} == {split}
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tested = [words.split(a + b + c) for a in letters for b in letters for c in letters].count("test")
    assert tested / 26**3 == pytest.approx(1 / 8, abs=0.01)


def test_each_letter_has_its_cell():
    """A letter changes only its quarter of the width. W exceeds it by two pixels."""
    for place in range(4):
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            word = "I" * place + letter + "I" * (3 - place)
            changed = (words.render(word, "black") != words.render("I" * 4, "black")).any(0).any(0).nonzero().flatten()
            spare = 2 if letter == "W" else 0
            assert all(-spare <= column - 16 * place <= 15 + spare for column in changed.tolist()), word
    assert len({words.render(letter, "red").numpy().tobytes() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}) == 26
    assert torch.equal(words.render("ship", "red"), words.render("SHIP", "red"))
    assert not torch.equal(words.render("SHIP", "red"), words.render("SHIP", "blue"))
    ink = (words.render("A", "red") < 0.99).any(0).any(0).nonzero().flatten()
    assert ink.min() >= 23 and ink.max() <= 40, "one letter stands in the middle"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: words.render("HELLO", "red"), "'HELLO' must have 1 to 4 letters, got 5"),
        (lambda: words.render("", "red"), "must have 1 to 4 letters, got 0"),
        (lambda: words.render("SHIP", "pink"), "got 'pink'"),
        (lambda: data.open_source("words", count=0), "count must be an integer of at least 1, got 0"),
        (lambda: data.open_source("words", size=8), "size must be an integer of at least 16, got 8"),
        (lambda: data.open_source("words", seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: data.open_source("words", split="dev"), "one of train, test, got 'dev'"),
    ],
)
def test_mistakes_about_words(call, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        call()
    assert one_line(error)
