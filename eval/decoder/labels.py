"""Features of a network trained on labels: what pictures show, or sounds say, in the captions of the training split.

They are the second space in which sets are compared (see kernel.py). The network has seen real training items only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom.codecs import media
from tokenloom.codecs.types import Modality
from tokenloom.data import Item
from tokenloom.metrics.errors import Unmeasurable

from .. import recognizer as recogniser

OFTEN = 8
"""Captions that a word, or items that a spoken caption, has to occur in to count as a label."""
FEWEST = {Modality.IMAGE: 4, Modality.AUDIO: 2}
"""Labels that there have to be."""
MOST = 4096
"""Items that are learned from at most."""
SIDE, WINDOW = 128, 64
"""Pixels of a side that are kept of a picture, its middle, and that are looked at in a training step."""
WIDTHS = (16, 32, 64, 128)
EPOCHS, BATCH = 10, 32
RECIPE = 1
"""Counts changes to anything here that changes the weights: a cached network of another recipe is not used."""
SPACE = "labels"
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Labelled:
    """A network of labels: `features` of one signal, (channels, *axes) → (d,); the likeliest label of it by `name`."""

    features: Callable[[Tensor], Tensor]
    name: Callable[[Tensor], str]
    labels: list[str]
    about: str

    def right(self, signals: Sequence[Tensor], captions: Sequence[str]) -> float | None:
        """The share of real signals whose likeliest label is in their caption, of those that have any label."""
        split = words if self.about.startswith("pictures") else lambda caption: {caption}
        known = [(x, split(c)) for x, c in zip(signals, captions, strict=True) if split(c) & set(self.labels)]
        return sum(self.name(x) in said for x, said in known) / len(known) if known else None


def learned(
    items: Iterable[Item], sample_rate: int | None = None, folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Labelled:  # fmt: skip
    """The label features of the modality of `items`, real ones of the training split, with captions.

    sample_rate  Hz of the sounds that will be asked about
    folder       where trained networks are kept; default: the user's cache
    Raises Unmeasurable where the captions hold too few labels.
    """
    modality, captions, seen = Modality.IMAGE, [], []
    for item in items:  # of which only what is learned from is kept
        modality = item.modality
        captions.append(item.caption)
        seen.append(middle(item.signal) if modality is Modality.IMAGE else _at_8khz(item.signal, item.sample_rate))
    labels = enough(captions, modality)
    if modality is Modality.IMAGE:
        return _shown(seen, captions, labels, folder, progress)
    known = [i for i, caption in enumerate(captions) if caption in labels]
    network = recogniser.trained([seen[i] for i in known], [captions[i] for i in known], folder, progress)
    return _spoken(network, labels, len(known), sample_rate)


def _at_8khz(x: Tensor, sample_rate: int) -> Tensor:
    return media.convert(x, sample_rate, recogniser.SAMPLE_RATE, 1)


def enough(captions: Sequence[str], modality: Modality) -> list[str]:
    """The labels of some captions, sorted; Unmeasurable where there are too few.

    Of pictures: words in at least OFTEN captions and not in all of them. Of sounds: whole captions.
    """
    split = words if modality is Modality.IMAGE else lambda caption: {caption} - {""}
    counts = Counter(label for caption in captions for label in split(caption))
    found = sorted(label for label, n in counts.items() if OFTEN <= n < len(captions))
    if len(found) < FEWEST[modality]:
        what = "words" if modality is Modality.IMAGE else "captions"
        raise Unmeasurable(
            f"{len(found)} {what} occur in {OFTEN} or more of the {len(captions)} training captions; "
            f"a network of labels wants {FEWEST[modality]}"
        )
    return found


def words(caption: str) -> set[str]:
    """The words of a caption, in small letters."""
    return set(re.findall(r"[^\W\d_]+", caption.lower()))


# -- sounds ----------------------------------------------------------------------------------------


def _spoken(network: recogniser.Recogniser, labels: list[str], clips: int, sample_rate: int) -> Labelled:
    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        found = network.features(recogniser.spectrogram(_at_8khz(x, sample_rate))[None])
        return torch.cat([found.mean(2), found.amax(2)], 1)[0]

    about = (
        f"sounds: mean and maximum over time of the last layer before the labels of a network of {len(labels)} "
        f"captions, trained on {clips} real training clips; it hears the first 1.7 s from the first loud one on, "
        f"at {recogniser.SAMPLE_RATE} Hz, whatever the level"
    )
    return Labelled(features, lambda x: network.hear([_at_8khz(x, sample_rate)])[0], labels, about)


# -- pictures --------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Picture (batch, 3, height, width) in [0, 1], of any size → logits of its labels: four convolutions, the mean."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            layers += [nn.Conv2d(before, width, 3, 1 if i == 0 else 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], labels)

    def features(self, x: Tensor) -> Tensor:
        """(batch, 128): what the labels are told by."""
        return self.layers(x * 2 - 1).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(x), 0.2, self.training))


def _shown(
    pictures: Sequence[Tensor], captions: Sequence[str], labels: list[str], folder: str | Path | None,
    progress: Progress | None,
) -> Labelled:  # fmt: skip
    said = [words(caption) for caption in captions]
    targets = torch.tensor([[float(label in some) for label in labels] for some in said])
    network = _trained(pictures, targets, labels, folder, progress)

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        return network.features(x[None])[0]

    @torch.no_grad()
    def name(x: Tensor) -> str:
        return labels[int(network(x[None])[0].argmax())]

    about = (
        f"pictures: the {WIDTHS[-1]} features, means over the whole picture, by which a network of "
        f"{len(WIDTHS)} convolutions tells the {len(labels)} words that occur in {OFTEN} or more captions, trained on "
        f"{len(pictures)} real training pictures"
    )
    return Labelled(features, name, labels, about)


def middle(picture: Tensor) -> Tensor:
    """uint8 (3, ≤ SIDE, ≤ SIDE): what is kept of a picture for training."""
    top, left = (max(0, (n - SIDE) // 2) for n in picture.shape[1:])
    return media.to_uint8(picture[:, top : top + SIDE, left : left + SIDE])


def _trained(
    pictures: Sequence[Tensor], targets: Tensor, labels: Sequence[str], folder: str | Path | None,
    progress: Progress | None,
) -> Tagger:  # fmt: skip
    """A tagger from the cache, else trained: deterministic, one thread."""
    from safetensors.torch import load_file, save_file

    digest = hashlib.sha256(f"{RECIPE} {EPOCHS} {BATCH} {WIDTHS} {WINDOW} {labels}".encode())
    for picture, target in zip(pictures, targets, strict=True):
        digest.update(f"{tuple(picture.shape)}".encode() + picture.contiguous().numpy().tobytes())
        digest.update(target.numpy().tobytes())
    path = Path(folder or recogniser.cache_folder()) / f"tagger-{digest.hexdigest()[:16]}.safetensors"
    network = Tagger(len(labels))
    if path.is_file():
        network.load_state_dict(load_file(path))
        return network.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Tagger(len(labels)).train()
            _fit(network, pictures, targets, progress or (lambda share: None))
    finally:
        torch.set_num_threads(threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")  # two evaluations may train it at a time
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, temporary)
    temporary.replace(path)
    return network.eval()


def _fit(network: Tagger, pictures: Sequence[Tensor], targets: Tensor, progress: Progress) -> None:
    steps = -(-len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * steps, pct_start=0.2)
    rare = ((len(targets) - targets.sum(0)) / targets.sum(0)).sqrt()  # else the network says "no" to all
    for epoch in range(EPOCHS):
        for step, rows in enumerate(torch.randperm(len(pictures)).split(BATCH)):
            batch = torch.stack([_window(pictures[i]) for i in rows.tolist()])
            loss = F.binary_cross_entropy_with_logits(network(batch), targets[rows], pos_weight=rare)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress((epoch + (step + 1) / steps) / EPOCHS)


def _window(picture: Tensor) -> Tensor:
    """A random part of WINDOW by WINDOW pixels, shifted by up to 4 where the picture is smaller; in [0, 1]."""
    x = picture.float()[None] / 255
    missing = [max(0, WINDOW + 4 - n) for n in x.shape[:1:-1]]
    x = F.pad(x, [side for n in missing for side in (n // 2, n - n // 2)], mode="replicate")
    top, left = (int(torch.randint(n - WINDOW + 1, ())) for n in x.shape[2:])
    return x[0, :, top : top + WINDOW, left : left + WINDOW]
