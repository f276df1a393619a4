"""`tokenloom generate`: let a model generate images, sounds and texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenloom import lazy

generation = lazy.load("tokenloom.cli.generation")

EPILOG = """\
Segments are read in order. A segment that ends like the name of an image, sound or text file is a file; any other
segment is a text.
Texts, and the names of written files, go to stdout. The number of tokens, bits and seconds go to stderr.
Sampling options that are not given are the model's defaults.

examples:
  tokenloom generate "red heart" --to image -o heart.png
  tokenloom generate seven --to audio -o seven.wav
  tokenloom generate seven.wav --to text
  tokenloom generate face.png "make it dark skin tone" --to image
  tokenloom generate "waving hand" --to image -n 9 --guidance 3 --temperature 0.9 --seed 0
  tokenloom generate "red heart" --to image --decoder diffusion --steps 2
  tokenloom generate "three plus four"
"""
SAMPLING = ("guidance", "temperature", "top_k", "top_p", "best_of", "seed", "decoder", "steps")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("segments", nargs="*", metavar="SEGMENT", help="a text, or an image, sound or text file")
    add("--to", metavar="KIND", default="any",
        help="image, audio, text, a channel of the model, or any: the model chooses (default)")  # fmt: skip
    add("-o", "--output", type=Path, metavar="FILE", help="the file to write; default: named after the prompt")
    add("-n", "--count", type=int, metavar="N", default=1, help="number of results; images form a grid (default: 1)")
    add("--model", metavar="NAME", default="omni-small",
        help="a shipped name, a folder or a hub id (default: omni-small)")  # fmt: skip
    add("--decoder", metavar="NAME", default="plain",
        help="turns tokens into signals: plain, the codec (default), or diffusion")  # fmt: skip
    add("--steps", type=int, metavar="N", help="steps of --decoder diffusion, 1 is fastest; default: its own")
    add("--seed", type=int, metavar="N", help="equal seeds give equal results; default: a new one, which is printed")
    add("--guidance", type=float, metavar="SCALE", help="1 as trained; more follows the prompt more strictly")
    add("--temperature", type=float, metavar="T", help="0 takes the most likely token, 1 samples as trained")
    add("--top-k", type=int, metavar="K", help="sample among the K most likely tokens")
    add("--top-p", type=float, metavar="P", help="sample among the most likely tokens whose probabilities sum to P")
    add("--best-of", type=int, metavar="N", help="draw N samples and keep the one that fits best under the model")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    sampling = {name: getattr(args, name) for name in SAMPLING}
    # argparse collects positionals only up to the first option; those after it are in `rest`
    generation.run([*args.segments, *rest], args.to, args.output, model=args.model, n=args.count, **sampling)
    return 0
