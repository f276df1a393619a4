"""Abilities with spoken digits: to and from text, and to and from pictures of keycaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenloom.data.documents.kinds import DIGITS

from .records import Trials, share
from .session import OmniSession

REPEATS = 20
"""Number of generated clips of each word."""
MIN_DISTINCT = 0.75
"""Smallest share of distinct clips of a word."""
MAX_LETTERS = 100
"""Largest length of a generated text that becomes a prompt. A text without an end would exceed the context."""


def spoken_to_text(session: OmniSession) -> Trials:
    """Measure spoken digit → its exact word."""
    pack = session.packs["spoken_digits-test"]
    rows = session.draw(len(pack))
    answers = session.ask([[session.signal(pack.items[i])] for i in rows], "text", "spoken digit → text")
    pairs = [(pack.captions[i], answer.result) for i, answer in zip(rows, answers, strict=True)]
    confused = Counter(f"{said} → {read}"[:40] for said, read in pairs if said != read)
    return Trials([said == read for said, read in pairs], detail={"confused": dict(confused.most_common(5))})


def text_to_spoken(session: OmniSession) -> Trials:
    """Measure word → speech that the classifier recognizes. The second goal is distinct clips of each word."""
    repeats = max(2, session.at_most(REPEATS * len(DIGITS)) // len(DIGITS))
    asked = [word for word in DIGITS for _ in range(repeats)]
    sounds = [answer.result for answer in session.ask([[word] for word in asked], "audio", "text → spoken digit")]
    recognized = session.speech.classify(sounds)
    hits = [a == b for a, b in zip(asked, recognized, strict=True)]
    distinct = min(count_distinct([x for x, said in zip(sounds, asked, strict=True) if said == w]) for w in DIGITS)
    for word in DIGITS[:: max(1, len(DIGITS) // 5)]:
        session.show("text → spoken digit", [word], sounds[asked.index(word)], hits[asked.index(word)])
    detail = {
        "takes of each word": repeats,
        "fewest distinct token sequences of a word": distinct,
        "worst words": dict(Counter(w for w, hit in zip(asked, hits, strict=True) if not hit).most_common(3)),
        "recogniser on real test clips": session.speech.real_accuracy,
    }
    return Trials(hits, session.speech_ceiling, detail, second_goal=distinct >= MIN_DISTINCT * repeats)


def count_distinct(sounds: Sequence[Tensor]) -> int:
    """Return the number of distinct sounds, up to differences of 1e-4 between batches.

    Equal tokens give equal sounds.
    """
    kept: list[Tensor] = []
    for sound in sounds:
        if not any(k.shape == sound.shape and torch.allclose(k, sound, rtol=0, atol=1e-4) for k in kept):
            kept.append(sound)
    return len(kept)


# -- speech and pictures, never trained together ---------------------------------------------------


def spoken_to_keycap(session: OmniSession) -> Trials:
    """Measure spoken digit → picture of its keycap, directly and (in the detail) through the model's own text."""
    pack = session.packs["spoken_digits-test"]
    rows = session.draw(len(pack), session.at_most(100))
    prompts = [[session.signal(pack.items[i])] for i in rows]
    keycaps = [f"keycap {DIGITS.index(pack.captions[i])}" for i in rows]
    images = [answer.result for answer in session.ask(prompts, "image", "spoken digit → keycap")]
    hits = session.images.hits(images, keycaps)
    for prompt, image, hit in list(zip(prompts, images, hits, strict=True))[:: max(1, len(rows) // 4)][:4]:
        session.show("spoken digit → keycap", prompt, image, hit)
    texts = [answer.result[:MAX_LETTERS] for answer in session.ask(prompts, "text", "spoken digit → text → keycap")]
    through = session.ask([[text] for text in texts], "image", "spoken digit → text → keycap")
    nearest = session.images.nearest_captions(images)
    detail = {
        "through its own text": share(session.images.hits([answer.result for answer in through], keycaps)),
        "any keycap": share([caption.startswith("keycap") for caption in nearest]),
    }
    return Trials(hits, session.images.ceiling(sorted(set(keycaps))), detail)


def keycap_to_spoken(session: OmniSession) -> Trials:
    """Measure picture of a keycap → spoken digit, directly and (in the detail) through the model's own text."""
    pack = session.packs["emoji64-train"]
    repeats = max(1, session.at_most(100) // 10)
    asked = [digit for digit in range(10) for _ in range(repeats)]
    prompts = [[pack.signals[pack.index[f"keycap {digit}"]]] for digit in asked]
    answers = session.ask(prompts, "audio", "keycap → spoken digit")
    recognized = session.speech.classify([answer.result for answer in answers])
    hits = [DIGITS[digit] == word for digit, word in zip(asked, recognized, strict=True)]
    for n in range(0, len(asked), max(1, len(asked) // 3)):
        session.show("keycap → spoken digit", prompts[n], answers[n].result, hits[n])
    texts = [answer.result[:MAX_LETTERS] for answer in session.ask(prompts, "text", "keycap → text → spoken digit")]
    through = session.ask([[text] for text in texts], "audio", "keycap → text → spoken digit")
    accuracy = session.speech.accuracy([answer.result for answer in through], [DIGITS[digit] for digit in asked])
    return Trials(hits, session.speech_ceiling, {"through its own text": accuracy})
