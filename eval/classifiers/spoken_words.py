"""Spoken-word classifier used to score generated speech. It is trained on real clips only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenloom.codecs import media
from tokenloom.metrics.audio import log_mel

from . import fitting

SAMPLE_RATE = 8000
"""Hz of the clips."""
FRAMES = 104
"""Frames of a spectrogram, 1.66 s from the start of the word. Every spoken digit is shorter."""
MELS, FRAME_SECONDS, FLOOR = 40, 0.032, 1e-4
EPOCHS, BATCH = 24, 45
RECIPE = 1
"""Version of the training. It changes the name in the cache."""


class SpokenWordClassifier(nn.Module):
    """Classifier of log-mel spectrograms of single spoken words, with 0.2 million weights.

    It has four convolutions over time, mean and maximum over time, and one linear layer.
    """

    def __init__(self, words: Sequence[str], width: int = 96) -> None:
        super().__init__()
        self.words = tuple(words)
        layers: list[nn.Module] = []
        for before, stride in ((MELS, 1), (width, 2), (width, 2), (width, 2)):
            layers += [nn.Conv1d(before, width, 5, stride, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width, len(words))

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Map spectrograms (batch, mels, frames) to logits (batch, words)."""
        return self.head(F.dropout(self.embed(spectrograms), 0.2, self.training))

    def embed(self, spectrograms: Tensor) -> Tensor:
        """Map spectrograms (batch, mels, frames) to the features before the last layer, (batch, 2 · width)."""
        hidden = self.features(spectrograms)
        return torch.cat([hidden.mean(2), hidden.amax(2)], 1)

    @torch.no_grad()
    def classify(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Return the most likely word of each clip, float32 (1, samples) at 8 kHz, silence included."""
        if not waveforms:
            return []
        inputs = torch.stack([spectrogram(w) for w in waveforms])
        return [self.words[i] for i in self.eval()(inputs).argmax(1).tolist()]


def resample(waveform: Tensor, sample_rate: int | None) -> Tensor:
    """Convert a waveform (channels, samples) to (1, samples) at 8 kHz."""
    return media.resample(media.mix(waveform, 1), sample_rate, SAMPLE_RATE)


def spectrogram(waveform: Tensor) -> Tensor:
    """Return the standardized log-mel spectrogram (mels, frames) of a clip (1, samples) at 8 kHz.

    Silence at both ends is cut off. Level and background are normalized, because they depend on the recording.
    """
    if waveform.ndim != 2 or waveform.shape[0] != 1:
        raise ValueError(f"a clip must be (1, samples) at {SAMPLE_RATE} Hz, got shape {tuple(waveform.shape)}")
    waveform = waveform / waveform.abs().amax().clamp_min(1e-4)
    loud = (waveform[0].abs() > 0.05).nonzero()[:, 0]
    if len(loud):
        margin = SAMPLE_RATE // 50
        waveform = waveform[:, max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]
    mel = log_mel(waveform, SAMPLE_RATE, FRAME_SECONDS, MELS, FLOOR)[0].float()[:, :FRAMES]
    mel = (mel - mel.mean()) / mel.std().clamp_min(1e-3)
    return F.pad(mel, (0, FRAMES - mel.shape[1]), value=mel.min().item())


def train(
    clips: Sequence[Tensor], words: Sequence[str], progress: fitting.Progress | None = None
) -> SpokenWordClassifier:
    """Train a classifier on clips, float32 (1, samples) at 8 kHz, and the word of each. The result is deterministic.

    Augmentation: shifts in time and pitch, noise, masked bands and frames (SpecAugment, arXiv 1904.08779).
    """
    vocabulary = sorted(set(words))
    targets = torch.tensor([vocabulary.index(word) for word in words])
    with fitting.reproducible():
        inputs = torch.stack([spectrogram(clip) for clip in clips])
        network = SpokenWordClassifier(vocabulary).train()

        def loss(rows: Tensor) -> Tensor:
            return F.cross_entropy(network(_augment(inputs[rows])), targets[rows], label_smoothing=0.05)

        steps = EPOCHS * -(-len(inputs) // BATCH)
        rows = fitting.batches(len(inputs), BATCH, EPOCHS)
        fitting.fit(network, rows, loss, steps, rate=2e-3, weight_decay=0.02, warmup=0.15, progress=progress)
    return network.eval()


def _augment(batch: Tensor) -> Tensor:
    """Shift each spectrogram by up to 6 frames and 2 bands, mask some frames and bands, and add noise."""
    varied = torch.empty_like(batch)
    for i, mel in enumerate(batch):
        frames, bands = int(torch.randint(-6, 7, ())), int(torch.randint(-2, 3, ()))
        mel = mel.roll((bands, frames), (0, 1))
        start, band = int(torch.randint(0, 60, ())), int(torch.randint(0, MELS, ()))
        mel[:, start : start + int(torch.randint(0, 9, ()))] = 0
        mel[band : band + int(torch.randint(0, 7, ()))] = 0
        varied[i] = mel
    return varied + 0.1 * torch.rand(len(batch), 1, 1) * torch.randn_like(batch)


def trained(
    clips: Sequence[Tensor],
    words: Sequence[str],
    folder: str | Path | None = None,
    progress: fitting.Progress | None = None,
) -> SpokenWordClassifier:
    """Return the classifier of clips and their words, from `folder` (default: the user's cache) or newly trained."""
    network = SpokenWordClassifier(sorted(set(words)))
    name = f"spoken-words-{fingerprint(clips, words)}"
    return fitting.cached(name, network, lambda: train(clips, words, progress), folder)


def fingerprint(clips: Sequence[Tensor], words: Sequence[str]) -> str:
    """Return 16 hex digits that depend on the version, every sample and every word."""
    digest = hashlib.sha256(f"{RECIPE} {EPOCHS} {BATCH} {MELS} {FRAMES}".encode())
    for clip, word in zip(clips, words, strict=True):
        digest.update(f"{word} {tuple(clip.shape)}".encode())
        digest.update(clip.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
