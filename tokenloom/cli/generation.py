"""Generation of images, sounds and texts into files, as `tokenloom generate` runs it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenloom import models, progress
from tokenloom.cli import outputs
from tokenloom.codecs import Modality, media
from tokenloom.models import Statistics

GAP = 2
"""White pixels between the images of a grid."""


def run(
    segments: Sequence[str], to: str, output: Path | None = None, *, model: str, n: int = 1, **sampling: Any
) -> None:
    """Generate and write results. Texts and file names go to stdout, the cost to stderr.

    Args:
        segments: Each a text, or a file name if it ends like one.
        to: A modality, the name of a channel, or "any".
        output: The file to write; None for a new name after the prompt.
        model: A shipped name, a folder or a hub id.
        n: Number of results.
        **sampling: seed, decoder, steps, guidance, temperature, top_k, top_p, best_of, as in `Omni.generate`.
    """
    prompt = [_segment(given) for given in segments]
    if output is not None:
        media.modality(output)
        outputs.check(output)
    omni = models.load(model)
    if not isinstance(omni, models.Omni):
        raise ValueError(f"generate needs a model for text, images and sound, {model} is a diffusion decoder")
    channel = None if to == "any" else omni.vocabulary.channel(to)
    modality = None if channel is None else channel.codec.spec.modality
    if output is not None and modality is not None and (named := media.modality(output)) is not modality:
        raise ValueError(f"the name {output} is for {named}, but --to {to} generates {modality}")
    with _bar() as advance:
        results = omni.generate(prompt, None if to == "any" else to, n, progress=advance, **sampling)
    default = _default_name(prompt, modality)
    if modality is None:
        generated = [segment for result in results for segment in result]
        _write_any(generated, output or Path(default), omni.sample_rate, fresh=output is None)
    elif modality is Modality.TEXT:
        _write_texts(results, output)
    else:
        path = output or Path(default + outputs.SUFFIX[modality])
        _write_signals(results, path, omni.sample_rate, fresh=output is None)
    if omni.statistics is not None:
        print(*_report(omni.statistics), sep="\n", file=sys.stderr)


def grid(images: Sequence[Tensor]) -> Tensor:
    """Arrange images (3, height, width) in one, row by row, with as many rows as columns if possible, on white."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    sheet = images[0].new_ones(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return sheet


def _segment(given: str) -> str | Path:
    """Return a path if the suffix is that of an image, sound or text file, otherwise the text."""
    try:
        media.modality(given)
    except ValueError:
        return given
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {given}; a text must not end in {path.suffix}")
    return path


def _default_name(prompt: Sequence[str | Path], modality: Modality | None) -> str:
    """Return a file name without suffix after the last segment that has letters or digits: "red heart" → red-heart."""
    for segment in reversed(prompt):
        text = segment.stem if isinstance(segment, Path) else segment
        if slug := re.sub(r"\W+", "-", text.lower()).strip("-_")[:60]:
            return slug
    return "sample" if modality is None else str(modality)


# -- files -----------------------------------------------------------------------------------------


def _write_texts(texts: list[str], output: Path | None) -> None:
    if output is None:
        print(*texts, sep="\n")
        return
    media.write("".join(f"{text}\n" for text in texts), output)
    print(f"{output}: {len(texts)} text{'s' * (len(texts) > 1)}")


def _write_signals(results: list[Tensor], path: Path, sample_rate: int | None, *, fresh: bool) -> None:
    """Write one file, or several images as a grid, or several sounds as numbered files."""
    if results[0].ndim == 3:
        (path,) = _free([path]) if fresh else [path]
        media.write(grid(results), path)
        height, width = results[0].shape[1:]
        subject = f"{len(results)} images" if len(results) > 1 else "an image"
        print(f"{path}: {subject} of {width} x {height} pixels")
        return
    assert sample_rate is not None  # every model that generates sounds has a rate
    paths = [path] if len(results) == 1 else [_numbered(path, i + 1, len(results)) for i in range(len(results))]
    for sound, path in zip(results, _free(paths) if fresh else paths, strict=True):
        media.write(sound, path, sample_rate=sample_rate)
        print(f"{path}: {sound.shape[1] / sample_rate:.2f} s at {sample_rate} Hz")


def _write_any(segments: list[str | Tensor], base: Path, sample_rate: int | None, *, fresh: bool) -> None:
    """Print texts, and write images and sounds to numbered files, in the model's order."""
    signals = [segment for segment in segments if not isinstance(segment, str)]
    paths = []
    for i, segment in enumerate(signals):
        modality = Modality.IMAGE if segment.ndim == 3 else Modality.AUDIO
        fits = bool(base.suffix) and not fresh and media.modality(base) is modality
        path = base if fits else base.with_name((base.name if fresh else base.stem) + outputs.SUFFIX[modality])
        paths.append(_numbered(path, i + 1, len(signals)) if len(signals) > 1 else path)
    remaining = iter(_free(paths) if fresh else paths)
    for segment in segments:
        if isinstance(segment, str):
            print(segment)
        else:
            path = next(remaining)
            media.write(segment, path, sample_rate=sample_rate)
            print(path)
    if not segments:
        print("the model ended the document without generating anything", file=sys.stderr)


def _numbered(path: Path, number: int, count: int) -> Path:
    return path.with_name(f"{path.stem}-{number:0{len(str(count))}d}{path.suffix}")


def _free(paths: list[Path]) -> list[Path]:
    """Return these names, or the first variants that do not exist: an existing file may be the prompt."""
    extra, chosen = 1, paths
    while any(path.exists() for path in chosen):
        extra += 1
        chosen = [path.with_name(f"{path.stem}-{extra}{path.suffix}") for path in paths]
    return chosen


# -- reports ---------------------------------------------------------------------------------------


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar; yield a function of the number of tokens so far and in total, if known."""
    with progress.bar("sampling", None, "tokens") as advance:
        before = 0

        def update(done: int, total: int | None) -> None:
            nonlocal before
            advance(done - before, total=total)
            before = done

        yield update


def _report(statistics: Statistics) -> list[str]:
    """Return two lines: tokens and bits; seconds and seed."""
    tokens, count = sum(statistics.tokens), len(statistics.tokens)
    results = f" in {count} results" if count > 1 else ""
    bits = f"{sum(statistics.nominal):.1f} bits nominal, {sum(statistics.modelled):.1f} bits under the model"
    seconds = ", ".join(f"{stage} {duration:.2f} s" for stage, duration in statistics.seconds.items())
    samples = f", the best of {statistics.tries} samples" if statistics.tries > 1 else ""
    return [
        f"{statistics.prompt_tokens[0]} tokens of prompt; {tokens} tokens{results}{samples}: {bits}",
        f"{seconds}; seed {statistics.seed}",
    ]
