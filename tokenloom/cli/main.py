"""The front door: `tokenloom codecs | compare | train | generate | encode | decode | evaluate | tokenize | export`.

Nothing heavy is imported before a command needs it. What a person can get wrong is one line on
stderr and status 2 (`--debug` adds the traceback); a bug keeps its traceback and gives status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from tokenloom.cli.parser import parser

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run([a for a in given if a != "--debug"])
    except KeyboardInterrupt:
        return _fail("interrupted", debug, INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe (`| head`) has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        return _fail(one_line(error), debug, 2)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _run(argv: list[str]) -> int:
    args, rest = parser().parse_known_args(argv)
    if args.command is None:
        raise ValueError(
            "no command given; one of codecs, compare, train, generate, encode, decode, evaluate, tokenize, "
            "export (tokenloom --help)"
        )
    takes_overrides = args.command in ("train", "compare", "evaluate", "tokenize", "generate")
    for argument in rest:
        if argument.startswith("-") or not takes_overrides:
            what = "option" if argument.startswith("-") else "argument"
            raise ValueError(f"unknown {what} {argument}; see tokenloom {args.command} --help")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "140")  # a pipe has no width of its own; 80 columns would break every table
    return globals()[f"_{args.command}"](args, rest)


def _fail(line: str, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exc()
    if status == INTERRUPTED or not _told_by_another():
        print(f"tokenloom: {line}", file=sys.stderr)
    return status


def _told_by_another() -> bool:
    """Under torchrun the processes of one machine meet a mistake alike until they have joined: the first one tells."""
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return os.environ.get("LOCAL_RANK", "0") != "0" and not joined


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):  # deprecations inside libraries are no news to a person
        print(f"tokenloom: warning: {' '.join(str(message).split())}", file=sys.stderr)


# -- commands -----------------------------------------------------------------------------------


def _codecs(args: argparse.Namespace, _: list[str]) -> int:
    from tokenloom.cli import listing

    listing.show(as_json=args.json)
    return 0


def _encode(args: argparse.Namespace, _: list[str]) -> int:
    from tokenloom.cli import files

    target = {"psnr": args.psnr, "bits_per_pixel": args.bpp, "kbps": args.kbps}
    target = {name: value for name, value in target.items() if value is not None}
    print(files.encode(args.input, args.codec, args.output, setting=args.setting, target=target))
    return 0


def _decode(args: argparse.Namespace, _: list[str]) -> int:
    from tokenloom.cli import files

    given = {name: getattr(args, name) for name in ("codec", "decoder", "steps", "seed")}
    print(files.decode(args.input, args.output, **given))
    return 0


def _generate(args: argparse.Namespace, more: list[str]) -> int:
    from tokenloom.cli import generation

    given = {
        name: getattr(args, name)
        for name in ("guidance", "temperature", "top_k", "top_p", "best_of", "seed", "decoder", "steps")
    }
    generation.run([*args.segments, *more], args.to, args.output, model=args.model, n=args.count, **given)
    return 0


def _hydra(command: str, args: argparse.Namespace, overrides: list[str]) -> int:
    from tokenloom.cli import hydra_app

    flags = []
    if args.cfg:
        flags += ["--cfg", args.cfg]
    flags += ["--resolve"] if args.resolve else []
    flags += ["--package", args.package] if args.package else []
    flags += ["--info", args.info] if args.info else []
    return hydra_app.run(command, overrides, multirun=args.multirun, flags=flags)


def _train(args: argparse.Namespace, overrides: list[str]) -> int:
    return _hydra("train", args, overrides)


def _compare(args: argparse.Namespace, overrides: list[str]) -> int:
    return _hydra("compare", args, overrides)


def _tokenize(args: argparse.Namespace, overrides: list[str]) -> int:
    return _hydra("tokenize", args, overrides)


def _export(args: argparse.Namespace, _: list[str]) -> int:
    from tokenloom.cli import exporting

    print(exporting.run(args.codec, args.format, args.output, args.setting))
    return 0


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> int:
    from tokenloom.codecs import checkpoint

    for kind in ("omni", "decoder"):
        if checkpoint.describes(args.codec, kind):
            if args.modelled:
                raise ValueError(f"--modelled is for codecs; {args.codec} is none")
            return _hydra(kind, args, [f"model={args.codec}", *overrides])
    modelled = ["modelled=true"] if args.modelled else []
    return _hydra("evaluate", args, [f"codecs=[{args.codec}]", *modelled, *overrides])
