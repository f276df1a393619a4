"""Vocabulary, codecs and transformer as one thing: texts, pictures and sounds in, any of them out."""

from __future__ import annotations

import math
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenloom.codecs import Codes, Modality, media, rate
from tokenloom.codecs.hub import Card
from tokenloom.codecs.validate import are_integers, is_integer

from . import cards, generate
from .diffusion import samplers
from .sampling import checked, chosen
from .transformer import Transformer
from .vocabulary import segments
from .vocabulary.segments import Segment
from .vocabulary.vocabulary import DOCUMENT, Channel, Vocabulary

if TYPE_CHECKING:
    from .diffusion.decoder import DiffusionDecoder

DECODERS = ("plain", "diffusion")
ROWS = 32
"""Results that are sampled at once, in one thread: a token's products of matrices are too small to share, and where
other work holds a core, each waits for the thread that has none (65 tokens took 23 s in place of 1.8 s)."""
MOST = 10_000
"""Results of one call."""
START = torch.tensor([DOCUMENT])


@dataclass
class Statistics:
    """What one call of `generate` took. Lists have one entry a result.

    seed           what was given, or drawn
    prompt_tokens  ids that the transformer was given, those of the forced beginning of a segment included
    tokens         ids that it sampled, those of the result that was kept where there were several tries
    tries          samples that each result is the best of
    nominal        bits of the results' codes if every entry were equally likely (rate.nominal)
    modelled       bits of the sampled ids under the model: at temperature 1, without guidance, over the ids that
                   the grammar allows; computed when first asked for
    seconds        of encode (prompts → tokens), transformer, decode (tokens → signals)
    """

    seed: int
    prompt_tokens: list[int]
    tokens: list[int]
    nominal: list[float]
    seconds: dict[str, float]
    tries: int
    price: Callable[[], list[float]] = field(repr=False)

    @cached_property
    def modelled(self) -> list[float]:
        with one_thread(len(self.tokens) <= ROWS):
            return self.price()


