"""What one transformer for text, images and sound can do: each figure of omni-small's two tables is a function here.

A function takes a `Bench` (bench.py) and gives a `Figure`; it raises `Missing` where a pack is not there. Pictures
are judged by retrieval: right is the one whose nearest neighbour among all pictures of both packs, by pixel MSE,
is the wanted one or one identical to it. Speech is judged by the recogniser.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenloom.data.documents.emoji import split_tone
from tokenloom.data.documents.kinds import DIGITS
from tokenloom.data.sources import words

from .bench import Answer, Bench
from .packs import draw, parallels, source_of
from .retrieval import read_word

TAKES = 20
"""How often each word is spoken."""
LONGEST = 100
"""Letters of a text of the model's own that is asked with: one that found no end would not fit the context."""


@dataclass
class Figure:
    """A share of trials that came out right.

    hits     one a trial
    ceiling  the share that is right when the codec alone stands in for the model; None where that has no meaning
    detail   what else was counted, plain values
    """

    hits: list[bool]
    ceiling: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    besides: bool = True
    """Whether what the goal asks for beside the share is met."""


def share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


# -- speech ------------------------------------------------------------------------------------


def spoken_to_text(bench: Bench) -> Figure:
    """A spoken digit → its word, exactly."""
    pack = bench.packs["spoken_digits-test"]
    rows = draw(len(pack), bench.most, bench.seed)
    answers = bench.ask([[bench.at_rate(pack.items[i])] for i in rows], "text", "spoken digit → text")
    pairs = [(pack.captions[i], answer.result) for i, answer in zip(rows, answers, strict=True)]
    confused = Counter(f"{said} → {read}"[:40] for said, read in pairs if said != read)
    return Figure([said == read for said, read in pairs], detail={"confused": dict(confused.most_common(5))})


