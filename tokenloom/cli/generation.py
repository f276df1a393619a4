"""`tokenloom generate`: texts, pictures and sounds in; what the model makes of them out."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenloom.codecs import Modality, media

if TYPE_CHECKING:
    from tokenloom.models.omni import Statistics

SUFFIX = {Modality.IMAGE: ".png", Modality.AUDIO: ".wav", Modality.TEXT: ".txt"}
GAP = 2
"""White pixels between the pictures of a grid."""


def run(
    segments: Sequence[str], to: str, output: Path | None = None, *, model: str, n: int = 1, **sampling: Any
) -> None:
    """Generate, write and say so: texts and names of files on stdout, what it cost on stderr.

    segments  each a text, or the name of a file where it ends like one
    to        a modality, the name of a channel, or "any"
    output    the file to write; None: named after the prompt, next to nothing that is there
    sampling  seed, decoder, steps, guidance, temperature, top_k, top_p, best_of, as in Omni.generate
    """
    prompt = [_segment(given) for given in segments]
    if output is not None:
        _check(output)
    from tokenloom import models

    omni = models.load(model)
    channel = None if to == "any" else omni.vocabulary.channel(to)
    kind = None if channel is None else channel.codec.spec.modality
    if output is not None and kind is not None and media.modality(output) is not kind:
        raise ValueError(f"{output} is a name for {media.modality(output)}, and --to {to} makes {kind}")
    with _bar() as progress:
        results = omni.generate(prompt, None if to == "any" else to, n, progress=progress, **sampling)
    stem = _stem(prompt, kind)
    if kind is None:
        made = [segment for result in results for segment in result]
        _write_any(made, output or Path(stem), omni.sample_rate, fresh=output is None)
    elif kind is Modality.TEXT:
        _write_texts(results, output)
    else:
        _write_signals(results, output or Path(stem + SUFFIX[kind]), omni.sample_rate, fresh=output is None)
    print(*_report(omni.statistics), sep="\n", file=sys.stderr)


def _segment(given: str) -> str | Path:
    """A path where the suffix is that of a picture, sound or text file; else a text."""
    try:
        media.modality(given)
    except ValueError:
        return given
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {given}; a text must not end in {path.suffix}")
    return path


def _check(output: Path) -> None:
    """Refuse, before any work, what could not be written."""
    media.modality(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; the output is a file")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} to write {output.name} to")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"{output.parent} is a folder that cannot be written to")


def _stem(prompt: Sequence[str | Path], kind: Modality | None) -> str:
    """A file name after the last segment of the prompt that has one: "red heart" → red-heart."""
    for segment in reversed(prompt):
        text = segment.stem if isinstance(segment, Path) else segment
        if slug := re.sub(r"\W+", "-", text.lower()).strip("-_")[:60]:
            return slug
    return "sample" if kind is None else str(kind)


# -- what is written ----------------------------------------------------------------------------


def _write_texts(texts: list[str], output: Path | None) -> None:
    if output is None:
        print(*texts, sep="\n")
        return
    media.write("".join(f"{text}\n" for text in texts), output)
    print(f"{output}: {len(texts)} text{'s' * (len(texts) > 1)}")


def _write_signals(results: list[Tensor], path: Path, sample_rate: int | None, *, fresh: bool) -> None:
    """One file; several pictures as one grid, several sounds as numbered files."""
    if results[0].ndim == 3:
        (path,) = _free([path]) if fresh else [path]
        media.write(grid(results), path)
        height, width = results[0].shape[1:]
        each = f"{len(results)} pictures of" if len(results) > 1 else "a picture of"
        print(f"{path}: {each} {width} x {height} pixels")
        return
    paths = [path] if len(results) == 1 else [_numbered(path, i + 1, len(results)) for i in range(len(results))]
    for sound, path in zip(results, _free(paths) if fresh else paths, strict=True):
        media.write(sound, path, sample_rate=sample_rate)
        print(f"{path}: {sound.shape[1] / sample_rate:.2f} s at {sample_rate} Hz")


def _write_any(segments: list[str | Tensor], base: Path, sample_rate: int | None, *, fresh: bool) -> None:
    """Texts printed, pictures and sounds in numbered files, all in the model's order."""
    signals = [segment for segment in segments if not isinstance(segment, str)]
    paths = []
    for i, segment in enumerate(signals):
        kind = Modality.IMAGE if segment.ndim == 3 else Modality.AUDIO
        own = bool(base.suffix) and not fresh and media.modality(base) is kind
        path = base if own else base.with_name((base.name if fresh else base.stem) + SUFFIX[kind])
        paths.append(_numbered(path, i + 1, len(signals)) if len(signals) > 1 else path)
    files = iter(_free(paths) if fresh else paths)
    for segment in segments:
        if isinstance(segment, str):
            print(segment)
        else:
            path = next(files)
            media.write(segment, path, sample_rate=sample_rate)
            print(path)
    if not segments:
        print("the model ended the document at once", file=sys.stderr)


def _numbered(path: Path, number: int, of: int) -> Path:
    return path.with_name(f"{path.stem}-{number:0{len(str(of))}d}{path.suffix}")


def _free(paths: list[Path]) -> list[Path]:
    """These names, or the first that nothing has: the file in the way may be the prompt."""
    extra, chosen = 1, paths
    while any(path.exists() for path in chosen):
        extra += 1
        chosen = [path.with_name(f"{path.stem}-{extra}{path.suffix}") for path in paths]
    return chosen


def grid(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, height, width) → one, in rows as long as their number, white where nothing is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
    sheet = pictures[0].new_ones(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return sheet


# -- what is said -------------------------------------------------------------------------------


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over tokens on stderr, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("tokens"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("tokens", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _report(statistics: Statistics) -> list[str]:
    """Tokens, bits and seconds."""
    tokens, count = sum(statistics.tokens), len(statistics.tokens)
    each = f" in {count} results" if count > 1 else ""
    bits = f"{sum(statistics.nominal):.1f} bits nominal, {sum(statistics.modelled):.1f} bits under the model"
    seconds = ", ".join(f"{stage} {taken:.2f} s" for stage, taken in statistics.seconds.items())
    tries = f", the best of {statistics.tries} samples" if statistics.tries > 1 else ""
    return [
        f"{statistics.prompt_tokens[0]} tokens of prompt; {tokens} tokens{each}{tries}: {bits}",
        f"{seconds}; seed {statistics.seed}",
    ]
