"""Abilities with pictures: captions, edits by instruction, analogies and rendered words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tokenloom.data.documents.emoji import split_tone
from tokenloom.data.sources import words

from .packs import Pack, draw, parallels, source_of
from .records import Trials, share
from .scoring import read_word
from .session import Answer, OmniSession


def _images(answers: Sequence[Answer]) -> list[Tensor]:
    return [answer.result for answer in answers]


# -- captions --------------------------------------------------------------------------------------


def caption_to_picture(session: OmniSession) -> Trials:
    """Measure caption → picture on unseen combinations."""
    pack = session.packs["emoji64-test"]
    rows = session.draw(len(pack))
    trials, images = _drawn(session, pack, rows, "caption → picture", "caption → picture, unseen")
    trials.detail = _figures_and_tones(session, images, [pack.captions[i] for i in rows])
    return trials


def caption_to_trained(session: OmniSession) -> Trials:
    """Measure caption → picture on training items."""
    pack = session.packs["emoji64-train"]
    return _drawn(session, pack, _trained_rows(session), "caption → picture, trained", "caption → picture, trained")[0]


def _trained_rows(session: OmniSession) -> list[int]:
    """Return at most 300 training items."""
    return session.draw(len(session.packs["emoji64-train"]), session.at_most(300))


def _drawn(
    session: OmniSession, pack: Pack, rows: Sequence[int], label: str, title: str
) -> tuple[Trials, list[Tensor]]:
    """Generate the pictures of items from their captions."""
    captions = [pack.captions[i] for i in rows]
    images = _images(session.ask([[caption] for caption in captions], "image", label))
    hits = session.images.hits(images, captions)
    for i, image, hit in list(zip(rows, images, hits, strict=True))[:8]:
        session.show(title, [pack.captions[i]], image, hit, truth=pack.signals[i])
    return Trials(hits, session.images.ceiling(captions)), images


def _figures_and_tones(session: OmniSession, images: Sequence[Tensor], captions: Sequence[str]) -> dict[str, Any]:
    """Return the shares of right figures and right tones, over captions with one tone."""
    nearest = session.images.nearest_captions(images)
    pairs = [(split_tone(caption), split_tone(found)) for caption, found in zip(captions, nearest, strict=True)]
    pairs = [(parts, found or ("", None)) for parts, found in pairs if parts and parts[1]]
    return {
        "figure right": share([a[0] == b[0] for a, b in pairs]),
        "tone right": share([a[1] == b[1] for a, b in pairs]),
        "of captions with one tone": len(pairs),
    }


def picture_to_caption(session: OmniSession) -> Trials:
    """Measure picture → exact caption on unseen combinations."""
    pack = session.packs["emoji64-test"]
    return _captioned(session, pack, session.draw(len(pack)), "picture → caption")


def trained_to_caption(session: OmniSession) -> Trials:
    """Measure picture → exact caption on training items."""
    return _captioned(session, session.packs["emoji64-train"], _trained_rows(session), "picture → caption, trained")


def _captioned(session: OmniSession, pack: Pack, rows: Sequence[int], label: str) -> Trials:
    answers = session.ask([[pack.signals[i]] for i in rows], "text", label)
    pairs = [(pack.captions[i], answer.result) for i, answer in zip(rows, answers, strict=True)]
    wrong = [f"{a} → {b}"[:100] for a, b in pairs if a != b]
    return Trials([a == b for a, b in pairs], detail={"wrong, the first": wrong[:3]})


# -- instructions and analogies --------------------------------------------------------------------


def instructed(session: OmniSession) -> Trials:
    """Measure trained picture and "make it … skin tone" → unseen combination, from the nearest trained tone."""
    train, test = session.packs["emoji64-train"], session.packs["emoji64-test"]
    pairs = [(i, s) for i, caption in enumerate(test.captions) if (s := source_of(caption, train)) is not None]
    pairs = [pairs[n] for n in session.draw(len(pairs))]
    captions = [test.captions[i] for i, _ in pairs]
    tones = [found[1] for caption in captions if (found := split_tone(caption))]
    prompts = [[train.signals[s], f"make it {name} skin tone"] for (_, s), name in zip(pairs, tones, strict=True)]
    images = _images(session.ask(prompts, "image", "picture + instruction → picture"))
    hits = session.images.hits(images, captions)
    for (i, _), prompt, image, hit in list(zip(pairs, prompts, images, hits, strict=True))[:6]:
        session.show("picture + instruction → picture", prompt, image, hit, truth=test.signals[i])
    unchanged = session.images.hits(images, [train.captions[s] for _, s in pairs])
    return Trials(hits, session.images.ceiling(captions), {"left as it was": share(unchanged)})


def analogy(session: OmniSession) -> Trials:
    """Measure the pictures A light, A dark, B light → B dark, which is unseen, with three figures A for each B."""
    train, test = session.packs["emoji64-train"], session.packs["emoji64-test"]
    known = [f for f, t in train.tones if t == "dark" and (f, "light") in train.tones]
    found = parallels(train, test)
    targets, prompts = [], []
    for figure, light, dark in (found[n] for n in session.draw(len(found), session.limit and -(-session.limit // 3))):
        others = [f for f in known if f != figure]
        for a in draw(len(others), 3, session.seed + dark):
            pair = [train.signals[train.tones[others[a], t]] for t in ("light", "dark")]
            prompts.append([*pair, train.signals[light]])
            targets.append(dark)
    images = _images(session.ask(prompts, "image", "analogy in pictures"))
    captions = [test.captions[i] for i in targets]
    hits = session.images.hits(images, captions)
    for i, prompt, image, hit in list(zip(targets, prompts, images, hits, strict=True))[::3][:4]:
        session.show("analogy in pictures", prompt, image, hit, truth=test.signals[i])
    return Trials(hits, session.images.ceiling(captions), {"unseen B": len(set(targets)), "A for each B": 3})


# -- rendered words --------------------------------------------------------------------------------


def rendered_words(session: OmniSession) -> Trials:
    """Measure unseen word → its rendering, which must be nearest to that word among its one-letter neighbors."""
    source = words.Words(count=session.limit or 200, size=session.image_size, seed=session.seed, split="test")
    pictures = {item.caption: item.signal for item in source.items()}  # the source can repeat a word in the same ink
    captions = list(pictures)
    images = _images(session.ask([[caption] for caption in captions], "image", "rendered words"))
    hits = _spelled_right(images, captions)
    for caption, image, hit in list(zip(captions, images, hits, strict=True))[:6]:
        session.show("words never trained on", [caption], image, hit, truth=pictures[caption])
    ceiling = share(_spelled_right(session.reconstruct(list(pictures.values())), captions))
    lengths = [len(_word_and_ink(caption)[0]) for caption in captions]
    by_length = {
        str(n): share([hit for hit, length in zip(hits, lengths, strict=True) if length == n])
        for n in sorted(set(lengths))
    }
    return Trials(hits, ceiling, {"by letters": by_length})


def _spelled_right(images: Sequence[Tensor], captions: Sequence[str]) -> list[bool]:
    """Return for each image whether it shows the word of its caption."""
    pairs = zip(images, map(_word_and_ink, captions), strict=True)
    return [read_word(image, word, ink) == word for image, (word, ink) in pairs]


def _word_and_ink(caption: str) -> tuple[str, str]:
    """Return SHIP and red of "the word SHIP in red"."""
    found = re.fullmatch(r"the word (\w+) in (\w+)", caption)
    if not found:
        raise ValueError(f"the caption of a rendered word must be 'the word WORD in INK', got {caption!r}")
    return found[1], found[2]