def text_to_spoken(bench: Bench) -> Figure:
    """A word → speech in which the recogniser hears it; how many of the takes of a word differ in their tokens."""
    recogniser = bench.recogniser
    takes = TAKES if bench.most is None else max(2, min(TAKES, bench.most // len(DIGITS)))
    asked = [word for word in DIGITS for _ in range(takes)]
    answers = bench.ask([[word] for word in asked], "audio", "text → spoken digit")
    heard = recogniser.classify([bench.at_8khz(a.result) for a in answers])
    hits = [a == b for a, b in zip(asked, heard, strict=True)]
    distinct = {w: differing([answers[n].result for n in range(len(asked)) if asked[n] == w]) for w in DIGITS}
    for word in DIGITS[:: max(1, len(DIGITS) // 5)]:
        bench.show("text → spoken digit", [word], answers[asked.index(word)].result, hits[asked.index(word)])
    detail = {
        "takes of each word": takes,
        "fewest distinct token sequences of a word": min(distinct.values()),
        "worst words": dict(Counter(w for w, hit in zip(asked, hits, strict=True) if not hit).most_common(3)),
        "recogniser on real test clips": bench.recogniser_accuracy,
    }
    enough = min(distinct.values()) >= 0.75 * takes
    return Figure(hits, bench.speech_ceiling, detail, besides=enough)


def differing(sounds: Sequence[Tensor]) -> int:
    """How many of these sounds differ: no more than their token sequences do, as equal tokens sound equal.

    Within 1e-4, since a sound's last digits depend on what it was decoded together with.
    """
    kept: list[Tensor] = []
    for sound in sounds:
        if not any(k.shape == sound.shape and torch.allclose(k, sound, rtol=0, atol=1e-4) for k in kept):
            kept.append(sound)
    return len(kept)


# -- pictures ----------------------------------------------------------------------------------


def caption_to_picture(bench: Bench) -> Figure:
    """The caption of an unseen combination → its picture."""
    pack = bench.packs["emoji64-test"]
    rows = draw(len(pack), bench.most, bench.seed)
    answers = bench.ask([[pack.captions[i]] for i in rows], "image", "caption → picture")
    hits = bench.right(answers, [pack.captions[i] for i in rows])
    for i, answer, hit in list(zip(rows, answers, hits, strict=True))[:8]:
        bench.show("caption → picture, unseen", [pack.captions[i]], answer.result, hit, truth=pack.signals[i])
    return Figure(hits, bench.ceiling([pack.captions[i] for i in rows]), _parts(bench, answers, rows))


def _parts(bench: Bench, answers: list[Answer], rows: list[int]) -> dict[str, Any]:
    """How often the figure and how often the tone is right, of captions with one tone."""
    pack = bench.packs["emoji64-test"]
    nearest = [bench.captions[n] for n in bench.gallery.nearest([a.result for a in answers])]
    pairs = [(split_tone(pack.captions[i]), split_tone(found)) for i, found in zip(rows, nearest, strict=True)]
    pairs = [(wanted, found or ("", None)) for wanted, found in pairs if wanted and wanted[1]]
    return {
        "figure right": share([a[0] == b[0] for a, b in pairs]),
        "tone right": share([a[1] == b[1] for a, b in pairs]),
        "of captions with one tone": len(pairs),
    }


def picture_to_caption(bench: Bench) -> Figure:
    """The picture of an unseen combination → its caption, letter for letter."""
    pack = bench.packs["emoji64-test"]
    rows = draw(len(pack), bench.most, bench.seed)
    answers = bench.ask([[pack.signals[i]] for i in rows], "text", "picture → caption")
    return _captions(answers, [pack.captions[i] for i in rows], {})


def _captions(answers: list[Answer], wanted: list[str], detail: dict[str, Any]) -> Figure:
    read = [answer.result for answer in answers]
    wrong = [f"{a} → {b}"[:100] for a, b in zip(wanted, read, strict=True) if a != b]
    return Figure([a == b for a, b in zip(wanted, read, strict=True)], detail={**detail, "wrong, the first": wrong[:3]})


def instructed(bench: Bench) -> Figure:
    """A trained picture and "make it … skin tone" → the unseen combination, from the nearest tone that was trained."""
    train, test = bench.packs["emoji64-train"], bench.packs["emoji64-test"]
    pairs = [(i, s) for i, caption in enumerate(test.captions) if (s := source_of(caption, train)) is not None]
    pairs = [pairs[n] for n in draw(len(pairs), bench.most, bench.seed)]
    prompts = [[train.signals[s], f"make it {split_tone(test.captions[i])[1]} skin tone"] for i, s in pairs]
    answers = bench.ask(prompts, "image", "picture + instruction → picture")
    wanted = [test.captions[i] for i, _ in pairs]
    hits = bench.right(answers, wanted)
    for (i, _), prompt, answer, hit in list(zip(pairs, prompts, answers, hits, strict=True))[:6]:
        bench.show("picture + instruction → picture", prompt, answer.result, hit, truth=test.signals[i])
    unchanged = bench.right(answers, [train.captions[s] for _, s in pairs])
    return Figure(hits, bench.ceiling(wanted), {"left as it was": share(unchanged)})


def rendered_words(bench: Bench) -> Figure:
    """A word of the split "test" → its picture, nearest to that word among all that differ in one letter."""
    source = words.Words(count=bench.most or 200, size=bench.picture_size, seed=bench.seed, split="test")
    items = {item.caption: item for item in source.items()}  # a word in one ink may be drawn twice
    asked = list(items)
    answers = bench.ask([[caption] for caption in asked], "image", "rendered words")
    read = [_read(answer.result, caption) for answer, caption in zip(answers, asked, strict=True)]
    written = [_spelled(caption)[0] for caption in asked]
    hits = [a == b for a, b in zip(read, written, strict=True)]
    for caption, answer, hit in list(zip(asked, answers, hits, strict=True))[:6]:
        bench.show("words never trained on", [caption], answer.result, hit, truth=items[caption].signal)
    copies = bench.reconstructed([items[caption].signal for caption in asked])
    ceiling = share([_read(copy, caption) == _spelled(caption)[0] for copy, caption in zip(copies, asked, strict=True)])
    lengths = sorted({len(word) for word in written})
    by_length = {str(n): share([h for h, w in zip(hits, written, strict=True) if len(w) == n]) for n in lengths}
    return Figure(hits, ceiling, {"by letters": by_length})


def _spelled(caption: str) -> tuple[str, str]:
    """`the word SHIP in red` → (`SHIP`, `red`)."""
    return re.fullmatch(r"the word (\w+) in (\w+)", caption).groups()


def _read(picture: Tensor, caption: str) -> str:
    return read_word(picture, *_spelled(caption))


def analogy(bench: Bench) -> Figure:
    """[A light, A dark, B light] → B dark in pictures alone, B dark unseen; three different A for each B."""
    train, test = bench.packs["emoji64-train"], bench.packs["emoji64-test"]
    known = [f for f, t in train.tones if t == "dark" and (f, "light") in train.tones]
    found = parallels(train, test)
    wanted, prompts = [], []
    for figure, light, dark in (found[n] for n in draw(len(found), bench.most and -(-bench.most // 3), bench.seed)):
        others = [f for f in known if f != figure]
        for a in draw(len(others), 3, bench.seed + dark):
            pair = [train.signals[train.tones[others[a], t]] for t in ("light", "dark")]
            prompts.append([*pair, train.signals[light]])
            wanted.append(dark)
    answers = bench.ask(prompts, "image", "analogy in pictures")
    captions = [test.captions[i] for i in wanted]
    hits = bench.right(answers, captions)
    for i, prompt, answer, hit in list(zip(wanted, prompts, answers, hits, strict=True))[::3][:4]:
        bench.show("analogy in pictures", prompt, answer.result, hit, truth=test.signals[i])
    return Figure(hits, bench.ceiling(captions), {"unseen B": len(set(wanted)), "A for each B": 3})


# -- never trained together ----------------------------------------------------------------------


def spoken_to_keycap(bench: Bench) -> Figure:
    """A spoken digit → the picture of its keycap, directly; and by way of the text the model writes for it."""
    pack = bench.packs["spoken_digits-test"]
    rows = draw(len(pack), min(bench.most or 100, 100), bench.seed)
    prompts = [[bench.at_rate(pack.items[i])] for i in rows]
    keycaps = [f"keycap {DIGITS.index(pack.captions[i])}" for i in rows]
    answers = bench.ask(prompts, "image", "spoken digit → keycap")
    hits = bench.right(answers, keycaps)
    for i, answer, hit in list(zip(rows, answers, hits, strict=True))[:: max(1, len(rows) // 4)][:4]:
        bench.show("spoken digit → keycap", [bench.at_rate(pack.items[i])], answer.result, hit)
    texts = [answer.result[:LONGEST] for answer in bench.ask(prompts, "text", "spoken digit → text → keycap")]
    through = bench.ask([[text] for text in texts], "image", "spoken digit → text → keycap")
    nearest = [bench.captions[n] for n in bench.gallery.nearest([a.result for a in answers])]
    detail = {
        "through its own text": share(bench.right(through, keycaps)),
        "any keycap": share([caption.startswith("keycap") for caption in nearest]),
    }
    return Figure(hits, bench.ceiling(sorted(set(keycaps))), detail)


def keycap_to_spoken(bench: Bench) -> Figure:
    """The picture of a keycap → the digit, spoken, as the recogniser hears it; and by way of the model's own text."""
    recogniser, pack = bench.recogniser, bench.packs["emoji64-train"]
    takes = max(1, min(10, (bench.most or 100) // 10))
    asked = [digit for digit in range(10) for _ in range(takes)]
    prompts = [[pack.signals[pack.where[f"keycap {digit}"]]] for digit in asked]
    answers = bench.ask(prompts, "audio", "keycap → spoken digit")
    heard = recogniser.classify([bench.at_8khz(answer.result) for answer in answers])
    hits = [DIGITS[digit] == word for digit, word in zip(asked, heard, strict=True)]
    for n in range(0, len(asked), max(1, len(asked) // 3)):
        bench.show("keycap → spoken digit", prompts[n], answers[n].result, hits[n])
    texts = [answer.result[:LONGEST] for answer in bench.ask(prompts, "text", "keycap → text → spoken digit")]
    through = bench.ask([[text] for text in texts], "audio", "keycap → text → spoken digit")
    heard = recogniser.classify([bench.at_8khz(answer.result) for answer in through])
    detail = {"through its own text": share([DIGITS[d] == w for d, w in zip(asked, heard, strict=True)])}
    return Figure(hits, bench.speech_ceiling, detail)


# -- on trained items ----------------------------------------------------------------------------


def trained_rows(bench: Bench) -> list[int]:
    """The 300 training items of the second table."""
    return draw(len(bench.packs["emoji64-train"]), min(bench.most or 300, 300), bench.seed)


def caption_to_trained(bench: Bench) -> Figure:
    """The caption of a training item → its picture."""
    pack, rows = bench.packs["emoji64-train"], trained_rows(bench)
    captions = [pack.captions[i] for i in rows]
    answers = bench.ask([[caption] for caption in captions], "image", "caption → picture, trained")
    hits = bench.right(answers, captions)
    for i, answer, hit in list(zip(rows, answers, hits, strict=True))[:8]:
        bench.show("caption → picture, trained", [pack.captions[i]], answer.result, hit, truth=pack.signals[i])
    return Figure(hits, bench.ceiling(captions))


def trained_to_caption(bench: Bench) -> Figure:
    """The picture of a training item → its caption, letter for letter."""
    pack, rows = bench.packs["emoji64-train"], trained_rows(bench)
    answers = bench.ask([[pack.signals[i]] for i in rows], "text", "picture → caption, trained")
    return _captions(answers, [pack.captions[i] for i in rows], {})


# -- nothing to judge, much to see -----------------------------------------------------------------

PICTURES = ("red heart", "waving hand dark skin tone", "woman astronaut medium skin tone", "sunflower", "keycap 4",
            "the word LOOM in blue")  # fmt: skip
SPOKEN = ("seven", "zero", "four")
EDITED = ("waving hand", "light", "dark")


def samples(bench: Bench) -> None:
    """A few prompts of every kind and what came of them, for the report: it needs no packs, and judges nothing.

    Pictures and sounds within a prompt are the model's own.
    """
    drawn = bench.ask([[text] for text in PICTURES], "image", "pictures")
    for text, answer in zip(PICTURES, drawn, strict=True):
        bench.show("text → picture", [text], answer.result)
    said = bench.ask([[word] for word in SPOKEN], "audio", "speech")
    for word, answer in zip(SPOKEN, said, strict=True):
        bench.show("text → speech", [word], answer.result)
    figure, before, after = EDITED
    first = bench.ask([[f"{figure} {before} skin tone"]], "image")[0].result
    prompts = [[first, f"make it {after} skin tone"], [said[2].result], [drawn[4].result]]
    for prompt, to in zip(prompts, ("image", "image", "audio"), strict=True):
        bench.show("picture and text, sound → picture, picture → sound", prompt, bench.ask([prompt], to)[0].result)
    for prompt in ([drawn[0].result], [said[0].result]):
        bench.show("picture → text, sound → text", prompt, bench.ask([prompt], "text")[0].result[:LONGEST])


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    goal  the share to reach
    """

    key: str
    title: str
    goal: float
    run: Callable[[Bench], Figure]
    trained: bool = False
    besides: str = ""


ROWS = (
    Row("spoken_to_text", "spoken digit → text, test clips", 0.97, spoken_to_text),
    Row("text_to_spoken", "text → spoken digit, as the recogniser hears it", 0.95, text_to_spoken,
        besides="15 of 20 token sequences distinct"),
    Row("caption_to_picture", "caption → picture, unseen combinations", 0.70, caption_to_picture),
    Row("picture_to_caption", "picture → caption, exact, unseen combinations", 0.70, picture_to_caption),
    Row("instructed", "picture + “make it … skin tone” → picture, unseen", 0.70, instructed),
    Row("rendered_words", "rendered words never trained on, one letter apart", 0.80, rendered_words),
    Row("spoken_to_keycap", "spoken digit → keycap picture, never trained together", 0.50, spoken_to_keycap),
    Row("keycap_to_spoken", "keycap picture → spoken digit, never trained together", 0.50, keycap_to_spoken),
    Row("analogy", "analogy in pictures: A light, A dark, B light → B dark", 0.50, analogy),
    Row("caption_to_trained", "caption → picture, training items", 0.90, caption_to_trained, trained=True),
    Row("trained_to_caption", "picture → caption, exact, training items", 0.90, trained_to_caption, trained=True),
)  # fmt: skip
