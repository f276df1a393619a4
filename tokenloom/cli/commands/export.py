"""`tokenloom export`: write a codec's encoder and decoder as ONNX or PyTorch programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenloom import lazy

exporting = lazy.load("tokenloom.cli.exporting")

EPILOG = """\
The encoder turns signals of any size into indices. The decoder turns indices into signals whose sizes are multiples of
the stride. config.json describes their shapes, and README.md how to run them. The written programs are run and compared
with the codec before the folder gets its name. ONNX needs pip install 'tokenloom[export]'.

examples:
  tokenloom export natural-fsq
  tokenloom export digits-rvq --setting 3 -o exported/digits
  tokenloom export runs/mine --format torch.export
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("codec", metavar="CODEC", help="a shipped name, a folder or a hub id")
    parser.add_argument("--format", default="onnx", help="onnx (default) or torch.export")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the codec's name and the format")
    parser.add_argument("--setting", help="a value of the codec's setting to fix; default: the codec's own")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    print(exporting.run(args.codec, args.format, args.output, args.setting))
    return 0
