"""The prompts that README, documentation, help and report show for omni-small. Each must succeed in most seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from .records import OmniRecord
from .scoring import read_word
from .session import OmniSession, track

SEEDS = range(10)
NEEDED = 8
"""Number of SEEDS that must succeed."""


class ShownPrompt(NamedTuple):
    """A text, what it is asked for, and the sampling options of the example; `then` also asks for the text back."""

    text: str
    to: str
    then: bool = False
    options: Mapping[str, Any] = {}


SHOWN = (
    ShownPrompt("red heart", "image", then=True),
    ShownPrompt("red heart", "image", options={"decoder": "diffusion", "steps": 2}),
    ShownPrompt("waving hand dark skin tone", "image", then=True),
    ShownPrompt("thumbs up medium skin tone", "image"),
    ShownPrompt("waving hand", "image", options={"guidance": 3, "temperature": 0.9}),
    ShownPrompt("sunflower", "image"),
    ShownPrompt("keycap 4", "image"),
    ShownPrompt("the word TREE in green", "image"),
    ShownPrompt("four", "audio", then=True),
    ShownPrompt("six", "audio"),
    ShownPrompt("nine", "audio"),
)


def measure(session: OmniSession) -> list[OmniRecord]:
    """Generate each prompt with every seed, as the command line does, and count the right results.

    An emoji is right if it is the nearest picture, a rendered word if it is read among its one-letter neighbors, a
    spoken word if the classifier recognizes it, and a text if it equals the prompt.
    """
    records = []
    for shown in track(SHOWN, "prompts that are shown", "prompts"):
        results = [session.omni.generate([shown.text], shown.to, seed=s, **shown.options)[0].cpu() for s in SEEDS]
        form = ", ".join(f"{key} {value}" for key, value in shown.options.items())
        records.append(_record(shown, f"{shown.to}{form and f' ({form})'}", hits(session, shown, results)))
        if shown.then:
            texts = [session.omni.generate([x], "text", seed=0)[0] for x in results]
            records.append(_record(shown, f"{shown.to} → text", [text == shown.text for text in texts]))
    return records


def hits(session: OmniSession, shown: ShownPrompt, results: list[Tensor]) -> list[bool]:
    """Return for each result whether it is what the prompt says."""
    if shown.to == "audio":
        return [word == shown.text for word in session.speech.classify(results)]
    if shown.text.startswith("the word "):
        return [is_word(x, shown.text) for x in results]
    return session.images.hits(results, [shown.text] * len(results))


def is_word(image: Tensor, caption: str) -> bool:
    """Return whether an image shows the word of a caption such as `the word TREE in green`."""
    _, _, word, _, ink = caption.split()
    return read_word(image, word, ink) == word


def _record(shown: ShownPrompt, form: str, right: list[bool]) -> OmniRecord:
    count = sum(right)
    return OmniRecord(
        key="shown", title=f"shown: {shown.text} → {form}", goal=f"≥ {NEEDED} of {len(SEEDS)} seeds",
        value=count / len(right), unit="share", n=len(right), right=count, reached=count >= NEEDED,
    )  # fmt: skip
