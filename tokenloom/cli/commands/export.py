"""`tokenloom export`: write a codec's encoder and decoder as ONNX or PyTorch programs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tokenloom import lazy
from tokenloom.cli import known, options, paths
from tokenloom.cli.commands.encode import parse_setting

codecs = lazy.load("tokenloom.codecs")
exporting = lazy.load("tokenloom.codecs.export.exporting")
progress = lazy.load("tokenloom.progress")

EPILOG = f"""\
{known.MAPPING}
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
    parser.add_argument("codec", type=known.codec, metavar="CODEC", help=known.HELP)
    parser.add_argument("--format", default="onnx", help="onnx (default) or torch.export")
    parser.add_argument(
        "-o", "--output", type=paths.path, metavar="FOLDER", help="default: the codec's name and the format"
    )
    parser.add_argument(
        "--device", default="cpu", help="device of a torch.export program (default: cpu); ONNX runs on any"
    )
    parser.add_argument("--setting", help="a value of the codec's setting to fix; default: the codec's own")
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    known.require_codec(args.codec)
    codec, label = codecs.load(args.codec, device=args.device), codecs.restoring.label(args.codec)
    name = re.sub(r"[^\w.-]+", "-", Path(label).name)
    output = args.output or paths.fitting(Path(f"{name}-{args.format}"))
    value = None if args.setting is None else parse_setting(args.setting, codec, label)
    exporting.check(codec, output, args.format)
    print(f"tokenloom: exporting {label} as {args.format} …", file=sys.stderr, flush=True)
    with progress.bar(f"exporting {label}", None, ""):
        agreement = exporting.export(codec, output, args.format, value)
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    print(f"{output}: encoder and decoder of {label}, {size:.1f} MB; against PyTorch {agreement}")
    return 0
