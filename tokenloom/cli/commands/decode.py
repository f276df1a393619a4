"""`tokenloom decode`: turn a file of tokens back into a signal."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenloom import lazy

conversion = lazy.load("tokenloom.cli.conversion")

EPILOG = """\
The file identifies its codec by a fingerprint. Codecs without weights and shipped codecs are found by it.
Without -o an existing file is not overwritten: photo.png may be the original.
A diffusion decoder adds detail that the codes do not hold. The result is sharper, and its pixels are further from the
original.

examples:
  tokenloom decode photo.tlm -o back.png
  tokenloom decode song.tlm
  tokenloom decode photo.tlm -o back.png --codec runs/mine
  tokenloom decode photo.tlm -o sharp.png --decoder diffusion
  tokenloom decode photo.tlm -o sharp.png --decoder natural-fsq-diffusion --steps 2 --seed 1
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("input", type=Path, help="a file that tokenloom encode wrote")
    parser.add_argument(
        "-o", "--output", type=Path, help="the file to write; default: the input's name with .png, .wav or .txt"
    )
    parser.add_argument("-c", "--codec", help="the codec that wrote the file, if it is not shipped: a folder or hub id")
    parser.add_argument(
        "--decoder", metavar="NAME", help="a diffusion decoder's name or folder; diffusion: the one made for the codec"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the decoder, 1 is fastest; default: its own")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the decoder's noise (default: 0)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    options = {name: getattr(args, name) for name in ("codec", "decoder", "steps", "seed")}
    print(conversion.decode(args.input, args.output, **options))
    return 0
