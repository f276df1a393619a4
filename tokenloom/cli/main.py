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

from tokenloom import errors, interrupts, own_code
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
        with interrupts.terminable(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", debug, INTERRUPTED)
    except (ValueError, OSError) as error:
        return _fail(errors.one_line(error), debug, 2)


def _run(argv: list[str]) -> int:
    name = next((argument for argument in argv if not argument.startswith("-")), None)
    if name is not None and name not in commands.COMMANDS:
        raise ValueError(errors.unknown("command", name, commands.COMMANDS, "see tokenloom --help"))
    if name is not None and argv == [name] and commands.COMMANDS[name].needs:
        print(commands.explanation(name), file=sys.stderr)
        return 2
    parser = commands.parser(name)
    options = parser.get_default("options") or []
    for argument in argv:
        if argument.startswith("-") and argument not in ("-", *options) and os.path.lexists(argument):
            raise ValueError(f"{argument} is read as an option; the file of this name is ./{argument}")
    args, rest = parser.parse_known_args(argv)
    if args.command is None:
        raise ValueError(f"no command given; choose one of {', '.join(commands.COMMANDS)} (tokenloom --help)")
    for argument in rest:
        if argument.startswith("-"):
            known = [option for option in options if option.startswith("--")]
            raise ValueError(_unknown_option(argument, known, args.command))
        if not commands.COMMANDS[args.command].more:
            key, equals, value = argument.partition("=")
            guess = f" (did you mean --{key} {value}?)" if equals and f"--{key}" in options else ""
            raise ValueError(f"unknown argument {argument}{guess}; see tokenloom {args.command} --help")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "140")  # a pipe has no width, and tables break at the default of 80 columns
    own_code.load(getattr(args, "imports", None) or [])
    return commands.module(args.command).run(args, rest)


def _unknown_option(argument: str, known: list[str], command: str) -> str:
    option = argument.partition("=")[0]
    guess = errors.suggestion(option, known)
    if not guess and commands.COMMANDS[command].more == "key=value":
        guess = f"; keys are written {option.strip('-').replace('-', '_')}=VALUE"
    return f"unknown option {option}{guess}; see tokenloom {command} --help"


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
