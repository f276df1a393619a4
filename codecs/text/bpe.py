"""Byte-pair encoding through Hugging Face `tokenizers` (Sennrich et al., 2016)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..codec import Codec, build
from ..native import pack, unpack
from ..registry import register
from ..types import Codes, CodeSpec, Modality, Settings


@register("text/bpe")
class BPE(Codec):
    """Text ↔ ids of a tokenizer. Byte-level ones, such as `train_from_iterator` makes, spell every string exactly.

    tokenizer  the path of a tokenizer.json, or its content. `config` keeps the content, so that a
               checkpoint needs no second file
    Raises ValueError without a tokenizer or with a broken one, FileNotFoundError for a missing file.
    """

    settings = Settings()
    variants = ()
    """None to look a container's fingerprint up among: there is no tokenizer by default."""

    def __init__(self, tokenizer: str = "") -> None:
        super().__init__()
        from tokenizers import Tokenizer

        if not isinstance(tokenizer, str) or not tokenizer.strip():
            raise ValueError(
                "text/bpe needs tokenizer: the path of a tokenizer.json or its content (see BPE.train_from_iterator)"
            )
        given = "the JSON text" if tokenizer.lstrip().startswith("{") else tokenizer
        content = tokenizer if given != tokenizer else _read(Path(tokenizer))
        try:
            self._tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # its Rust side raises bare Exception
            raise ValueError(f"{given} is no tokenizer.json: {str(error).splitlines()[0]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        entries = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if not entries:
            raise ValueError(f"{given} has an empty vocabulary")
        self.content = content
        self.spec = CodeSpec(Modality.TEXT, (entries,), (), 0, None, total=True, ordered=False, causal=False)

    @property
    def config(self) -> dict[str, Any]:
        """The tokenizer itself, wherever it was read from: what a checkpoint and the fingerprint need."""
        return {"tokenizer": self.content}

    @config.setter
    def config(self, given: dict[str, Any]) -> None:
        pass  # set by the base class and the registry; a path among the arguments means nothing elsewhere

    @classmethod
    def train_from_iterator(cls, texts: Iterable[str], vocab_size: int = 1024) -> BPE:
        """A byte-level codec of at most `vocab_size` entries (256 at least, one a byte) from an iterable of str.

        Deterministic: the same texts in the same order give the same tokenizer.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if type(vocab_size) is not int or vocab_size < 256:
            raise ValueError(f"vocab_size {vocab_size!r} is no integer from 256 on: every byte needs an entry")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)

        return build(cls.name, tokenizer=tokenizer.to_str())

    def _encode(self, x: list[str], setting: Any) -> Codes:
        encodings = self._tokenizer.encode_batch(list(x), add_special_tokens=False)
        indices, lengths = pack([torch.tensor(encoding.ids, dtype=torch.int64) for encoding in encodings])
        sizes = torch.tensor([[len(text.encode("utf-8"))] for text in x])
        return Codes(indices, sizes, lengths)

    def _decode(self, codes: Codes) -> list[str]:
        rows = [row.tolist() for row in unpack(codes)]
        return self._tokenizer.decode_batch(rows, skip_special_tokens=False)


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer.json at {path}")
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
