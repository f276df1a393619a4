"""Speech of any text in many voices, speeds and pitches, by a speech synthesizer."""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality

from ..speech import synthesizer as synthesizers
from ..speech.sentences import sentence, spoken, words
from .containers import folder, tar
from .source import BrokenItem, Item, Source, at_least

SPLITS = ("train", "test")
PEAK = 0.7
"""Largest absolute sample of each item."""
USUAL = (0.8, 1.25)
"""Range of the speeds and of the pitches."""
_TESTED = 8  # one text in this many is in the split "test"


class Spoken(Source):
    """Spoken texts whose captions are the words. `meta` has the voice, its speed and its pitch.

    Item i is a pure function of (seed, split, i) and of the version of the synthesizer. The splits have no voice and no
    text in common.

    Args:
        path: A text file with a text per line, or a folder or tar whose texts or captions are spoken, in this order and
            again with other voices. None: sentences of common words.
        count: Number of items.
        synthesizer: "espeak-ng", or "flite" with the voice slt, which is in the split "test".
        voices: Voices to draw from, or patterns such as "en-us+*" and "*"; None: the clear ones of the split.
        speeds: Range of the speed, relative to that of the voice, from 0.5 to 2; None: `USUAL`.
        pitches: Range of the pitch, likewise.
        sample_rate: In Hz. None: that of the synthesizer, 22050 or 16000.
        seed: Seed of texts, voices, speeds and pitches.
        split: "train" or "test".
        split_texts: False: both splits speak all texts of `path`, in different voices.

    Raises:
        ValueError: The synthesizer is not installed, a value is out of range, or a text is too long.
        FileNotFoundError: `path` does not exist.
    """

    name = "spoken"
    modality = Modality.AUDIO

    def __init__(
        self, path: str | None = None, count: int = 1000, synthesizer: str = synthesizers.ESPEAK,
        voices: Sequence[str] | None = None, speeds: Sequence[float] | None = None,
        pitches: Sequence[float] | None = None, sample_rate: int | None = None, seed: int = 0, split: str = "train",
        split_texts: bool = True,
    ) -> None:  # fmt: skip
        self.count, self.seed = at_least("count", count, 1), at_least("seed", seed, 0)
        self.sample_rate = None if sample_rate is None else at_least("sample_rate", sample_rate, 8000)
        self.speeds, self.pitches = _range("speeds", speeds), _range("pitches", pitches)
        for key, value, known in (("split", split, SPLITS), ("synthesizer", synthesizer, synthesizers.VOICES)):
            if value not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}, got {value!r}")
        self.synthesizer, self.split = synthesizer, split
        self.voices = _voices(synthesizer, split, voices)
        self.path, self.texts = path, None if path is None else _texts(path, split if split_texts else None)
        synthesizers.check(synthesizer)

    def __len__(self) -> int:
        return self.count

    def contents(self) -> Iterator[tuple[str, int]]:
        yield synthesizers.fingerprint(self.synthesizer), 0
        if self.texts is not None:
            joined = "\n".join(self.texts).encode()
            yield f"{self.path} {zlib.crc32(joined):08x}", len(joined)

    def captions(self) -> Iterator[str]:
        return (words(self._text(i)) for i in range(self.count))

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([1, self.seed, SPLITS.index(self.split), self._check(i)])
        voice = str(rng.choice(self.voices))
        speed, pitch = (round(float(rng.uniform(*ends)), 3) for ends in (self.speeds, self.pitches))
        text = self._text(i)
        try:
            speech = synthesizers.say(self.synthesizer, text, voice, speed, pitch)
        except synthesizers.Unspoken as error:
            raise BrokenItem(f"spoken item {i}: {error}") from error
        samples = np.frombuffer(speech.samples, "<i2").astype(np.float32)
        if not samples.any():
            raise BrokenItem(f"spoken item {i}: {self.synthesizer} says nothing for {text!r:.40}")
        rate = self.sample_rate or speech.rate
        signal = media.resample(torch.from_numpy(samples / 32768)[None], speech.rate, rate)
        meta = {"voice": voice, "speed": speed, "pitch": pitch}
        return Item(f"spoken-{i:06d}", Modality.AUDIO, signal * (PEAK / signal.abs().max()), rate, words(text), meta)

    def _text(self, i: int) -> str:
        if self.texts is not None:
            return self.texts[i % len(self.texts)]
        rng = np.random.default_rng([0, self.seed, SPLITS.index(self.split), i])
        while _split(text := sentence(rng)) != self.split:
            pass
        return text


def _split(text: str) -> str:
    """Return the split of a text, which its words alone determine."""
    return SPLITS[zlib.crc32(words(text).encode()) % _TESTED == 0]


def _voices(synthesizer: str, split: str, chosen: Sequence[str] | None) -> list[str]:
    """Return the voices of a split, or those of them that are chosen."""
    known = synthesizers.VOICES[synthesizer]
    allowed = [v for v in known if SPLITS[v.rpartition("+")[2] in synthesizers.HELD_OUT] == split]
    if not allowed:
        raise ValueError(f"{synthesizer} has no voice of the split {split}: all of its voices are for split=test")
    if chosen is None:
        return [voice for voice in allowed if voice in synthesizers.CLEAR]
    if isinstance(chosen, str) or not chosen:
        raise ValueError(f"voices must be a list such as [{allowed[0]}], got {chosen!r:.80}")
    found: dict[str, None] = {}
    for pattern in chosen:
        if not (matches := fnmatch.filter(allowed, str(pattern))):
            held = f"; {pattern} is of the other split" if pattern in known else ""
            raise ValueError(f"voices of the split {split} are {allowed[0]} … {allowed[-1]}, got {pattern!r:.40}{held}")
        found |= dict.fromkeys(matches)
    return list(found)


def _range(key: str, ends: Sequence[float] | None) -> tuple[float, float]:
    if ends is None:
        return USUAL
    values = list(ends) if isinstance(ends, Sequence) else [ends]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != 2 or len(values) != 2 or not 0.5 <= numbers[0] <= numbers[1] <= 2:
        raise ValueError(f"{key} must be two numbers from 0.5 to 2, the lower one first, got {ends!r:.80}")
    return numbers[0], numbers[1]


def _texts(path: str, split: str | None) -> list[str]:
    """Return the different texts of a file, folder or tar, or those of a split, as they are spoken."""
    texts = dict.fromkeys(text for line in _lines(path) if (text := spoken(line)))
    for text in texts:
        if len(text) > synthesizers.LONGEST:
            raise ValueError(
                f"data.path {path!r}: a text must have at most {synthesizers.LONGEST} characters, "
                f"got {len(text)}: {text!r:.40}"
            )
    if not texts:
        raise ValueError(f"data.path {path!r} holds no text with words")
    chosen = [text for text in texts if split in (None, _split(text))]
    if not chosen:
        raise ValueError(
            f"none of the {len(texts)} texts of data.path {path!r} is in the split {split}; with "
            "data.split_texts=false both splits have all texts"
        )
    return chosen


def _lines(path: str) -> Iterator[str]:
    if Path(path).is_dir() or path.endswith(".tar"):
        source = (folder if Path(path).is_dir() else tar)(path)
        if source.candidates(Modality.TEXT):
            source = (folder if Path(path).is_dir() else tar)(path, modality="text")
            yield from (line for item in source.items() for line in item.signal.splitlines())
        else:
            yield from source.captions()
        return
    try:
        yield from Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise FileNotFoundError(f"data.path {path!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path {path!r} must be a text file in UTF-8, a folder or a tar") from error
