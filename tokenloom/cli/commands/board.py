"""`tokenloom board`: merge the results of many comparisons into one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenloom import lazy
from tokenloom.cli import options, paths

board = lazy.load("tokenloom.eval.board", "eval")

EPILOG = """\
The page shows each set of items by itself: the codec to take at a limit of the rate, the curves of every metric with
their Pareto front, and a table that sorts and filters. board.json and board.csv beside it hold the merged figures, and
plots/ the curves as PNG and SVG.

Files fit together if they measure a set with the same protocol and the same items; sets of different names stay apart.
A codec that two files measure at one setting of a set must have equal figures in both, within 0.1 % of the figure or of
its spread over items: then its times are those of the newer file. Other figures are refused, and one of the files must
be left out. The line of a refusal names the files.

examples:
  tokenloom board runs/photos runs/speech
  tokenloom board runs/photos runs/photos-again --force
  tokenloom board runs/* from-a-friend/results.json -o site/board.html --title "Codecs at low rates"
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "results", nargs="+", type=paths.path, metavar="RESULTS",
        help="a folder of tokenloom compare or tokenloom evaluate, or its results.json",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=paths.path, default=Path("board.html"), metavar="FILE", help="default: board.html"
    )
    parser.add_argument("--title", help="title of the page")
    options.add_force(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    for output in board.output_files(args.output):
        paths.check_output(output, force=args.force)
    made = board.make(args.results, args.output, title=args.title)
    for one in made.sets:
        codecs = len({row.codec for row in one.rows})
        print(f"{one.title}, {one.modality}: {codecs} codecs, {len(one.rows)} settings, {one.items} items")
    print(f"{args.output}: {len(made.sets)} sets of {len(made.runs)} results files")
    return 0
