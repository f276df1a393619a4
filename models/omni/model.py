"""`Omni`: vocabulary, codecs and transformer in one model that reads and generates text, images and audio.

config.yaml         omni: see config.py; fingerprints: {channel: hex}, and what the trainer adds
model.safetensors   the transformer's weights
CHANNEL/            the codec of a channel, unless its name loads it
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tokenloom import codecs, devices, precision, threads
from tokenloom.codecs import Codec, Codes, Modality, checkpoint, display, rate
from tokenloom.codecs.hub import Card, Pretrained
from tokenloom.codecs.validate import are_integers, require_integer

from .. import cards, dependencies, generate, sampling
from ..diffusion import samplers
from ..transformer import Transformer
from ..vocabulary import Channel, DocumentState, Vocabulary, truncation
from ..vocabulary.segments import Segment
from . import scoring
from .config import OmniConfig, to_plain
from .decoding import ResultDecoder
from .familiarity import Familiarity
from .prompts import START, PromptEncoder
from .statistics import Statistics, cumulative, timed
from .streaming import SegmentDecoder, StreamedPiece

ROWS = 32
"""Largest number of results sampled at once, in one thread. The matrix products of a token are too small for several
threads: each product waits for the slowest thread (on a busy core, 65 tokens took 23 s instead of 1.8 s)."""
MAX_RESULTS = 10_000
Progress = Callable[[int, int | None], None]


class Omni(Pretrained, nn.Module):
    """One autoregressive transformer over the tokens of several codecs.

    Args:
        vocabulary: The vocabulary, with the channels and their codecs.
        transformer: A transformer with the vocabulary's number of ids and places.
        sizes: Fixed size of a channel's signals, (height, width) or (samples,). Images in prompts are resized to it.
        defaults: Default sampling parameters: guidance, temperature, top_k, top_p, best_of. The name of a modality or
            a channel maps to its own defaults.
        familiarity: Bits per token of training prompts. A prompt beyond them is answered with a warning.

    Attributes:
        statistics: Statistics of the last call of `generate` or `generate_batch`, or the last stream that ended.
    """

    def __init__(
        self, vocabulary: Vocabulary, transformer: Transformer, *,
        sizes: Mapping[str, Sequence[int]] | None = None, defaults: Mapping[str, Any] | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for key, needed in (("vocabulary", vocabulary.size), ("places", vocabulary.places)):
            if transformer.config[key] != needed:
                raise ValueError(f"the transformer must have {key}={needed}, got {key}={transformer.config[key]}")
        channels = vocabulary.channels
        self.vocabulary, self.transformer = vocabulary, transformer
        self.codecs = nn.ModuleList(channel.codec for channel in channels.values())
        self.sizes = {name: tuple(size) for name, size in (sizes or {}).items()}
        outputs = {*channels, *(str(channel.modality) for channel in channels.values())}
        self.defaults = sampling.check_defaults({} if defaults is None else defaults, outputs)
        self.familiarity = familiarity
        self.statistics: Statistics | None = None
        for name, size in self.sizes.items():
            if name not in channels or not are_integers(size, 1, 2**28):
                raise ValueError(f"sizes must be sizes of channels {', '.join(channels)}, got {size} of {name}")
            vocabulary.header(name, size)
        self.prompts = PromptEncoder(vocabulary, self.sizes, transformer.config["context"])
        self._results = ResultDecoder(vocabulary)

    def __repr__(self) -> str:
        channels = ", ".join(f"{c.name} ({c.codec.name})" for c in self.vocabulary.channels.values())
        size = f"{self.vocabulary.size:,} ids, a context of {self.transformer.config['context']:,}"
        parts = [f"{channels}; {size}", display.parameters(self.transformer), *display.license_of(self)]
        return f"Omni({', '.join(parts)})"

    def card(self) -> Card:
        """Return the content of the model card."""
        return cards.omni(self.vocabulary, self.transformer, self.transformer.config["context"])

    def _write(self, folder: Path, **options: Any) -> None:
        save(self, folder, **options)

    @classmethod
    def _read(cls, source: str) -> Omni:
        folder = checkpoint.find(source, "omni")
        return read(folder, checkpoint.read_config(folder))

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor."""
        return {"sizes": self.sizes, "defaults": self.defaults, "familiarity": self.familiarity}

    @property
    def sample_rate(self) -> int | None:
        """Sample rate of generated audio in Hz, that of the first audio channel; None without one."""
        rates = (c.codec.spec.sample_rate for c in self.vocabulary.channels.values() if c.modality is Modality.AUDIO)
        return next(rates, None)

    @property
    def device(self) -> torch.device:
        """Device of the transformer and of results. Prompts can be on any device."""
        return self.transformer.embedding.weight.device

    def train(self, mode: bool = True) -> Omni:
        """Set the transformer's mode. Codecs always stay in eval mode."""
        super().train(mode)
        self.codecs.eval()
        return self

    def generate(
        self, segments: Sequence[Segment], to: str | None, n: int = 1, seed: int | None = None,
        decoder: str = "plain", *, steps: int | None = None, progress: Progress | None = None, **sampling: Any,
    ) -> list[Any]:  # fmt: skip
        """Generate n independent results for one prompt. `statistics` then has tokens, bits and seconds.

        Args:
            segments: The prompt in order: str, images float32 (3, height, width) in [0, 1], audio float32
                (channels, samples) in [-1, 1] at `sample_rate`, PIL images, or pathlib.Paths of files. A prompt that
                is empty, or has only empty texts, gives unconditional samples.
            to: A modality or the name of a channel, to generate one segment of it. None lets the model choose the
                modalities and the end. The oldest segments of a prompt that exceeds the context are then left out,
                with a warning.
            n: Number of results.
            seed: The same seed gives the same results. None draws a seed, which `statistics.seed` holds.
            decoder: "plain" for the channel's codec, or "diffusion" for the diffusion decoder of its codes.
            steps: Sampling steps of the diffusion decoder; None for its default.
            progress: Function that receives the number of tokens done, and the total or None.
            **sampling: guidance (1 is off; arXiv 2207.12598), temperature (0 is greedy), top_k, top_p, and best_of,
                the number of samples from which the one that fits the prompt best is selected (see scoring.py). None
                stands for the model's default.

        Returns:
            For each result an image (3, height, width), audio (channels, samples) or a str; with to=None, a list of
            them.

        Raises:
            ValueError: If the model lacks the modality, the prompt exceeds the context, an argument is out of range,
                or a channel has no diffusion decoder.
        """
        require_integer("n", n, 1, MAX_RESULTS)
        with _single_thread(n):
            return self._generate([segments], [0] * n, to, seed, decoder, steps, progress, sampling)

    def generate_batch(
        self, prompts: Sequence[Sequence[Segment]], to: str | None, seed: int | None = None, decoder: str = "plain", *,
        steps: int | None = None, progress: Progress | None = None, **sampling: Any,
    ) -> list[Any]:  # fmt: skip
        """Generate one result for each of several prompts, in batches. See `generate` for the other arguments."""
        if not 1 <= len(prompts) <= MAX_RESULTS:
            raise ValueError(f"there must be 1 to {MAX_RESULTS} prompts, got {len(prompts)}")
        with _single_thread(len(prompts)):
            return self._generate(prompts, range(len(prompts)), to, seed, decoder, steps, progress, sampling)

    def stream(
        self, segments: Sequence[Segment], to: str | None = None, seed: int | None = None, decoder: str = "plain", *,
        steps: int | None = None, **sampling: Any,
    ) -> Iterator[StreamedPiece]:  # fmt: skip
        """Generate one result, and return its pieces while they are sampled.

        A sound comes frame by frame if its codec can be streamed, within 1e-6 of the sound that `generate` returns for
        the same seed with best_of=1. Texts, images and other sounds come whole. At the end, `statistics` has tokens,
        bits and seconds.

        Args:
            segments: See `generate`, as for the other arguments and for errors.
            to: See `generate`.
            seed: See `generate`.
            decoder: See `generate`. Sounds of the diffusion decoder come whole.
            steps: See `generate`.
            **sampling: See `generate`. best_of is 1, because pieces are given before a sample can be compared.
        """
        return self.continue_document(self.encode(segments), to, seed, decoder, steps=steps, **sampling)

    @torch.no_grad()
    @precision.float32()
    def encode(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Return the ids of each segment of a prompt, int64 (n,). Warns of a prompt far from the training data."""
        with threads.limit():
            (ids,) = self.prompts.segments([segments])
            self._warn([segments], [torch.cat([START, *ids])])
        return ids

    def continue_document(
        self, segments: Sequence[Tensor], to: str | None = None, seed: int | None = None, decoder: str = "plain", *,
        steps: int | None = None, **sampling: Any,
    ) -> Iterator[StreamedPiece]:  # fmt: skip
        """Return what `stream` returns, after the ids of segments that `encode` or a `StreamedPiece` gave."""
        seed, channel, decoders, parameters = self._resolve(to, seed, decoder, steps, sampling)
        if sampling.get("best_of") not in (None, 1):
            raise ValueError(f"best_of must be 1 in a stream, which gives no other sample, got {sampling['best_of']}")
        del parameters["best_of"]
        head = self.prompts.head(channel)
        prompt = torch.cat([START, *segments, head])
        self.prompts.remaining([prompt], channel)
        state = self.vocabulary.read(prompt)
        found = SegmentDecoder(self.vocabulary, self._results, decoders, self.sample_rate, head, state)
        how = parameters | _limits(head, channel, 1)
        return _settled(self._pieces(prompt, state, found, channel, seed=seed, **how))

    # -- the stages -------------------------------------------------------------------------------

    @torch.no_grad()
    @precision.float32()
    def _generate(
        self, prompts: Sequence[Sequence[Segment]], rows: Sequence[int], to: str | None, seed: int | None,
        decoder: str, steps: int | None, progress: Progress | None, given: dict[str, Any],
    ) -> list[Any]:  # fmt: skip
        """Return one result for each of `rows`, the numbers of their prompts."""
        seed, channel, decoders, parameters = self._resolve(to, seed, decoder, steps, given)
        best_of = parameters.pop("best_of")
        tries = 1 if channel is None else best_of  # only results of one segment are compared
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            encoded = self.prompts.encode(prompts, recent=channel is None)
            self._warn(prompts, encoded)
        head = self.prompts.head(channel)
        ids = [torch.cat([row, head]) for row in encoded]
        count = self.prompts.remaining(ids, channel)
        total = None if count is None else count * len(rows) * tries
        report = None if progress is None else cumulative(progress, total)
        with timed(seconds, "transformer"):
            tried = [row for row in rows for _ in range(tries)]
            new = self._sample(ids, tried, head, channel, seed=seed, progress=report, **parameters)
            if tries > 1:
                pairs = [(encoded[row], torch.cat([head, one])) for row, one in zip(tried, new, strict=True)]
                new = [new[i] for i in scoring.best(self.transformer, self.vocabulary, pairs, tries)]
        pairs = [(ids[row], one) for row, one in zip(rows, new, strict=True)]
        with timed(seconds, "decode"):
            before = [len(self.vocabulary.parse(row)) for row in encoded]
            documents = [self.vocabulary.parse(truncation.complete(self.vocabulary, *pair)) for pair in pairs]
            parts = [document[before[row] :] for row, document in zip(rows, documents, strict=True)]
            results = self._results.decode(parts, decoders, self.sample_rate)
            devices.synchronize(self.device)
        self.statistics = Statistics(
            seed, [len(prompt) for prompt, _ in pairs], [len(one) for _, one in pairs],
            [self._nominal(some) for some in parts], seconds, tries, functools.partial(self._modelled, pairs),
        )  # fmt: skip
        if channel is None:
            return results
        if not all(results):
            self._fail_full(channel)
        return [result[0] for result in results]

    def _warn(self, prompts: Sequence[Sequence[Segment]], encoded: Sequence[Tensor]) -> None:
        """Warn of prompts that are far from the training data."""
        if self.familiarity is not None:
            for prompt, ids in zip(prompts, encoded, strict=True):
                text = " ".join(segment for segment in prompt if isinstance(segment, str))
                self.familiarity.warn(self.transformer, self.vocabulary, ids, text)

    def _resolve(
        self, to: str | None, seed: int | None, decoder: str, steps: int | None, given: dict[str, Any]
    ) -> tuple[int, Channel | None, dict[str, Codec], dict[str, Any]]:
        """Return the seed, the channel, the decoder of each channel, and the sampling parameters of a call."""
        seed = secrets.randbelow(2**31) if seed is None else seed
        samplers.check_seed(seed)
        channel = None if to is None else self.vocabulary.channel(to)
        decoders = self._results.select(decoder, steps, seed, channel, self.device)
        outputs = () if channel is None else (str(channel.modality), channel.name)
        return seed, channel, decoders, sampling.resolve(given, self.defaults, outputs)

    def _sample(
        self, prompts: list[Tensor], rows: Sequence[int], head: Tensor, channel: Channel | None, **how: Any
    ) -> list[Tensor]:
        """Return the ids after each row's prompt, up to the end of the segment, the document or the context."""
        states, out = [self.vocabulary.read(ids) for ids in prompts], []
        for at in range(0, len(rows), ROWS):
            some = rows[at : at + ROWS]
            with threads.limit():
                out += generate.sample(
                    self.transformer, self.vocabulary, [prompts[row] for row in some], [states[row] for row in some],
                    first_row=at, **_limits(head, channel, len(some)), **how,
                )  # fmt: skip
        return out

    def _pieces(
        self, prompt: Tensor, state: DocumentState, found: SegmentDecoder, channel: Channel | None, **how: Any
    ) -> Iterator[StreamedPiece]:
        """Yield the pieces of a result while its ids are sampled."""
        seconds: dict[str, float] = {}
        with timed(seconds, "transformer"):
            steps = generate.steps(self.transformer, self.vocabulary, [prompt], [state], **how)
        new: list[int] = []
        while True:
            with timed(seconds, "transformer"):
                step = next(steps, None)
            with timed(seconds, "decode"):
                piece = found.close() if step is None else found.push(step[0].id, step[0].state)
            if step is not None:
                new.append(step[0].id)
            if piece is not None:
                yield piece
            if step is None:
                break
        pairs = [(prompt, torch.tensor(new, dtype=torch.int64))]
        self.statistics = Statistics(
            how["seed"], [len(prompt)], [len(new)], [self._nominal(found.parts)], seconds, 1,
            functools.partial(self._modelled, pairs),
        )  # fmt: skip
        if channel is not None and not found.parts:
            self._fail_full(channel)

    def _fail_full(self, channel: Channel) -> NoReturn:
        context = self.transformer.config["context"]
        raise ValueError(f"the context of {context} tokens was full before the {channel.modality} had begun")

    def _nominal(self, parts: Sequence[tuple[str, Codes]]) -> float:
        channels = self.vocabulary.channels
        return sum(float(rate.nominal(channels[name].codec.spec, codes)) for name, codes in parts)

    def _modelled(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        with _single_thread(len(pairs)):
            return scoring.bits(self.transformer, self.vocabulary, pairs)


def _single_thread(results: int) -> AbstractContextManager[None]:
    """Compute in one thread if there are few results; see ROWS."""
    return threads.limit() if results <= ROWS else nullcontext()


def _limits(head: Tensor, channel: Channel | None, rows: int) -> dict[str, Any]:
    """Return where the sampling of `rows` results ends, and their prompts without the condition."""
    until = (lambda state: state.stopped) if channel is None else (lambda state: state.between_segments)
    return {"until": until, "unconditional": [torch.cat([START, head])] * rows}


def _settled(pieces: Iterator[StreamedPiece]) -> Iterator[StreamedPiece]:
    """Compute each piece in one thread and in float32. Between the pieces, the caller's settings hold."""
    while True:
        with threads.limit(), torch.no_grad(), precision.float32():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


# -- build, save, load ----------------------------------------------------------------------------


@precision.building()
def build(config: Mapping[str, Any]) -> Omni:
    """Build a model with random weights from plain values (see config.py).

    Raises:
        ValueError: If the config has unknown keys or invalid values.
    """
    parsed = OmniConfig.parse(config, new=True)
    vocabulary = parsed.vocabulary(lambda channel: codecs.load(channel.codec))
    return Omni(vocabulary, parsed.network(vocabulary), sizes=parsed.sizes, defaults=parsed.sampling)


def save(
    omni: Omni, folder: str | Path, *, store: str = "float32", config_file: str = checkpoint.CONFIGS[0], **extra: Any
) -> None:
    """Write a model and the codecs that no name loads. See `models.save`."""
    folder = Path(folder)
    for name, channel in omni.vocabulary.channels.items():  # codecs first: a model must never lack one
        if not dependencies.resolves(name, channel.codec):
            codecs.save(channel.codec, folder / dependencies.subfolder(name))
    plain = to_plain(omni.transformer.config, omni.vocabulary, omni.sizes, omni.defaults, omni.familiarity)
    config = {"omni": plain, "fingerprints": omni.vocabulary.fingerprints}
    checkpoint.write(folder, config | omni.terms, checkpoint.state(omni.transformer, store), config_file, **extra)


@precision.building()
def read(folder: Path, config: dict[str, Any]) -> Omni:
    """Load the model in a checkpoint folder that has this config. Raises as `models.load` does."""
    given, fingerprints = checkpoint.section(folder, config, "omni", "channels")
    try:
        parsed = OmniConfig.parse(given, new=False)
        vocabulary = parsed.vocabulary(lambda c: dependencies.load(folder, c.name, fingerprints.get(c.name)))
        state = checkpoint.weights(folder, config)
        network = parsed.network(vocabulary, state)
        options = {"sizes": parsed.sizes, "defaults": parsed.sampling, "familiarity": parsed.familiarity}
        omni = Omni(vocabulary, network, **options)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    checkpoint.load_state(omni.transformer, state, folder)
    omni.license = checkpoint.license_of(config)
    return omni.eval()
