"""`tokenloom codecs`: list the available codecs."""

from __future__ import annotations

import argparse

from tokenloom import lazy

listing = lazy.load("tokenloom.cli.listing")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  tokenloom codecs\n  tokenloom codecs --json"
    parser.add_argument("--json", action="store_true", help="print every property as JSON, for programs")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    listing.show(as_json=args.json)
    return 0
