"""`tokenloom talk`: an answer to speech, pictures and texts, streamed, in one turn or in many."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import errors, lazy
from tokenloom.cli import options, paths, sound_device
from tokenloom.cli.commands import generate

if TYPE_CHECKING:
    from torch import Tensor

    from tokenloom.models import Conversation, StreamedPiece

media = lazy.load("tokenloom.codecs.media")
models = lazy.load("tokenloom.models")

EPILOG = """\
Inputs are read in order. An input that ends like the name of an image, sound or text file is a file; any other input is
a text. The sounds of an answer form one file, which is written while they are sampled. Pictures get numbered names
beside it. Texts go to stdout, and to stderr with -o -.

Without inputs it is a chat: each line is a turn, either a text or the name of a file, and /quit ends. Answers are
numbered. Earlier turns stay in the prompt; the oldest are dropped where the context has no room, and a line says so.
/new forgets them all. With --mic, an empty line starts a recording, and Enter ends it.

An answer is one sample. It is not chosen among several, as generate does with --best-of.

examples:
  tokenloom talk question.wav -o answer.wav
  tokenloom talk question.wav picture.png -o answer.wav
  tokenloom talk four --to audio -o - | ffplay -
  tokenloom talk
  tokenloom talk --mic --play
"""
QUIT, NEW = "/quit", "/new"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="a text, or an image, sound or text file; none for a chat")
    add("-o", "--output", type=paths.path, metavar="FILE",
        help="the file for the sound, - for standard output; default: answer.wav")  # fmt: skip
    add("--mic", action="store_true", help="record the question, or the last input, until Enter (extra mic)")
    add("--play", action="store_true", help="play the sound while it is sampled (extra mic)")
    generate.add_model(parser)
    options.add_force(parser)
    options.add_import(parser)


def run(args: argparse.Namespace, rest: list[str]) -> int:
    inputs: list[Any] = [generate.segment(text) for text in (*args.inputs, *rest)]
    chosen = generate.sampling(args)
    output = args.output
    if output is not None:
        if output == paths.STREAM and not inputs:
            raise ValueError("-o - needs inputs; the answers of a chat are files")
        if output != paths.STREAM and (named := media.modality(output)) != "audio":
            raise ValueError(f"the output must be a sound file, {output} is for {named}")
        for source in [one for one in inputs if isinstance(one, Path)] or [None]:
            paths.check_output(output, source, force=args.force or not inputs)
    for option in ("mic", "play"):
        if getattr(args, option):
            sound_device.require(f"--{option}")
    omni = generate.load(args)
    if omni.sample_rate is None:
        raise ValueError(f"talk needs a model that speaks; {args.model} has no channel for audio")
    if args.to != "any":
        omni.vocabulary.channel(args.to)
        chosen["to"] = args.to
    talk = _Talk(models.Conversation(omni), chosen, args)
    if not inputs:
        return _chat(talk)
    talk.turn([*inputs, talk.record()] if args.mic else inputs)
    return 0


def _chat(talk: _Talk) -> int:
    """Answer lines until they end. A line that cannot be answered is told, and the chat goes on."""
    if sys.stdin is None:
        raise ValueError("a chat needs standard input, which is closed; name inputs")
    talk.numbered = True
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        if line == QUIT:
            return 0
        if line == NEW:
            talk.conversation.history.clear()
            continue
        try:
            if line or talk.mic:
                talk.turn([generate.segment(line) if line else talk.record()])
        except (ValueError, OSError) as error:
            print(f"tokenloom: {errors.one_line(error)}", file=sys.stderr)


class _Talk:
    """A conversation and where its answers go."""

    def __init__(self, conversation: Conversation, chosen: dict[str, Any], args: argparse.Namespace) -> None:
        self.conversation, self.chosen = conversation, chosen
        self.output, self.force, self.play, self.mic = args.output, args.force, args.play, args.mic
        self.numbered = False
        self._console = sys.stderr if args.output == paths.STREAM else sys.stdout
        self._turns = self._pictures = 0
        spec = conversation.omni.vocabulary.channel("audio").codec.spec
        self.rate, self.channels = spec.sample_rate or 1, spec.channels

    def record(self) -> Tensor:
        """Record the microphone at the model's rate."""
        return sound_device.record(self.rate, self.channels)

    def turn(self, inputs: list[Any]) -> None:
        """Answer inputs, and report to stderr when the first sound came."""
        began, first = time.perf_counter(), None
        self._turns += 1
        sounds = self._sounds(self.conversation.ask(inputs, **self.chosen))
        sound = next(sounds, None)
        if sound is not None:
            first = time.perf_counter() - began
            self._write(itertools.chain([sound], sounds))
        elif self.output is not None and not self.numbered:
            print("the answer has no sound", file=sys.stderr)
        statistics = self.conversation.omni.statistics
        assert statistics is not None  # the answer has ended
        if not statistics.nominal[0]:
            print("the model gave no answer; --to names the kind of an answer, /new forgets the turns", file=sys.stderr)
        tokens, seconds = statistics.tokens[0], time.perf_counter() - began
        told = "" if first is None else f"first sound after {first:.2f} s; "
        speed = f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:.0f} tokens/s"
        print(f"{told}{speed}; seed {statistics.seed}", file=sys.stderr)

    def _sounds(self, pieces: Iterator[StreamedPiece]) -> Iterator[Tensor]:
        """Yield the pieces of sound, and print texts and write pictures that come between them."""
        for piece in pieces:
            if isinstance(piece.content, str):
                print(piece.content, file=self._console, flush=True)
            elif piece.modality == "audio":
                yield piece.content
            else:
                self._pictures += 1
                base = Path("answer.png") if self.output in (None, paths.STREAM) else self.output
                path = base.with_name(f"{base.stem}-{self._pictures}.png")
                (path,) = [path] if self.force else generate.free([path])
                media.write(piece.content, path)
                print(
                    f"{path}: an image of {piece.content.shape[2]} x {piece.content.shape[1]} pixels",
                    file=self._console,
                )

    def _write(self, sounds: Iterator[Tensor]) -> None:
        """Write a sound, and play it, while it comes."""
        output = self.output or Path("answer.wav")
        if self.numbered:
            output = output.with_name(f"{output.stem}-{self._turns}{output.suffix}")
        if self.output is None or self.numbered:
            (output,) = [output] if self.force and self.output else generate.free([output])
        samples = 0
        with contextlib.ExitStack() as stack:
            speaker = stack.enter_context(sound_device.speaker(self.rate, self.channels)) if self.play else None

            def heard() -> Iterator[Tensor]:
                nonlocal samples
                for sound in sounds:
                    samples += sound.shape[1]
                    if speaker is not None:
                        speaker.write(sound.T.contiguous().cpu().numpy())
                    yield sound

            file = stack.enter_context(paths.writing(output, force=self.force))
            media.pieces.write_pieces(heard(), file, output.suffix, self.rate, self.channels, None)
        paths.report(output, f"{samples / self.rate:.2f} s at {self.rate} Hz")
