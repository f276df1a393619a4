"""Abilities with pictures of emoji in several styles. A picture is right if the right emoji in the right style is the
nearest of all pictures of all styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenloom.data.documents.emoji import split_style

from .packs import PackFolder
from .records import Trials, share
from .session import OmniSession

PLAIN = "noto"
"""Style of the pack `emoji64`, whose captions name none."""


def styled_caption(session: OmniSession) -> Trials:
    """Measure caption and style → picture, pairs of both that were not trained on."""
    test = session.packs["styles64-test"]
    rows = session.draw(len(test), session.at_most(300))
    return _drawn(session, [[test.captions[i]] for i in rows], rows, "caption + style → picture")


def restyled(session: OmniSession) -> Trials:
    """Measure picture and “draw it as …” → picture, pairs of emoji and style that were not trained on."""
    test = session.packs["styles64-test"]
    pairs = [
        (i, source) for i, caption in enumerate(test.captions) if (source := _other(session.packs, caption)) is not None
    ]
    pairs = [pairs[n] for n in session.draw(len(pairs), session.at_most(300))]
    prompts = [[source, f"draw it as {split_style(test.captions[i])[1]}"] for i, source in pairs]
    return _drawn(session, prompts, [i for i, _ in pairs], "picture + style → picture")


def _other(packs: PackFolder, caption: str) -> Any:
    """Return a trained picture of the emoji of a caption in another style; None if there is none."""
    name, style = split_style(caption)
    plain, styled = packs["emoji64-train"], packs["styles64-train"]
    if name in plain.index:
        return plain.signals[plain.index[name]]
    styles = sorted({split_style(known)[1] for known in styled.captions} - {style})
    return next((styled.signals[styled.index[n]] for s in styles if (n := f"{name}, {s}") in styled.index), None)


def _drawn(session: OmniSession, prompts: Sequence[list[Any]], rows: Sequence[int], title: str) -> Trials:
    """Generate pictures, and compare them with those of all styles."""
    test = session.packs["styles64-test"]
    captions = [test.captions[i] for i in rows]
    images = [answer.result for answer in session.ask(prompts, "image", title)]
    hits = session.styled_images.hits(images, captions)
    for i, prompt, image, hit in list(zip(rows, prompts, images, hits, strict=True))[:6]:
        session.show(title, prompt, image, hit, truth=test.signals[i])
    pairs = [
        (split_style(found if ", " in found else f"{found}, {PLAIN}"), split_style(caption))
        for found, caption in zip(session.styled_images.nearest_captions(images), captions, strict=True)
    ]
    detail = {
        "emoji right": share([a[0] == b[0] for a, b in pairs]),
        "style right": share([a[1] == b[1] for a, b in pairs]),
    }
    return Trials(hits, session.styled_images.ceiling(captions), detail)
