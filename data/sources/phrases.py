"""Short musical phrases, composed and synthesized from a seed: melody, chords and bass in a room."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tokenloom.codecs.types import Modality

from .source import Item, Source, at_least

KEYS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # root of each triad as a degree of the scale; all end on the tonic
    "major": ((0, 4, 5, 0), (0, 5, 3, 4), (0, 3, 4, 0), (0, 2, 3, 0)),
    "minor": ((0, 5, 2, 0), (0, 3, 6, 0), (0, 5, 6, 0), (0, 6, 5, 0)),
}
TEMPI = {"slow": 8, "moderate": 12, "fast": 16}  # eighth notes in a phrase
PEAK = 0.7
"""Largest absolute sample of each phrase."""


@dataclass(frozen=True)
class Timbre:
    """An instrument by additive synthesis.

    `partials` maps frequency ratio to amplitude. The fundamental falls to 1/e in `decay` seconds, the k-th partial
    k^damping times faster. `attack` is in seconds, `vibrato` in semitones, and `breath` is the amplitude of noise.
    """

    partials: dict[float, float]
    decay: float
    damping: float = 0.0
    attack: float = 0.004
    vibrato: float = 0.0
    breath: float = 0.0


def _harmonics(*amplitudes: float) -> dict[float, float]:
    return {k + 1.0: a for k, a in enumerate(amplitudes) if a}


def _stiff(inharmonicity: float, count: int, slope: float) -> dict[float, float]:
    """Return the partials of a stiff string, the k-th at k √(1 + B k²) with inharmonicity B."""
    return {k * math.sqrt(1 + inharmonicity * k * k): k**-slope for k in range(1, count + 1)}


TIMBRES = {
    "piano": Timbre(_stiff(4e-4, 10, 1.3), decay=1.1, damping=0.7),
    "guitar": Timbre(_stiff(1e-4, 12, 1.0), decay=0.8, damping=0.9, attack=0.002),
    "marimba": Timbre({1.0: 1.0, 3.93: 0.35, 9.2: 0.12}, decay=0.35, damping=0.8, attack=0.002),
    "music box": Timbre({1.0: 1.0, 2.0: 0.25, 5.4: 0.4, 8.93: 0.15}, decay=0.9, damping=0.6, attack=0.001),
    "flute": Timbre(_harmonics(1, 0.42, 0.18, 0.06, 0.03), decay=30, attack=0.06, vibrato=0.18, breath=0.02),
    "clarinet": Timbre(_harmonics(1, 0.05, 0.55, 0.04, 0.3, 0.03, 0.14, 0.02, 0.07), decay=30, attack=0.03),
    "violin": Timbre(_harmonics(*(1 / k for k in range(1, 13))), decay=30, attack=0.07, vibrato=0.25),
    "organ": Timbre(_harmonics(1, 0.7, 0.25, 0.5, 0, 0.15, 0, 0.3), decay=30, attack=0.02),
}
ACCOMPANIMENTS = ("piano", "guitar", "organ", "marimba", "violin")


@dataclass(frozen=True)
class Note:
    """A note: MIDI pitch, start and length in seconds, loudness."""

    pitch: int
    start: float
    length: float
    velocity: float


class Phrases(Source):
    """Mono phrases of `seconds` with captions. Item i is a pure function of (seed, i)."""

    name = "phrases"
    modality = Modality.AUDIO

    def __init__(self, count: int = 64, seconds: float = 4.0, sample_rate: int = 24000, seed: int = 0) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 600:
            raise ValueError(f"seconds must be from 1 to 600, got {seconds!r}")
        self.count, self.seconds, self.seed = at_least("count", count, 1), float(seconds), at_least("seed", seed, 0)
        self.sample_rate = at_least("sample_rate", sample_rate, 8000)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.seed, self._check(i)])
        lead, backing = str(rng.choice(list(TIMBRES))), str(rng.choice(ACCOMPANIMENTS))
        tonic, mode, tempo = int(rng.integers(12)), str(rng.choice(list(SCALES))), str(rng.choice(list(TEMPI)))
        melody, chords = _compose(rng, tonic, mode, TEMPI[tempo], self.seconds)
        dry = np.zeros(round(self.seconds * self.sample_rate))
        for notes, timbre, level in ((melody, TIMBRES[lead], 1.0), (chords, TIMBRES[backing], 0.45)):
            voice = np.zeros_like(dry)
            for note in notes:
                _play(voice, note, timbre, self.sample_rate, rng)
            dry += voice * (level / max(np.sqrt(np.mean(voice**2)), 1e-9))
        wave = _room(dry, self.sample_rate, rng)
        wave *= PEAK / np.abs(wave).max()
        caption = f"a {tempo} {lead} melody over {backing} chords in {KEYS[tonic]} {mode}"
        signal = torch.from_numpy(wave.astype(np.float32))[None]
        return Item(f"phrase-{i:06d}", Modality.AUDIO, signal, self.sample_rate, caption)


def _compose(
    rng: np.random.Generator, tonic: int, mode: str, steps: int, seconds: float
) -> tuple[list[Note], list[Note]]:
    """Compose melody and accompaniment over four chords. In the last seventh of the time the notes decay."""
    step = seconds * 6 / 7 / steps
    scale, progression = SCALES[mode], PROGRESSIONS[mode][int(rng.integers(4))]
    base = 60 + (tonic if tonic < 7 else tonic - 12)

    def pitch(degree: int) -> int:
        return base + 12 * (degree // 7) + scale[degree % 7]

    bar, broken = steps // 4, rng.random() < 0.6
    chords = []
    for k, root in enumerate(progression):
        start, length = k * bar * step, bar * step
        chords.append(Note(pitch(root) - 24, start, length, 0.9))  # bass
        for j, third in enumerate((0, 2, 4)):
            delay = j * step * 0.5 if broken else 0.0
            chords.append(Note(pitch(root + third) - 12, start + delay, length - delay, 0.5))

    onsets = [s for s in range(steps) if s % bar == 0 or rng.random() < 0.72]
    degree, melody = int(rng.choice((4, 7, 9))), []
    for onset, end in zip(onsets, [*onsets[1:], steps], strict=True):
        degree = min(max(degree + int(rng.choice((-2, -1, -1, 0, 1, 1, 2))), 1), 12)
        root = progression[onset // bar]
        if onset % bar == 0 or onset == onsets[-1]:  # strong beats and the ending take a chord tone
            degree = min((d for d in range(1, 13) if (d - root) % 7 in (0, 2, 4)), key=lambda d: abs(d - degree))
        loud = 1.0 if onset % bar == 0 else float(rng.uniform(0.65, 0.9))
        melody.append(Note(pitch(degree), onset * step, (end - onset) * step * 0.97, loud))
    return melody, chords


def _play(track: np.ndarray, note: Note, timbre: Timbre, rate: int, rng: np.random.Generator) -> None:
    """Add a note to the track: partials below the Nyquist frequency under one envelope."""
    start = int((note.start + float(rng.uniform(0, 0.008))) * rate)  # a human plays slightly late
    release = 0.12
    t = np.arange(min(int((note.length + release) * rate), len(track) - start)) / rate
    frequency = 440 * 2 ** ((note.pitch - 69) / 12)
    time = t
    if timbre.vibrato:
        rise = np.minimum(t / 0.3, 1)
        depth = timbre.vibrato * math.log(2) / 12 / (2 * math.pi * 5.5)
        time = t - depth * rise * np.cos(2 * math.pi * 5.5 * t)
    tone = np.zeros_like(t)
    for ratio, amplitude in timbre.partials.items():
        if frequency * ratio < 0.45 * rate:
            decay = np.exp(-t * ratio**timbre.damping / timbre.decay)
            tone += amplitude * decay * np.sin(2 * math.pi * frequency * ratio * time + rng.uniform(0, 2 * math.pi))
    if timbre.breath:
        tone += timbre.breath * rng.standard_normal(len(t))
    attack = np.clip(t / timbre.attack, 0, 1)
    fade = np.clip((note.length + release - t) / release, 0, 1)
    track[start : start + len(t)] += note.velocity * tone * np.sin(attack * math.pi / 2) * fade**2


def _room(dry: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Add the reverberation of a small room (exponentially decaying noise as impulse response) and a final fade."""
    n = int(0.7 * rate)
    response = rng.standard_normal(n) * np.exp(-np.arange(n) / rate / 0.16)
    response *= 0.3 / math.sqrt(float(np.sum(response**2)))
    response[0] += 1
    size = 1 << (len(dry) + n - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)[: len(dry)]
    tail = int(0.1 * rate)
    wet[-tail:] *= np.cos(np.linspace(0, math.pi / 2, tail)) ** 2
    return wet
