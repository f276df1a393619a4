"""Abilities of omni-small with their goals, and samples for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..metric import wilson
from . import pictures, speech, styles
from .records import OmniRecord, Trials, share
from .session import OmniSession


@dataclass(frozen=True)
class Ability:
    """Ability of a model, a row of the tables: `measure` runs the trials, `goal` is the share to reach.

    `trained` marks the table of trained items. `second_goal` is the text of another goal.
    """

    key: str
    title: str
    goal: float
    measure: Callable[[OmniSession], Trials]
    trained: bool = False
    second_goal: str = ""

    def record(self, session: OmniSession) -> OmniRecord:
        """Run the trials and return their record."""
        trials = self.measure(session)
        right, n, value = sum(trials.hits), len(trials.hits), share(trials.hits)
        interval = wilson(right, n)
        return OmniRecord(
            key=self.key,
            title=self.title,
            goal=f"≥ {100 * self.goal:.0f} %" + (f"; {self.second_goal}" if self.second_goal else ""),
            value=value,
            unit="share",
            n=n,
            right=right,
            interval=None if interval is None else list(interval),
            ceiling=trials.ceiling,
            reached=value >= self.goal and trials.second_goal,
            detail=trials.detail,
            trained=self.trained,
        )


ABILITIES = (
    Ability("spoken_to_text", "spoken digit → text, test clips", 0.97, speech.spoken_to_text),
    Ability("text_to_spoken", "text → spoken digit, recognized by a classifier", 0.95, speech.text_to_spoken,
            second_goal="15 of 20 token sequences distinct"),
    Ability("caption_to_picture", "caption → picture, unseen combinations", 0.70, pictures.caption_to_picture),
    Ability("picture_to_caption", "picture → caption, exact, unseen combinations", 0.70, pictures.picture_to_caption),
    Ability("instructed", "picture + “make it … skin tone” → picture, unseen", 0.70, pictures.instructed),
    Ability("styled_caption", "caption + style → picture, unseen pairs", 0.60, styles.styled_caption),
    Ability("restyled", "picture + “draw it as …” → picture, unseen pairs", 0.50, styles.restyled),
    Ability("rendered_words", "rendered words never trained on, one letter apart", 0.80, pictures.rendered_words),
    Ability("spoken_to_keycap", "spoken digit → keycap picture, never trained together", 0.50,
            speech.spoken_to_keycap),
    Ability("keycap_to_spoken", "keycap picture → spoken digit, never trained together", 0.50,
            speech.keycap_to_spoken),
    Ability("analogy", "analogy in pictures: A light, A dark, B light → B dark", 0.50, pictures.analogy),
    Ability("caption_to_trained", "caption → picture, training items", 0.90, pictures.caption_to_trained, trained=True),
    Ability("trained_to_caption", "picture → caption, exact, training items", 0.90, pictures.trained_to_caption,
            trained=True),
)  # fmt: skip

PICTURES = ("red heart", "waving hand dark skin tone", "thumbs up medium skin tone", "sunflower", "keycap 4",
            "the word TREE in green")  # fmt: skip
SPOKEN = ("four", "six", "nine")
"""Prompts of the report. They are among `shown.SHOWN`, whose success is measured."""


def samples(session: OmniSession) -> None:
    """Show a few prompts with their answers, and the texts that the model reads from its own answers."""
    drawn = session.ask([[text] for text in PICTURES], "image", "pictures")
    for text, answer in zip(PICTURES, drawn, strict=True):
        session.show("text → picture", [text], answer.result)
    spoken = session.ask([[word] for word in SPOKEN], "audio", "speech")
    for word, answer in zip(SPOKEN, spoken, strict=True):
        session.show("text → speech", [word], answer.result)
    for prompt in ([drawn[0].result], [spoken[0].result]):
        text = session.ask([prompt], "text")[0].result[: speech.MAX_LETTERS]
        session.show("picture → text, sound → text", prompt, text)
