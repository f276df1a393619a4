"""The table of commands.

The module of a command has the command's name, and loads heavy packages lazily. It defines

    arguments(parser)    adds the arguments and the end of the help text
    run(args, rest)      does the work and returns the exit status; `rest` holds further positional arguments
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import NamedTuple, NoReturn

from tokenloom import __version__


class Command(NamedTuple):
    """One row of the table."""

    summary: str
    """Line of the help page, without an initial capital and a full stop."""
    more: str = ""
    """Positional arguments that the command accepts beyond those it declares."""
    needs: str = ""
    """What the command cannot do without. A bare command explains itself instead of starting."""


COMMANDS = {
    "codecs": Command("list the available codecs"),
    "encode": Command("turn an image, a sound or a text into a file of tokens", needs="a file and a codec"),
    "decode": Command("turn a file of tokens back into an image, a sound or a text", needs="a file of tokens"),
    "export": Command(
        "write a codec's encoder and decoder for ONNX Runtime or torch.export", needs="a codec with weights"
    ),
    "generate": Command("generate images, sounds and texts from one another", "SEGMENT", "a prompt"),
    "talk": Command("answer speech, pictures and texts, and play or write the answer while it is sampled", "INPUT"),
    "train": Command(
        "train a codec, a transformer over codecs, or a diffusion decoder", "key=value", "a codec and data"
    ),
    "compare": Command("compare the fidelity of codecs and the bits they need", "key=value", "codecs and data"),
    "evaluate": Command("measure one codec at each of its settings, or a model", "key=value", "a codec and data"),
    "board": Command("merge the results of many comparisons into one page", needs="results of tokenloom compare"),
    "doctor": Command("examine one codec: invariances, seams, tokens, bits, speed", needs="a codec"),
    "tokenize": Command("turn a data set into shards of tokens", "key=value", "data and a codec"),
}
SHOWN = 3
"""Number of examples that the explanation of a bare command shows."""

_EXAMPLES = """\
examples:
  tokenloom codecs
  tokenloom encode photo.png --codec natural-fsq
  tokenloom decode photo.tlm -o back.png
  tokenloom compare 'codecs=[image/jpeg,image/avif,natural-fsq]' data=images
  tokenloom train codec=image/fsq data=folder data.path=photos out=runs/mine
  tokenloom generate "red heart" --to image -o heart.png
tokenloom COMMAND --help shows the options of a command.
"""


class _Parser(argparse.ArgumentParser):
    """ArgumentParser that raises ValueError instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def module(name: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f"{__name__}.{name}")


def parser(name: str | None) -> argparse.ArgumentParser:
    """Build the parser: every command with its help line, and the arguments of the command `name`."""
    root = _Parser(
        prog="tokenloom",
        description="Discrete codecs for text, images and audio behind one interface, compared fairly.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"tokenloom {__version__}")
    root.add_argument("--debug", action="store_true", help="show the traceback of an error; also after a command")
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND")
    for command, (summary, *_) in COMMANDS.items():
        subparser = subparsers.add_parser(
            command,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if command == name:
            module(command).arguments(subparser)
            root.set_defaults(options=[*subparser._option_string_actions], epilog=subparser.epilog)
    return root


def explanation(name: str) -> str:
    """Return some lines that say what a command does, what it needs, and how to call it."""
    epilog, (summary, _, needs) = parser(name).get_default("epilog"), COMMANDS[name]
    examples = [line for line in epilog.splitlines() if line.startswith(f"  tokenloom {name} ")]
    head = f"tokenloom {name}: {summary}. It needs {needs}, for example:"
    return "\n".join([head, *examples[:SHOWN], f"tokenloom {name} --help explains all options and keys."])
