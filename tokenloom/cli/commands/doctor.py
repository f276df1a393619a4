"""`tokenloom doctor`: examine one codec, and write what was found to a page."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import lazy
from tokenloom.cli import known, options, paths
from tokenloom.cli.commands.encode import parse_setting

if TYPE_CHECKING:
    from tokenloom.eval.doctor import Checkup

codecs = lazy.load("tokenloom.codecs")
doctor = lazy.load("tokenloom.eval.doctor", "eval")
progress = lazy.load("tokenloom.progress")

FAILED = 1
"""Exit status if a check fails."""
COLORS = {"fail": "31", "warn": "33", "pass": "32", "skipped": "2"}
"""Codes of a terminal."""
EPILOG = f"""\
{known.MAPPING}

Every line is a measurement through the public calls of the codec, with pass, warn or fail and its limit: whether the
codes depend on anything but the signal, seams between parts, look-ahead and receptive fields, exact lengths, repeated
passes, odd signals, use of the codebooks, bits that nobody counts, gradient, time, memory, export. A check that does
not apply is skipped, with the reason. doctor.json beside the page has all figures.

The exit status is 0 if no check fails, 1 if one does, and 2 if there is no such codec, file or check.

examples:
  tokenloom doctor natural-fsq
  tokenloom doctor my_codec.py:MyCodec -o mine.html --data photos
  tokenloom doctor audio/opus --setting 12 --only alignment --only idempotence
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("codec", type=known.codec, metavar="CODEC", help=known.HELP)
    parser.add_argument(
        "-o", "--output", type=paths.path, default=Path("doctor.html"), metavar="FILE", help="default: doctor.html"
    )
    parser.add_argument("--setting", help="a value of the codec's setting (listed by tokenloom codecs)")
    parser.add_argument(
        "--data", type=paths.path, metavar="FOLDER",
        help="your own images, sounds or texts; default: bundled photographs, generated music, captions",
    )  # fmt: skip
    parser.add_argument("--only", action="append", metavar="CHECK", help="do this check; may be given several times")
    parser.add_argument(
        "--seconds",
        type=options.seconds,
        default=4.0,
        metavar="S",
        help="time of a check; slow codecs get fewer cases (4)",
    )
    options.add_device(parser)
    options.add_force(parser)
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    for output in doctor.output_files(args.output):
        paths.check_output(output, force=args.force)
    if not args.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {args.seconds:g}")
    known.require_codec(args.codec)
    setting = None
    if args.setting is not None:
        codec = codecs.load(args.codec)
        setting = parse_setting(args.setting, codec, codecs.restoring.label(args.codec))
    total = len(args.only or doctor.CHECKS)
    with progress.bar(f"examining {codecs.restoring.label(args.codec)}", total, "checks", after=2.0) as bar:
        checkup = doctor.make(
            args.codec, args.output, setting=setting, folder=args.data, device=args.device, only=args.only,
            seconds=args.seconds, tell=bar,
        )  # fmt: skip
    for line in table(checkup, shutil.get_terminal_size().columns, colored=sys.stdout.isatty()):
        print(line)
    print(f"{args.output}: {checkup.summary()}")
    return 0 if checkup.healthy else FAILED


def table(checkup: Checkup, columns: int, colored: bool = False) -> list[str]:
    """Return the lines of the findings: verdict, title and what was measured. The last column wraps."""
    width = max((len(finding.title) for finding in checkup.findings), default=0)
    room = max(20, columns - width - 11)
    lines: list[str] = []
    theme: Any = None
    for finding in checkup.findings:
        if finding.theme != theme:
            theme = finding.theme
            lines += [*([""] if lines else []), checkup.themes[theme]]
        first, *more = textwrap.wrap(finding.measured, room) or [""]
        verdict = f"{finding.verdict:7}"
        if colored:
            verdict = f"\033[{COLORS[finding.verdict]}m{verdict}\033[0m"
        lines.append(f"{verdict}  {finding.title:{width}}  {first}")
        lines += [f"{'':{width + 11}}{line}" for line in more]
    return [*lines, ""]
