"""`Bridge`: inputs and outputs of a host model, whose tokenizer has the tokens of codecs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import errors, lazy
from tokenloom.codecs import Codec, Codes
from tokenloom.codecs.validate import are_integers

from ..vocabulary import END, Channel, Vocabulary
from . import checkpoint, results, tokens
from .logits_processor import GrammarConstraint
from .prompts import HostPromptEncoder, Prompt, as_batch

transformers = lazy.load("transformers", "hf")


class Bridge:
    """A host tokenizer with the tokens of several codecs. `merge` and `from_pretrained` build it.

    Args:
        tokenizer: A merged tokenizer of transformers.
        vocabulary: The vocabulary. Its ids from END on are first, first + 1, … in the tokenizer.
        first: Id of the vocabulary's END in the tokenizer.
    """

    def __init__(self, tokenizer: transformers.PreTrainedTokenizerBase, vocabulary: Vocabulary, first: int) -> None:
        tokens.check_tokens(tokenizer, vocabulary, first)
        self.tokenizer, self.vocabulary, self.first = tokenizer, vocabulary, first
        self._shift = first - END
        self._prompts = HostPromptEncoder(tokenizer, vocabulary, first)

    @classmethod
    def merge(
        cls, tokenizer: transformers.PreTrainedTokenizerBase, model: transformers.PreTrainedModel | None,
        channels: Sequence[Channel], longest: int = 4096, pad_to_multiple_of: int | None = None,
    ) -> Bridge:  # fmt: skip
        """Add the channels' tokens to a tokenizer, and rows for them to a model. Both are changed in place.

        Args:
            tokenizer: A fast tokenizer without such tokens.
            model: The model, whose new rows start at the mean of the old ones. None if the caller resizes it to `size`.
            channels: Channels with names of letters, digits, '_', '.', '-'.
            longest: Largest number of ids in a segment.
            pad_to_multiple_of: Divisor of the number of rows, as in `resize_token_embeddings`.

        Raises:
            ValueError: If a codec cannot enter or the tokenizer cannot be merged. Nothing is changed then.
        """
        _require_transformers()
        if not isinstance(channels, Sequence) or not all(isinstance(channel, Channel) for channel in channels):
            given = " ".join(repr(channels).split())
            raise ValueError(f"channels must be a list such as [Channel('picture', codecs.load(…))], got {given:.80}")
        for channel in channels:
            checkpoint.check_name(channel.name)
        vocabulary = Vocabulary(channels, longest)
        if model is not None and not hasattr(model, "get_input_embeddings"):
            raise ValueError(f"model must be a model of transformers, got {type(model).__name__}")
        bridge = cls(tokenizer, vocabulary, tokens.add_tokens(tokenizer, vocabulary))
        if model is not None:
            tokens.resize(model, bridge.first, bridge.size, pad_to_multiple_of)
        return bridge

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, codecs: Mapping[str, Codec] | None = None) -> Bridge:
        """Load a bridge that `save_pretrained` wrote. Nothing is downloaded.

        Args:
            folder: Folder of the bridge.
            codecs: Codecs of channels, by name. Other codecs are loaded from the folder or from those that ship.

        Raises:
            FileNotFoundError: If the folder has no bridge.
            ValueError: If a codec has not the fingerprint of the merged one, or the tokenizer lacks its tokens.
        """
        _require_transformers()
        vocabulary, first = checkpoint.load(Path(folder), dict(codecs or {}))
        try:
            merged = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            return cls(merged, vocabulary, first)
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder}: {errors.first_line(error)}") from error

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the tokenizer, the description of the bridge, and codecs that do not ship.

        `AutoTokenizer.from_pretrained(folder)` loads the merged tokenizer alone. `model.save_pretrained(folder)` may
        use the same folder.
        """
        checkpoint.save(Path(folder), self.vocabulary, self.first, tokens.contents(self.tokenizer))

    @property
    def size(self) -> int:
        """Number of ids of host and channels, which is the smallest number of rows of a model."""
        return self.vocabulary.size + self._shift

    # -- signals → ids ----------------------------------------------------------------------------

    def __call__(
        self, prompts: Prompt | Sequence[Prompt], *, add_special_tokens: bool = True, padding_side: str = "left"
    ) -> transformers.BatchEncoding:
        """Encode prompts for a model's `forward` or `generate`.

        Text is tokenized as before the merge, so a typed `<|picture:0:17|>` stays text. Only signals become codes;
        `bridge.tokenizer(text)` reads typed tokens as codes.

        Args:
            prompts: A list of segments, or a list of such lists. A segment is a signal, a host text (str), or a pair
                (channel, signal).
            add_special_tokens: Whether to add the host's special tokens around a prompt, as around a text.
            padding_side: "left", as `generate` requires, or "right".

        Returns:
            `input_ids` and `attention_mask`, int64 (rows, length) both.

        Raises:
            ValueError: If a segment is invalid, or the bridge has no channel for it.
        """
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be left or right, got {padding_side!r}")
        rows = self._prompts.encode(as_batch(prompts))
        before, after = self._prompts.special_tokens if add_special_tokens else ([], [])
        rows = [torch.tensor([*before, *row, *after], dtype=torch.int64) for row in rows]
        width = max(len(row) for row in rows)
        if not width:
            raise ValueError("the prompts are empty, and the tokenizer adds no special tokens")
        pads = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)  # any id works, because the mask hides it
        ids = torch.full((len(rows), width), next(pad for pad in pads if pad is not None))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(width - len(row), None) if padding_side == "left" else slice(len(row))
            ids[i, where], mask[i, where] = row, 1
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def segment(self, name: str, codes: Codes) -> list[Tensor]:
        """Return the ids of one segment per item, int64, for codes of a channel. `parse` is the inverse."""
        return [ids + self._shift for ids in self.vocabulary.segment(name, codes)]

    # -- ids → signals ----------------------------------------------------------------------------

    def parse(self, ids: Tensor | Sequence[int]) -> list[tuple[str | None, Any]]:
        """Split the ids of one sequence into segments and text, in order.

        An incomplete last segment is shortened to what decodes, or left out, with a warning.

        Returns:
            (name of the channel, codes as a batch of one) for segments, (None, ids) for text.

        Raises:
            ValueError: If the ids break the grammar.
        """
        return results.parse(self.vocabulary, self.first, self.tokenizer.all_special_ids, ids)

    def decode(self, ids: Tensor | Sequence, skip_special_tokens: bool = True) -> list[Any]:
        """Decode ids to signals and text.

        Args:
            ids: (length,), or (rows, length) as `generate` returns them.
            skip_special_tokens: Whether to leave out the host's special tokens, as in `tokenizer.decode`.

        Returns:
            Text and signals in order: str, images (3, height, width), audio (channels, samples). For several rows, a
            list of such lists.

        Raises:
            ValueError: If the ids break the grammar. Ids sampled under `logits_processor` never do.
        """
        several = results.is_batch(ids)
        rows = [self.parse(row) for row in (ids if several else [ids])]

        def text(run: Tensor) -> str:
            return self.tokenizer.decode(run.tolist(), skip_special_tokens=skip_special_tokens)

        found = results.decode(self.vocabulary, rows, text)
        return found if several else found[0]

    # -- sampling ---------------------------------------------------------------------------------

    def logits_processor(
        self, only: str | None = None, size: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None, *,
        max_new_tokens: int | None = None, max_length: int | None = None, eos_token_id: int | None = None,
    ) -> transformers.LogitsProcessor:  # fmt: skip
        """Return a `LogitsProcessor` that keeps one call of `generate` within the grammar, including beam search.

        Every sampled sequence decodes. Without a limit, the last segment may be incomplete; `decode` then shortens
        it. Assisted decoding, which discards ids, needs `max_length` as the limit.

        Args:
            only: A channel or modality, of which one segment follows the prompt and ends the sequence.
            size: Size of that segment, (height, width) or (samples,); or a mapping of channels to sizes.
            max_new_tokens: The value for `generate`. Segments then begin only if they fit, at sizes that fit.
            max_length: The same limit for the whole sequence.
            eos_token_id: Id that ends a sequence; default: that of the tokenizer.

        Raises:
            ValueError: If a channel is unknown, a size is impossible, or `only` lacks an id that ends the sequence.
        """
        for name, value in (("max_new_tokens", max_new_tokens), ("max_length", max_length)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        eos = self.tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        if only is not None and (eos is None or not 0 <= eos < self.first):
            raise ValueError(f"with only={only!r}, eos_token_id must be 0 to {self.first - 1}, got {eos}")
        name = GrammarConstraint.__name__
        kind = type(name, (GrammarConstraint, transformers.LogitsProcessor), {"__doc__": GrammarConstraint.__doc__})
        return kind(
            self.vocabulary, self.first, only=only, sizes=self._sizes(only, size), eos=eos,
            max_length=max_length, max_new_tokens=max_new_tokens,
        )  # fmt: skip

    def _sizes(self, only: str | None, size: Any) -> dict[str, tuple[int, ...]]:
        if size is None:
            return {}
        if not isinstance(size, Mapping):
            if only is None:
                raise ValueError(f"without only, size must be a mapping of channels to sizes, got {size!r}")
            size = {only: size}
        if wrong := [value for value in size.values() if not are_integers(value, 0, 2**28, 2)]:
            raise ValueError(f"a size must be a tuple such as (64, 64) or (8000,), got {wrong[0]!r:.80}")
        sizes = {self.vocabulary.channel(name).name: tuple(value) for name, value in size.items()}
        for name, value in sizes.items():
            self.vocabulary.header(name, value)
        return sizes


def _require_transformers() -> None:
    if find_spec("transformers") is None:
        raise errors.missing("transformers", "hf")
