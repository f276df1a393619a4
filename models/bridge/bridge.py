"""What `Bridge` does: tokenizer, embeddings, prompts, sampling, and back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokenloom.codecs import Codec, Codes, Modality
from tokenloom.codecs.validate import are_integers

from ..vocabulary import segments
from ..vocabulary.segments import Segment
from ..vocabulary.vocabulary import DOCUMENT, END, Channel, Vocabulary
from . import hosts, stored
from .structure import Structure

if TYPE_CHECKING:
    from transformers import BatchEncoding, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

Prompt = Sequence[Segment | tuple[str, Segment]]
"""Segments in order; a pair (channel, signal) names the channel, else it is the first of the signal's modality. A str
is text in the host's own tokens."""
BATCH = 32
"""Signals decoded at once."""


class Bridge:
    """A tokenizer that speaks codes, and what goes in and out of a model with it. Made by `merge` or `from_pretrained`.

    tokenizer   of transformers, merged: the ids from `first` on are those of the vocabulary
    vocabulary  whose ids END, BEGIN, digits and codes are first, first + 1, … of the tokenizer
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, first: int) -> None:
        hosts.require(tokenizer, vocabulary, first)
        self.tokenizer, self.vocabulary, self.first = tokenizer, vocabulary, first
        self._shift = first - END

    @classmethod
    def merge(
        cls, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None, channels: Sequence[Channel],
        longest: int = 4096, pad_to_multiple_of: int | None = None,
    ) -> Bridge:  # fmt: skip
        """Add the channels' tokens to a tokenizer and rows for them to a model; both are changed in place.

        model               its new rows begin at the mean of the old ones; None: resize another time, to `size` rows
        channels            codecs with `spec.total`, under names of letters, digits, '_', '.', '-'
        longest             ids of one segment at most
        pad_to_multiple_of  of the rows of the model's embeddings, as in `resize_token_embeddings`

        Raises ValueError, with nothing changed, for codecs that cannot enter, a tokenizer that is not a fast one, or
        was merged before, or has tokens of these names.
        """
        _require_transformers()
        if not isinstance(channels, Sequence) or not all(isinstance(channel, Channel) for channel in channels):
            said = " ".join(repr(channels).split())
            raise ValueError(f"channels are a list such as [Channel('picture', codecs.load(…))], not {said:.80}")
        for channel in channels:
            stored.check_name(channel.name)
        vocabulary = Vocabulary(channels, longest)
        if model is not None and not hasattr(model, "get_input_embeddings"):
            raise ValueError(f"a {type(model).__name__} is no model of transformers: it has no get_input_embeddings")
        first = hosts.add(tokenizer, vocabulary)
        if model is not None:
            hosts.resize(model, first, first + hosts.own(vocabulary), pad_to_multiple_of)
        return cls(tokenizer, vocabulary, first)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, codecs: Mapping[str, Codec] | None = None) -> Bridge:
        """The bridge that `save_pretrained` wrote; nothing is looked for on the network.

        codecs  channel → its codec, where it is at hand; else those beside the tokenizer, or that ship

        Raises FileNotFoundError where the folder has no bridge, and ValueError where a codec is not the one that the
        bridge was made with (by its fingerprint), or the tokenizer has lost its tokens.
        """
        _require_transformers()
        from transformers import AutoTokenizer

        vocabulary, first = stored.load(Path(folder), dict(codecs or {}))
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            return cls(tokenizer, vocabulary, first)
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder}: {str(error).splitlines()[0]}") from error

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Tokenizer, the bridge's own description, and codecs that do not ship with the package.

        `AutoTokenizer.from_pretrained(folder)` gives the merged tokenizer, which knows nothing of codecs;
        `model.save_pretrained(folder)` may write to the same folder.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        stored.save(Path(folder), self.vocabulary, self.first)
        hosts.save(self.tokenizer, Path(folder))

    @property
    def size(self) -> int:
        """Ids of host and channels: rows that a model needs at least."""
        return self.vocabulary.size + self._shift

    # -- signals → ids ----------------------------------------------------------------------------

    def __call__(
        self, prompts: Prompt | Sequence[Prompt], *, add_special_tokens: bool = True, padding_side: str = "left"
    ) -> BatchEncoding:
        """Prompts → `input_ids` and `attention_mask`, both int64 (rows, length), for a model's `forward` or `generate`.

        prompts             one list of segments, or a list of such lists
        add_special_tokens  what the host's tokenizer puts around a text comes around the prompt
        padding_side        "left" as `generate` wants it, or "right"

        Text is read by the host's tokenizer as it was: a `<|picture:0:17|>` that somebody typed stays text. Codes come
        from signals only, or, if that is wanted, from `bridge.tokenizer(text)`. Raises ValueError for what is no
        segment, and for a modality or channel that the bridge lacks.
        """
        from transformers import BatchEncoding

        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side {padding_side!r} is none of left, right")
        rows = self._encode(_batched(prompts))
        before, behind = self._around if add_special_tokens else ([], [])
        rows = [torch.tensor([*before, *row, *behind], dtype=torch.int64) for row in rows]
        width = max(len(row) for row in rows)
        if not width:
            raise ValueError("the prompts are empty, and this tokenizer begins a text with nothing")
        pads = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)  # hidden by the mask, whatever it is
        ids = torch.full((len(rows), width), next(pad for pad in pads if pad is not None))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(width - len(row), None) if padding_side == "left" else slice(len(row))
            ids[i, where], mask[i, where] = row, 1
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def segment(self, name: str, codes: Codes) -> list[Tensor]:
        """Codes of a channel → the ids of one segment an item, int64; `parse` is the inverse."""
        return [ids + self._shift for ids in self.vocabulary.segment(name, codes)]

    def _encode(self, prompts: list[Prompt]) -> list[list[int]]:
        """The ids of each prompt; signals of one channel and shape go through its codec together."""
        parts: list[list[Any]] = []
        jobs: dict[tuple, list[tuple[int, int, Any]]] = {}
        for row, prompt in enumerate(prompts):
            parts.append([])
            for segment in prompt:
                name, x = self._signal(segment)
                if name is None and parts[row] and isinstance(parts[row][-1], str):
                    parts[row][-1] += x  # texts in a row are one text
                    continue
                if name is not None:
                    jobs.setdefault((name, getattr(x, "shape", None)), []).append((row, len(parts[row]), x))
                parts[row].append(x)
        for (name, _), job in jobs.items():
            channel, signals = self.vocabulary.channels[name], [x for _, _, x in job]
            codes = channel.encode(
                signals if isinstance(signals[0], str) else torch.stack(signals).to(_device(channel.codec))
            )
            for (row, at, _), ids in zip(job, self.segment(name, codes), strict=True):
                parts[row][at] = ids.tolist()
        return [[id for part in row for id in (self._text(part) if isinstance(part, str) else part)] for row in parts]

    def _signal(self, segment: Segment | tuple[str, Segment]) -> tuple[str | None, Any]:
        """A segment → its channel, None for the host's text, and what that encodes."""
        if isinstance(segment, str):
            return None, segment
        named = isinstance(segment, tuple) and len(segment) == 2 and isinstance(segment[0], str)
        name, segment = segment if named else (None, segment)
        kind = segments.modality(segment)
        if name is None and kind is Modality.TEXT:
            return None, Path(segment).read_text(encoding="utf-8")
        channel = self.vocabulary.channel(name or kind)
        if channel.modality is not kind:
            raise ValueError(f"channel {channel.name} takes {channel.modality}, not {kind}")
        return channel.name, segments.signal(segment, channel.codec)

    def _text(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if max(ids, default=0) < self.first:
            return ids
        return self._host.encode(text, add_special_tokens=False).ids  # it spells one of our tokens

    @cached_property
    def _host(self) -> Any:
        return hosts.host(self.tokenizer, self.first)

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        return hosts.around(self.tokenizer)

    # -- ids → signals ----------------------------------------------------------------------------

    def parse(self, ids: Tensor | Sequence[int]) -> list[tuple[str | None, Any]]:
        """Ids of one sequence → (channel, codes of a batch of one) and (None, ids of text, int64), in order.

        A segment that the end of the sequence cuts off is cut to what decodes, or left out, with a warning. Raises
        ValueError for ids that break the grammar.
        """
        row = _row(ids)
        if (stray := row[(row < 0) | (row >= self.size)]).size:
            raise ValueError(f"id {stray[0]} is none of 0 to {self.size - 1}")
        ours = row >= self.first
        special = np.isin(row, self.tokenizer.all_special_ids)
        end = len(row) - int(np.argmin(np.append(special[::-1] & ~ours[::-1], False)))
        found: list[tuple[str | None, Any]] = []
        bounds = [0, *(np.flatnonzero(np.diff(ours)) + 1).tolist(), len(row)]
        for start, stop in itertools.pairwise(bounds):
            run = torch.from_numpy(row[start:stop])
            if stop == start or not ours[start]:
                found += [(None, run)] if stop > start else []
                continue
            try:
                found += self._segments(run - self._shift, last=stop >= end)
            except ValueError as error:
                raise ValueError(f"ids {start} to {stop - 1} break the grammar: {error}") from error
        return found

    def _segments(self, ids: Tensor, last: bool) -> list[tuple[str, Codes]]:
        """Segments that follow each other, in the vocabulary's own ids."""
        document = torch.tensor([DOCUMENT])
        if last:
            return self.vocabulary.parse(segments.closed(self.vocabulary, document, ids))
        state = self.vocabulary.read(whole := torch.cat([document, ids]))
        if not state.between:
            raise ValueError(f"text follows within a segment of {state.channel.name}")
        return self.vocabulary.parse(whole)

    @torch.no_grad()
    def decode(self, ids: Tensor | Sequence, skip_special_tokens: bool = True) -> list[Any]:
        """Ids (length,) → segments in order: str, pictures (3, height, width), sounds (channels, samples).

        Ids (rows, length), as `generate` gives them, give such a list for each row. Raises ValueError for ids that
        break the grammar, which none sampled under `logits_processor` do.

        skip_special_tokens  without the host's padding, beginnings and ends, as in `tokenizer.decode`
        """
        several = ids.ndim == 2 if isinstance(ids, Tensor | np.ndarray) else bool(len(ids)) and not np.isscalar(ids[0])
        rows = [self.parse(row) for row in (ids if several else [ids])]
        out: list[list[Any]] = [[None] * len(row) for row in rows]
        for name, channel in self.vocabulary.channels.items():
            places = [(r, at) for r, row in enumerate(rows) for at, part in enumerate(row) if part[0] == name]
            items = [rows[r][at][1].to(_device(channel.codec)) for r, at in places]
            for (r, at), x in zip(places, segments.decode(channel.codec, items, BATCH), strict=True):
                out[r][at] = x
        for row, parts in zip(out, rows, strict=True):
            for at, (name, run) in enumerate(parts):
                if name is None:
                    row[at] = self.tokenizer.decode(run.tolist(), skip_special_tokens=skip_special_tokens)
        kept = [
            [x for x, (name, _) in zip(row, parts, strict=True) if name is not None or x]
            for row, parts in zip(out, rows, strict=True)
        ]
        return kept if several else kept[0]

    # -- sampling ---------------------------------------------------------------------------------

    def logits_processor(
        self, only: str | None = None, size: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None, *,
        max_new_tokens: int | None = None, max_length: int | None = None, eos_token_id: int | None = None,
    ) -> LogitsProcessor:  # fmt: skip
        """A new `transformers.LogitsProcessor`, for one call of `generate(logits_processor=[…])`, beams included.

        only            a channel or modality: what follows the prompt is one segment of it, and then the end
        size            of that segment, (height, width) or (samples,); or channel → the size of all its segments
        max_new_tokens  what `generate` gets: then a segment only begins, and only gets a size, that still fits
        max_length      the same, counted from the start of the sequence, padding included
        eos_token_id    what ends a sequence; default: the tokenizer's

        Whatever is sampled decodes. Without a limit a segment may be cut off at the end; `decode` then cuts it to what
        is there. With assisted decoding, which takes steps back, the limit is `max_length`. Raises ValueError for a
        channel that there is not, for a size that it cannot have, and for `only` without an eos_token_id.
        """
        from transformers import LogitsProcessor

        for name, value in (("max_new_tokens", max_new_tokens), ("max_length", max_length)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} {value!r} is no whole number from 1 on")
        eos = self.tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        if only is not None and (eos is None or not 0 <= eos < self.first):
            raise ValueError(
                f"after the segment of {only} an end must come, and eos_token_id {eos} is none of 0 to {self.first - 1}"
            )
        structure = type("Structure", (Structure, LogitsProcessor), {"__doc__": Structure.__doc__})
        return structure(
            self.vocabulary, self.first, only=only, sizes=self._sizes(only, size), eos=eos,
            max_length=max_length, max_new_tokens=max_new_tokens,
        )  # fmt: skip

    def _sizes(self, only: str | None, size: Any) -> dict[str, tuple[int, ...]]:
        if size is None:
            return {}
        if not isinstance(size, Mapping):
            if only is None:
                raise ValueError(f"size {size!r}: of which channel? With only=None it is a mapping, channel → size")
            size = {self.vocabulary.channel(only).name: size}
        if wrong := [value for value in size.values() if not are_integers(value, 0, 2**28, 2)]:
            raise ValueError(f"size {wrong[0]!r:.80} is no tuple such as (64, 64) or (8000,)")

        sizes = {self.vocabulary.channel(name).name: tuple(value) for name, value in size.items()}
        for name, value in sizes.items():
            self.vocabulary.header(name, value)
        return sizes


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError("a bridge needs transformers, which is not installed: pip install 'tokenloom[hf]'") from error


def _batched(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, str | Tensor) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts are a list of segments, or a list of such lists, not {type(prompts).__name__}")
    lists = [isinstance(prompt, list) for prompt in prompts]
    if any(lists) and not all(lists):
        at = lists.index(False)
        raise ValueError(f"prompt {at} is no list of segments but {type(prompts[at]).__name__}, among others that are")
    return list(prompts) if all(lists) else [prompts]


def _row(ids: Any) -> np.ndarray:
    row = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise ValueError(f"one sequence is whole numbers along one axis, not {row.dtype} of shape {row.shape}")
    return row.astype(np.int64)


def _device(codec: Codec) -> torch.device:
    return next((p.device for p in codec.parameters()), torch.device("cpu"))
