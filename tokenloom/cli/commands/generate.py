"""`tokenloom generate`: let a model generate images, sounds and texts."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import lazy
from tokenloom.cli import options, paths
from tokenloom.cli.paths import SUFFIX

if TYPE_CHECKING:
    from torch import Tensor

    from tokenloom.codecs import Modality
    from tokenloom.models import Omni, Statistics

media = lazy.load("tokenloom.codecs.media")
models = lazy.load("tokenloom.models")
progress = lazy.load("tokenloom.progress")

EPILOG = """\
Segments are read in order. A segment that ends like the name of an image, sound or text file is a file; any other
segment is a text.
Texts and the names of written files go to stdout. The numbers of tokens, bits and seconds go to stderr.
The model has a default for each sampling option.

examples:
  tokenloom generate "red heart" --to image -o heart.png
  tokenloom generate four --to audio -o four.wav
  tokenloom generate four.wav --to text
  tokenloom generate "waving hand" --to image -n 9 --guidance 3 --temperature 0.9 --seed 0
  tokenloom generate "red heart" --to image --decoder diffusion --steps 2
"""
SAMPLING = ("guidance", "temperature", "top_k", "top_p", "best_of", "seed", "decoder", "steps")
GAP = 2
"""White pixels between the images of a grid."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("segments", nargs="*", metavar="SEGMENT", help="a text, or an image, sound or text file")
    add("-o", "--output", type=paths.path, metavar="FILE", help="a file or folder; default: named after the prompt")
    add("-n", "--count", type=int, metavar="N", default=1, help="number of results; images form a grid (default: 1)")
    add_model(parser)
    best = "draw N samples and keep the one that fits best under the model"
    parser.add_argument("--best-of", type=int, metavar="N", help=best)
    options.add_force(parser)
    options.add_import(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options of the answer, of the model and of its sampling, which `load` and SAMPLING read."""
    add = parser.add_argument
    add("--to", metavar="KIND", default="any",
        help="image, audio, text, a channel of the model, or any: the model chooses (default)")  # fmt: skip
    add("--model", type=paths.name, metavar="NAME", default="omni-small",
        help="a shipped name, a folder or a hub id (default: omni-small)")  # fmt: skip
    options.add_device(parser)
    add("--weights", choices=["float32", "int8"], default="float32",
        help="int8 samples few results faster on a CPU (default: float32)")  # fmt: skip
    add("--decoder", type=paths.name, metavar="NAME", default="plain",
        help="turns tokens into signals: plain, the codec (default), or diffusion")  # fmt: skip
    add("--steps", type=int, metavar="N", help="steps of --decoder diffusion, 1 is fastest; default: its own")
    add("--seed", type=int, metavar="N", help="equal seeds give equal results; default: a new one, which is printed")
    add("--guidance", type=float, metavar="SCALE", help="1 as trained; more follows the prompt more strictly")
    add("--temperature", type=float, metavar="T", help="0 takes the most likely token, 1 samples as trained")
    add("--top-k", type=int, metavar="K", help="sample among the K most likely tokens")
    add("--top-p", type=float, metavar="P", help="sample among the most likely tokens whose probabilities sum to P")


def load(args: argparse.Namespace) -> Omni:
    """Return the model of a command."""
    omni = models.load(args.model, device=args.device, weights=args.weights)
    if not isinstance(omni, models.Omni):
        raise ValueError(
            f"{args.command} needs a model for text, images and sound, {args.model} is a diffusion decoder"
        )
    return omni


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of sampling. Raises ValueError if they do not go together."""
    if args.steps is not None and args.decoder == "plain":
        raise ValueError(f"--steps {args.steps} needs a decoder; add --decoder diffusion")
    return {name: getattr(args, name, None) for name in SAMPLING}


def run(args: argparse.Namespace, rest: list[str]) -> int:
    # argparse collects positional arguments only up to the first option; `rest` holds the others
    prompt = [segment(text) for text in (*args.segments, *rest)]
    to, output = args.to, args.output
    chosen = sampling(args)
    folder = output if output is not None and output.is_dir() else None
    if folder is not None:
        output = None
    if output is not None:
        if to != "any" or output.suffix:  # the model chooses the suffixes
            media.modality(output)
        for source in [one for one in prompt if isinstance(one, Path)] or [None]:
            paths.check_output(output, source, force=args.force)
    omni = load(args)
    modality = None if to == "any" else omni.vocabulary.channel(to).codec.spec.modality
    if output is not None and modality is not None and (named := media.modality(output)) is not modality:
        raise ValueError(f"the name {output} is for {named}, but --to {to} generates {modality}")
    with progress.bar("sampling", None, "tokens", after=2) as bar:
        results = omni.generate(prompt, None if to == "any" else to, args.count, progress=bar.move_to, **chosen)
    force = args.force and output is not None  # a default name may be that of the prompt
    path = output or (folder or Path()) / _default_name(prompt, modality)
    if modality is None:
        segments = [segment for result in results for segment in result]
        _write_any(segments, path, omni.sample_rate, named=output is not None, force=force)
    elif modality == "text":
        _write_texts(results, free([path])[0] if folder else output)
    else:
        _write_signals(results, path, omni.sample_rate, force=force)
    if omni.statistics is not None:
        print(*_report(omni.statistics), sep="\n", file=sys.stderr)
    return 0


def grid(images: Sequence[Tensor]) -> Tensor:
    """Arrange images (3, height, width) row by row in a nearly square grid on white."""
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


def segment(text: str) -> str | Path:
    """Return a path if the text ends with the suffix of an image, sound or text file, otherwise the text."""
    try:
        media.modality(text)
    except ValueError:
        return text
    path = Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {text}; a text must not end in {path.suffix}")
    return path


def _default_name(prompt: Sequence[str | Path], modality: Modality | None) -> str:
    """Return a file name after the last segment that has letters or digits: "red heart" → red-heart.png."""
    texts = [segment.stem if isinstance(segment, Path) else segment for segment in reversed(prompt)]
    slugs = (re.sub(r"\W+", "-", text.lower()).strip("-_")[:60] for text in texts)
    name = next(filter(None, slugs), "sample" if modality is None else str(modality))
    return name if modality is None else name + SUFFIX[modality]


# -- files -----------------------------------------------------------------------------------------


def _write_texts(texts: list[str], output: Path | None) -> None:
    if output is None:
        print(*texts, sep="\n")
        return
    media.write("".join(f"{text}\n" for text in texts), output)
    print(f"{output}: {len(texts)} text{'s' * (len(texts) > 1)}")


def _write_signals(results: list[Tensor], path: Path, sample_rate: int | None, *, force: bool) -> None:
    """Write one file, or several images as a grid, or several sounds as numbered files."""
    if results[0].ndim == 3:
        (path,) = [path] if force else free([path])
        media.write(grid(results), path)
        height, width = results[0].shape[1:]
        subject = f"{len(results)} images" if len(results) > 1 else "an image"
        print(f"{path}: {subject} of {width} x {height} pixels")
        return
    assert sample_rate is not None  # every model that generates sounds has a rate
    paths = [path] if len(results) == 1 else [_numbered(path, i + 1, len(results)) for i in range(len(results))]
    for sound, path in zip(results, paths if force else free(paths), strict=True):
        media.write(sound, path, sample_rate=sample_rate)
        print(f"{path}: {sound.shape[1] / sample_rate:.2f} s at {sample_rate} Hz")


def _write_any(segments: list[str | Tensor], base: Path, sample_rate: int | None, *, named: bool, force: bool) -> None:
    """Print texts, and write images and sounds to numbered files, in the model's order."""
    signals = [segment for segment in segments if not isinstance(segment, str)]
    paths = []
    for i, segment in enumerate(signals):
        modality = "image" if segment.ndim == 3 else "audio"
        fits = named and base.suffix and media.modality(base) == modality
        path = base if fits else base.with_name((base.stem if named else base.name) + SUFFIX[modality])
        paths.append(_numbered(path, i + 1, len(signals)) if len(signals) > 1 else path)
    remaining = iter(paths if force else free(paths))
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


def free(paths: list[Path]) -> list[Path]:
    """Return these paths, or the first variants that do not exist, because an existing file may be the prompt."""
    extra, chosen = 1, paths
    while any(path.exists() for path in chosen):
        extra += 1
        chosen = [path.with_name(f"{path.stem}-{extra}{path.suffix}") for path in paths]
    return chosen


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