class Omni(cards.Published, nn.Module):
    """One autoregressive transformer over the tokens of several codecs.

    vocabulary   whose codecs are the model's; a prompt is encoded by the first channel of its modality
    transformer  over exactly that vocabulary's ids and places
    sizes        channel → size that every signal of it has, (height, width) or (samples,): pictures are
                 brought to it, and it is not sampled
    defaults     sampling where a call names none: guidance, temperature, top_k, top_p, best_of; under the name of a
                 modality or a channel a mapping of those, for what it makes
    """

    def __init__(
        self, vocabulary: Vocabulary, transformer: Transformer, *,
        sizes: Mapping[str, Sequence[int]] | None = None, defaults: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for key, wanted in (("vocabulary", vocabulary.size), ("places", vocabulary.places)):
            if transformer.config[key] != wanted:
                raise ValueError(f"a transformer with {key}={transformer.config[key]}; these channels make {wanted}")
        self.vocabulary, self.transformer = vocabulary, transformer
        self.codecs = nn.ModuleList(channel.codec for channel in vocabulary.channels.values())
        self.sizes = {name: tuple(size) for name, size in (sizes or {}).items()}
        self.defaults = checked({} if defaults is None else defaults, vocabulary)
        self.statistics: Statistics | None = None
        self._painters: dict[str, DiffusionDecoder] = {}  # of the codecs' channels; no part of the model's weights
        for name, size in self.sizes.items():
            if name not in vocabulary.channels or not are_integers(size, 1, 2**28):
                raise ValueError(f"size {size} of {name}; the channels are {', '.join(vocabulary.channels)}")
            vocabulary.header(name, size)

    def card(self) -> Card:
        return cards.omni(self)

    @property
    def options(self) -> dict[str, Any]:
        """What it was built with beside vocabulary and transformer."""
        return {"sizes": self.sizes, "defaults": self.defaults}

    @property
    def sample_rate(self) -> int | None:
        """Hz of the sounds that it makes, the rate of its first audio channel; None where it has none."""
        rates = (c.codec.spec.sample_rate for c in self.vocabulary.channels.values() if c.modality is Modality.AUDIO)
        return next(rates, None)

    @property
    def device(self) -> torch.device:
        """Where it computes; prompts may lie anywhere, results lie there."""
        return self.transformer.embedding.weight.device

    def train(self, mode: bool = True) -> Omni:
        """The transformer's mode; codecs always stay in eval mode."""
        super().train(mode)
        self.codecs.eval()
        return self

    def generate(
        self, segments: Sequence[Segment], to: str | None, n: int = 1, seed: int | None = None,
        decoder: str = "plain", *, steps: int | None = None,
        progress: Callable[[int, int | None], None] | None = None, **sampling: Any,
    ) -> list[Any]:  # fmt: skip
        """n results for one prompt, all different draws.

        segments  the prompt in order: str, pictures float32 (3, height, width) in [0, 1], sounds float32
                  (channels, samples) in [-1, 1] at `sample_rate`, PIL images, or a pathlib.Path of a file; empty, or
                  only empty texts: a sample without a prompt
        to        a modality or the name of a channel: one segment of it; None: the model chooses modalities and
                  when to stop
        seed      the same seed gives the same results; None draws one, and `statistics.seed` has it
        decoder   of pictures and sounds: "plain", the channel's codec, or "diffusion", the decoder for its codes
                  (models.decoder_for), in `steps` steps; None: its own default
        sampling  guidance (1: none; arXiv 2207.12598), temperature (0: the likeliest), top_k, top_p, and best_of:
                  of so many samples the one that the model itself finds to fit the prompt best (see `_fit`); None
                  and what is not named are the model's defaults
        progress  called with the tokens done, and how many there will be where that is known

        Gives pictures (3, height, width), sounds (channels, samples), str; with to=None a list of these for each.
        A picture of another size than the model's is resized, with a warning. `statistics` then has tokens, bits
        and seconds. Raises ValueError for a modality that the model lacks, a prompt longer than its context,
        sampling out of range, and a channel without a diffusion decoder where one is asked for.
        """
        if not is_integer(n, 1, MOST):
            raise ValueError(f"n {n!r} is no whole number from 1 to {MOST}")
        with one_thread(n <= ROWS):
            return self._generate([segments], [0] * n, to, seed, (decoder, steps), progress, sampling)

    def generate_batch(
        self, prompts: Sequence[Sequence[Segment]], to: str | None, seed: int | None = None, decoder: str = "plain", *,
        steps: int | None = None, progress: Callable[[int, int | None], None] | None = None, **sampling: Any,
    ) -> list[Any]:  # fmt: skip
        """One result for each of several prompts, in batches; all else as in `generate`."""
        if not 1 <= len(prompts) <= MOST:
            raise ValueError(f"{len(prompts)} prompts; 1 to {MOST} make a batch")
        with one_thread(len(prompts) <= ROWS):
            return self._generate(prompts, range(len(prompts)), to, seed, (decoder, steps), progress, sampling)

    # -- the stages -----------------------------------------------------------------------------

    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Sequence[Segment]], rows: Sequence[int], to: str | None, seed: int | None,
        how_decoded: tuple[str, int | None], progress: Callable | None, sampling: dict[str, Any],
    ) -> list[Any]:  # fmt: skip
        """The result of prompt `row`, for each of the `rows`."""
        if seed is not None and not is_integer(seed, 0, 2**63 - 1):
            raise ValueError(f"seed {seed!r} is no whole number from 0 to 2**63 - 1")
        seed = secrets.randbelow(2**31) if seed is None else seed
        channel = None if to is None else self.vocabulary.channel(to)
        painters = self._decoders(*how_decoded, seed, channel)
        how = chosen(sampling, self.defaults, channel)
        best_of = how.pop("best_of")
        tries = 1 if channel is None else best_of  # what the model chooses itself has nothing to fit
        seconds = {"encode": 0.0, "transformer": 0.0, "decode": 0.0}
        with _timed(seconds, "encode"):
            prompts_ids = self._encode(prompts)
        head = self._head(channel)
        ids = [torch.cat([row, head]) for row in prompts_ids]
        total = self._room(ids, channel)
        report = None if progress is None else _counting(progress, None if total is None else total * len(rows) * tries)
        with _timed(seconds, "transformer"):
            tried = [row for row in rows for _ in range(tries)]
            sampled = self._sample(ids, tried, head, channel, seed=seed, progress=report, **how)
            if tries > 1:
                sampled = self._best(prompts_ids, tried, head, sampled, tries)
        pairs = [(ids[row], new) for row, new in zip(rows, sampled, strict=True)]
        with _timed(seconds, "decode"):
            given = [len(self.vocabulary.parse(row)) for row in prompts_ids]
            documents = [self.vocabulary.parse(segments.closed(self.vocabulary, *pair)) for pair in pairs]
            parts = [document[given[row] :] for row, document in zip(rows, documents, strict=True)]
            results = self._decode(parts, painters)
        self.statistics = Statistics(
            seed, [len(prompt) for prompt, _ in pairs], [len(new) for _, new in pairs],
            [self._nominal(some) for some in parts], seconds, tries, lambda: self._price(pairs),
        )  # fmt: skip
        if channel is None:
            return results
        if not all(results):
            context = self.transformer.config["context"]
            raise ValueError(f"the context of {context} tokens was full before the {channel.modality} had begun")
        return [result[0] for result in results]

    def _encode(self, prompts: Sequence[Sequence[Segment]]) -> list[Tensor]:
        """Prompts → DOCUMENT and their segments; signals of one channel and shape go through its codec together."""
        jobs: dict[tuple, list[tuple[int, int, Any]]] = {}
        parts: list[list[Tensor | None]] = []
        for row, prompt in enumerate(prompts):
            if isinstance(prompt, str | Tensor) or not isinstance(prompt, Sequence):
                raise ValueError(f"a prompt is a list of segments, not {type(prompt).__name__}; wanted [segment, …]")
            prompt = [segment for segment in prompt if not (isinstance(segment, str) and not segment)]
            parts.append([None] * len(prompt))
            for at, segment in enumerate(prompt):
                channel, x = self._signal(segment)
                jobs.setdefault((channel.name, getattr(x, "shape", None)), []).append((row, at, x))
        lengths, encoded = [1] * len(prompts), []
        for (name, _), job in jobs.items():
            signals = [x for _, _, x in job]
            channel = self.vocabulary.channels[name]
            codes = channel.encode(signals if isinstance(signals[0], str) else torch.stack(signals).to(self.device))
            for (row, _, _), count in zip(job, segments.length(channel.codec, codes), strict=True):
                lengths[row] += count
            encoded.append((name, job, codes))
        self._require_fit(max(lengths))  # before a vocabulary complains of a single segment
        for name, job, codes in encoded:
            for (row, at, _), ids in zip(job, self.vocabulary.segment(name, codes), strict=True):
                parts[row][at] = ids
        return [torch.cat([START, *row]) for row in parts]

    def _signal(self, segment: Segment) -> tuple[Channel, Tensor | str]:
        """A segment of a prompt → its channel, and the signal as that encodes it."""
        channel = self.vocabulary.channel(segments.modality(segment))
        x = segments.signal(segment, channel.codec)
        size = self.sizes.get(channel.name)
        if channel.modality is Modality.IMAGE and size and tuple(x.shape[1:]) != size:
            (height, width), (h, w) = x.shape[1:], size
            x = segments.resize(x, size)
            warnings.warn(f"a picture of {width} x {height} pixels was resized to the model's {w} x {h}", stacklevel=2)
        return channel, x

    def _head(self, channel: Channel | None) -> Tensor:
        """What the wanted segment begins with: BEGIN, and its size where that is fixed."""
        if channel is None:
            return torch.tensor([], dtype=torch.int64)
        if size := self.sizes.get(channel.name):
            return self.vocabulary.header(channel.name, size)
        return self.vocabulary.kinds[self.vocabulary.start(channel.name).kind]  # its BEGIN alone

    def _room(self, prompts: list[Tensor], channel: Channel | None) -> int | None:
        """How many ids the wanted segment still has, where that is known; ValueError where they have no room."""
        wanted = None
        if channel is not None and channel.codec.spec.stride and channel.name in self.sizes:
            wanted = len(self.vocabulary.read(torch.cat([START, self._head(channel)])).body.kinds)
        self._require_fit(max(len(ids) for ids in prompts), wanted, channel)
        return wanted

    def _require_fit(self, prompt: int, wanted: int | None = None, channel: Channel | None = None) -> None:
        """ValueError unless a prompt of so many ids leaves room for those that are wanted, or for one."""
        context = self.transformer.config["context"]
        if prompt + (wanted or 1) > context:
            more = "" if wanted is None else f" with the {wanted} tokens of {channel.name} to come"
            raise ValueError(f"a prompt of {prompt} tokens{more} does not fit into the context of {context} tokens")

    def _sample(
        self, prompts: list[Tensor], rows: Sequence[int], head: Tensor, channel: Channel | None, **how: Any
    ) -> list[Tensor]:
        """The ids that follow each row's prompt, until the segment or the document is over or the context is full."""
        states = [self.vocabulary.read(ids) for ids in prompts]
        nothing, out = torch.cat([START, head]), []
        for at in range(0, len(rows), ROWS):
            some = rows[at : at + ROWS]
            with one_thread():
                out += generate.sample(
                    self.transformer, self.vocabulary, [prompts[row] for row in some], [states[row] for row in some],
                    until=(lambda state: state.over) if channel is None else (lambda state: state.between),
                    unconditional=[nothing] * len(some), first_row=at, **how,
                )  # fmt: skip
        return out

    def _best(
        self, prompts: list[Tensor], rows: Sequence[int], head: Tensor, sampled: list[Tensor], tries: int
    ) -> list[Tensor]:
        """Of every `tries` samples in a row the one that fits its prompt best."""
        fits = [self._fit(prompts[row], torch.cat([head, new])) for row, new in zip(rows, sampled, strict=True)]
        places = range(0, len(sampled), tries)
        return [sampled[max(range(at, at + tries), key=lambda i: (fits[i], -i))] for at in places]

    def _fit(self, prompt: Tensor, segment: Tensor) -> float:
        """How well a segment fits a prompt, in bits, by the model itself; −∞ where the context cut it off.

        After a prompt of texts alone: the log-probability of these texts after the segment, as a caption of it.
        Else the pointwise mutual information of the two: what the prompt takes off the segment's bits.
        """
        if not self.vocabulary.read(torch.cat([START, segment])).between:
            return -math.inf
        given = [self.vocabulary.channels[name].modality for name, _ in self.vocabulary.parse(prompt)]
        if given and set(given) == {Modality.TEXT}:
            return -self._price([(torch.cat([START, segment]), prompt[1:])])[0]
        after, alone = self._price([(prompt, segment), (START, segment)])
        return alone - after

    def _decoders(self, decoder: str, steps: int | None, seed: int, channel: Channel | None) -> dict[str, _Painting]:
        """What decodes in place of the codecs, by the name of the channel; none for texts, none where it is plain."""
        if decoder not in DECODERS:
            raise ValueError(f"decoder {decoder!r} is none of {', '.join(DECODERS)}")
        if decoder == "plain":
            if steps is not None:
                raise ValueError(f"steps {steps!r} are those of decoder='diffusion'; the plain decoder takes none")
            return {}
        samplers.times(1 if steps is None else steps)  # a number out of range is refused before any work
        wanted = self.vocabulary.channels.values() if channel is None else [channel]
        from . import decoder_for  # the package is whole by now

        found = {}
        for one in (c for c in wanted if c.modality is not Modality.TEXT):
            if one.name not in self._painters:
                try:
                    self._painters[one.name] = decoder_for(one.codec)
                except ValueError as error:
                    raise ValueError(f"channel {one.name}: {error}") from error
            found[one.name] = _Painting(self._painters[one.name].to(self.device), steps, seed)
        return found

    def _decode(self, results: list[list[tuple[str, Codes]]], painters: Mapping[str, Any]) -> list[list[Tensor | str]]:
        """Segments of every result → their signals, each channel in as few batches as can be."""
        out: list[list[Any]] = [[None] * len(result) for result in results]
        for name, channel in self.vocabulary.channels.items():
            places = [
                (row, at) for row, result in enumerate(results) for at, part in enumerate(result) if part[0] == name
            ]
            codes = [results[row][at][1].to(self.device) for row, at in places]
            signals = segments.decode(painters.get(name, channel.codec), codes, ROWS)
            for (row, at), x in zip(places, signals, strict=True):
                if channel.modality is Modality.AUDIO:
                    x = media.resample(x.cpu(), channel.codec.spec.sample_rate, self.sample_rate).to(self.device)
                out[row][at] = x
        return out

    # -- figures --------------------------------------------------------------------------------

    def _nominal(self, parts: list[tuple[str, Codes]]) -> float:
        channels = self.vocabulary.channels
        return sum(float(rate.nominal(channels[name].codec.spec, codes)) for name, codes in parts)

    @torch.no_grad()
    def _price(self, pairs: list[tuple[Tensor, Tensor]]) -> list[float]:
        """(prompt, sampled ids) → bits of the sampled ids under the model."""
        bits, allowed = [], [ids.to(self.device) for ids in self.vocabulary.kinds]
        for prompt, new in pairs:
            ids, first = torch.cat([prompt, new]), len(prompt) - 1
            kinds, places = (x.to(self.device) for x in self.vocabulary.states(ids))
            ids = ids.to(self.device)
            hidden = self.transformer(ids[None, :-1], places[None, :-1])[0, first:]
            nats = self.transformer.losses(hidden, ids[first + 1 :], kinds[first:-1], allowed)
            bits.append(float(nats.sum()) / math.log(2))
        return bits


class _Painting:
    """A diffusion decoder in the place of its codec, for batches of signals of one size; each has other noise."""

    def __init__(self, decoder: DiffusionDecoder, steps: int | None, seed: int) -> None:
        self.decoder, self.steps, self.seed = decoder, steps, seed
        self.spec = replace(decoder.codec.spec, causal=False)  # what lies beyond a signal's codes reaches into it

    def decode(self, codes: Codes) -> Tensor:
        signals = self.decoder.decode(codes, steps=self.steps, seed=self.seed)
        self.seed += 1
        return signals


def _counting(progress: Callable[[int, int | None], None], total: int | None) -> Callable[[int], None]:
    """What is told of each step → what is told of all so far."""
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        progress(done, total)

    return count


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Within it PyTorch computes in one thread, where that is wanted."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
