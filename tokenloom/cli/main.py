"""The entry point of the command line.

An error that the user can correct prints one line on stderr and exits with status 2; `--debug` adds the traceback. A
bug prints its traceback and exits with status 1.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from tokenloom import errors, own_code
from tokenloom.cli import commands, streams

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. `argv` defaults to the arguments of the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        with streams.tolerant():
            return _guarded([argument for argument in arguments if argument != "--debug"], debug)
    except OSError as error:
        return _fail(errors.one_line(error), debug, 2)


def _guarded(argv: list[str], debug: bool) -> int:
    """Run one command, and report an error of the user."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", debug, INTERRUPTED)
    except (ValueError, OSError) as error:
        return _fail(errors.one_line(error), debug, 2)


def _run(argv: list[str]) -> int:
    name = next((argument for argument in argv if not argument.startswith("-")), None)
    args, rest = commands.parser(name).parse_known_args(argv)
    if args.command is None:
        raise ValueError(f"no command given; choose one of {', '.join(commands.COMMANDS)} (tokenloom --help)")
    for argument in rest:
        if argument.startswith("-") or not commands.COMMANDS[args.command].more:
            kind = "option" if argument.startswith("-") else "argument"
            raise ValueError(f"unknown {kind} {argument}; see tokenloom {args.command} --help")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "140")  # a pipe has no width, and tables break at the default of 80 columns
    own_code.load(getattr(args, "imports", None) or [])
    return commands.module(args.command).run(args, rest)


def _fail(line: str, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exc()
    if status == INTERRUPTED or not _first_process_reports():
        print(f"tokenloom: {line}", file=sys.stderr)
    return status


def _first_process_reports() -> bool:
    """Whether only the first process of torchrun reports the error: before they join, all fail in the same way."""
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return os.environ.get("LOCAL_RANK", "0") != "0" and not joined


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):  # users cannot act on deprecations inside libraries
        print(f"tokenloom: warning: {' '.join(str(message).split())}", file=sys.stderr)
