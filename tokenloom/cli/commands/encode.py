"""`tokenloom encode`: turn a file into a file of tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenloom import lazy

conversion = lazy.load("tokenloom.cli.conversion")

EPILOG = """\
An audio codec without weights, such as audio/opus, is built for the sample rate and channels of the file.
For a trained audio codec, the sound is converted to the sample rate and channels of the codec.

examples:
  tokenloom encode photo.png --codec natural-fsq
  tokenloom encode photo.png -o small.tlm --codec image/avif --bpp 0.2
  tokenloom encode photo.png --codec image/jpeg --setting 30
  tokenloom encode song.wav --codec audio/opus --kbps 24
  tokenloom encode notes.txt --codec text/bytes
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("input", type=Path, help="an image, sound or text file")
    parser.add_argument("-o", "--output", type=Path, help="the file to write; default: the input's name with .tlm")
    parser.add_argument("-c", "--codec", help="a registered name, a shipped name, a folder or a hub id")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--setting", help="a value of the codec's setting (listed by tokenloom codecs)")
    quality.add_argument("--psnr", type=float, metavar="DB", help="use the lowest setting that reaches this PSNR")
    quality.add_argument("--bpp", type=float, metavar="BITS", help="use the highest setting within this rate")
    quality.add_argument("--kbps", type=float, metavar="KBIT", help="use the highest setting within this rate")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    targets = {"psnr": args.psnr, "bits_per_pixel": args.bpp, "kbps": args.kbps}
    target = {name: value for name, value in targets.items() if value is not None}
    print(conversion.encode(args.input, args.codec, args.output, setting=args.setting, target=target))
    return 0
