"""Who hears whether a spoken digit is right: a small network that has heard real training clips only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenloom.metrics.audio import log_mel

SAMPLE_RATE = 8000
FRAMES = 104
"""Spectrogram frames that are heard: 1.66 s from the first loud one on, more than any digit of the pack lasts."""
MELS, FRAME_SECONDS, FLOOR = 40, 0.032, 1e-4
EPOCHS, BATCH = 24, 45
RECIPE = 1
"""Counts changes to anything here that changes the weights: a cached network of another recipe is not used."""


class Recogniser(nn.Module):
    """Log-mel spectrogram → which of its words was said.

    Three stages of convolution over time on the mel bands, mean and maximum over time, one linear layer:
    0.2 million weights. It knows nothing of codecs or of what is judged with it.
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
        """(batch, mels, frames) as `spectrogram` gives them → (batch, words) logits."""
        found = self.features(spectrograms)
        pooled = torch.cat([found.mean(2), found.amax(2)], 1)
        return self.head(F.dropout(pooled, 0.2, self.training))

    @torch.no_grad()
    def hear(self, waveforms: Sequence[Tensor]) -> list[str]:
        """float32 (1, samples) each, at 8 kHz → the word heard in each; a silent one is heard as some word, too."""
        if not waveforms:
            return []
        inputs = torch.stack([spectrogram(w) for w in waveforms])
        return [self.words[i] for i in self.eval()(inputs).argmax(1).tolist()]


def spectrogram(waveform: Tensor) -> Tensor:
    """(1, samples) at 8 kHz → (mels, frames) natural log, mean 0 and spread 1, silence at the ends left out.

    Level, length of the pauses and background are a recording's, not the word's.
    """
    if waveform.ndim != 2 or waveform.shape[0] != 1:
        raise ValueError(f"a clip has shape {tuple(waveform.shape)}; (1, samples) at {SAMPLE_RATE} Hz is wanted")
    waveform = waveform / waveform.abs().amax().clamp_min(1e-4)
    loud = waveform[0].abs() > 0.05
    where = loud.nonzero()[:, 0]
    if len(where):
        margin = SAMPLE_RATE // 50
        waveform = waveform[:, max(0, int(where[0]) - margin) : int(where[-1]) + margin]
    mel = log_mel(waveform, SAMPLE_RATE, FRAME_SECONDS, MELS, FLOOR)[0].float()[:, :FRAMES]
    mel = (mel - mel.mean()) / mel.std().clamp_min(1e-3)
    return F.pad(mel, (0, FRAMES - mel.shape[1]), value=mel.min().item())


def train(clips: Sequence[Tensor], words: Sequence[str], progress: Callable[[float], None] | None = None) -> Recogniser:
    """A recogniser of real clips ((1, samples) float32 at 8 kHz) and the word said in each.

    Deterministic: fixed seeds, one thread. `progress` is told the share that is done.
    Augmentation: shifts in time and pitch, noise, masked bands and stretches (SpecAugment, arXiv 1904.08779).
    """
    vocabulary = sorted(set(words))
    targets = torch.tensor([vocabulary.index(word) for word in words])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inputs = torch.stack([spectrogram(clip) for clip in clips])
            network = Recogniser(vocabulary).train()
            _fit(network, inputs, targets, progress or (lambda share: None))
    finally:
        torch.set_num_threads(threads)
    return network.eval()


def _fit(network: Recogniser, inputs: Tensor, targets: Tensor, progress: Callable[[float], None]) -> None:
    steps = -(-len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS * steps, pct_start=0.15)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(inputs))
        for step, rows in enumerate(order.split(BATCH)):
            loss = F.cross_entropy(network(_vary(inputs[rows])), targets[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress((epoch + (step + 1) / steps) / EPOCHS)


def _vary(batch: Tensor) -> Tensor:
    """Each spectrogram shifted by up to 6 frames and 2 bands, with a stretch and some bands blanked."""
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
    progress: Callable[[float], None] | None = None,
) -> Recogniser:
    """`train`, unless `folder` (default: the user's cache) holds the network of exactly these clips and words."""
    from safetensors.torch import load_file, save_file

    path = Path(folder or cache_folder()) / f"recogniser-{fingerprint(clips, words)}.safetensors"
    if path.is_file():
        network = Recogniser(sorted(set(words)))
        network.load_state_dict(load_file(path))
        return network.eval()
    network = train(clips, words, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")  # two evaluations may train it at a time
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, temporary)
    temporary.replace(path)
    return network


def fingerprint(clips: Sequence[Tensor], words: Sequence[str]) -> str:
    """16 hex digits that change with the recipe, every sample and every word."""
    digest = hashlib.sha256(f"{RECIPE} {EPOCHS} {BATCH} {MELS} {FRAMES}".encode())
    for clip, word in zip(clips, words, strict=True):
        digest.update(f"{word} {tuple(clip.shape)}".encode())
        digest.update(clip.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/tokenloom, or ~/.cache/tokenloom."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenloom"
