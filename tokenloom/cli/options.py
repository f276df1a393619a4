"""Options of the commands that accept key=value pairs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from tokenloom import conf

LONGEST = 1e9
"""Largest time of a sound in seconds."""


def choices(group: str, folders: Iterable[str] = ()) -> list[str]:
    """Return the choices of a configuration group, such as image/fsq of `codec`, from the names of its files.

    `folders` are configuration folders of the user, with files such as codec/image/mine.yaml.
    """
    roots = [Path(folder) / group for folder in (conf.__path__[0], *folders)]
    return sorted(
        {path.relative_to(root).with_suffix("").as_posix() for root in roots for path in root.rglob("*.yaml")}
    )


def seconds(text: str) -> float:
    """Return a time of a sound. For `type` of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST:  # NaN is not
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {LONGEST:g}, got {text!r:.40}")
    return value


def crop(text: str) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of a part of a picture, 512x512+100+0. For `type` of argparse."""
    match = re.fullmatch(r"(\d{1,8})x(\d{1,8})\+(\d{1,8})\+(\d{1,8})", text)
    width, height, left, top = map(int, match.groups()) if match else (0, 0, 0, 0)
    if not width or not height:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT+LEFT+TOP in pixels, got {text!r:.40}")
    return top, left, top + height, left + width


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device to the parser of a command without key=value pairs."""
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one; default), cpu, cuda, cuda:1 or mps"
    )


def add(parser: argparse.ArgumentParser, positional: str = "") -> None:
    """Add Hydra's options to the parser of a command, and the usage line with its positional argument."""
    parser.usage = f"{parser.prog}{positional and ' ' + positional} [-m] [--cfg job] [key=value ...]"
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: one job for each value of key=a,b,c")
    parser.add_argument(
        "--config-dir", metavar="FOLDER", help="folder of your own YAML files, such as codec/image/mine.yaml"
    )
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the configuration and stop")
    parser.add_argument("-r", "--resolve", action="store_true", help="with --cfg: replace ${references} by values")
    parser.add_argument("-p", "--package", help="with --cfg: print only this part, such as optimizer")
    topics = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", nargs="?", const="all", choices=topics, help="show how the configuration is composed")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add --force to the parser of a command that writes a file."""
    parser.add_argument("-f", "--force", action="store_true", help="replace the output if it exists")


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the option --import to the parser of a command without key=value pairs."""
    parser.add_argument(
        "--import", dest="imports", action="append", metavar="FILE",
        help="run your own Python file or folder first, which registers codecs",
    )  # fmt: skip


def flags(args: argparse.Namespace) -> list[str]:
    """Return the options of `add` as Hydra expects them."""
    names = ("config-dir", "cfg", "package", "info")
    valued = [
        flag for name in names if (value := getattr(args, name.replace("-", "_"))) for flag in (f"--{name}", value)
    ]
    return valued + [f"--{name}" for name in ("resolve", "multirun") if getattr(args, name)]
