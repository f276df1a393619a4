"""Byte-pair encoding (Sennrich et al., arXiv 1508.07909), and other tokenizers of Hugging Face `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tokenloom import errors, lazy

from ..codec import Codec, build
from ..native import pack, unpack
from ..registry import register
from ..types import Codes, CodeSpec, Modality
from ..validate import require_integer
from .byte_level import ByteLevelBPE, is_byte_level

tokenizers = lazy.load("tokenizers", "text")


@register("text/bpe")
class BPE(Codec):
    """Codec whose codes are the ids of a tokenizer. Byte-level BPE is lossless; other kinds need `tokenizers`.

    Args:
        tokenizer: Path of a tokenizer.json, or its content. `config` holds the content, so a saved codec does not need
            the file.

    Raises:
        ValueError: If the tokenizer is missing or invalid.
        FileNotFoundError: If the file does not exist.
    """

    variants = ()
    """None, since there is no default tokenizer."""
    paths = ("tokenizer",)

    def __init__(self, tokenizer: str = "") -> None:
        super().__init__()
        if not isinstance(tokenizer, str) or not tokenizer.strip():
            raise ValueError(
                "text/bpe needs tokenizer, the path of a tokenizer.json or its content (see BPE.train_from_iterator)"
            )
        inline = tokenizer.lstrip().startswith("{")
        source, content = ("the JSON text", tokenizer) if inline else (tokenizer, _read(Path(tokenizer)))
        try:
            self._tokenizer = _open(content)
        except errors.MissingPackage:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{source} must be a tokenizer.json: {errors.first_line(error)}") from error
        entries = max(self._tokenizer.vocabulary.values(), default=-1) + 1
        if entries < 2:  # tokens that cost no bits would let a few bytes declare any number of them
            raise ValueError(f"{source} must have a vocabulary of at least 2 entries, got {entries}")
        self.content = content
        self.spec = CodeSpec(Modality.TEXT, (entries,), (), channels=0)

    @property
    def config(self) -> dict[str, Any]:
        """Content of the tokenizer instead of its path, for checkpoints and the fingerprint."""
        return {"tokenizer": self.content}

    @config.setter
    def config(self, given: dict[str, Any]) -> None:
        pass  # the base class and `build` set it to the given path

    @classmethod
    def train_from_iterator(cls, texts: Iterable[str], vocab_size: int = 1024) -> Codec:
        """Train a byte-level tokenizer. Training is deterministic.

        Args:
            texts: Training texts.
            vocab_size: Largest number of entries, at least 256.
        """
        require_integer("vocab_size", vocab_size, 256, 2**31)  # at least one entry per byte
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        level = tokenizers.pre_tokenizers.ByteLevel
        tokenizer.pre_tokenizer = level(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=sorted(level.alphabet()), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return build(cls.name, tokenizer=tokenizer.to_str())

    def _encode(self, x: list[str], setting: Any) -> Codes:
        indices, lengths = pack([torch.tensor(self._tokenizer.encode(text), dtype=torch.int64) for text in x])
        sizes = torch.tensor([[len(text.encode("utf-8"))] for text in x])
        return Codes(indices, sizes, lengths)

    def _decode(self, codes: Codes) -> list[str]:
        return [self._tokenizer.decode(row.tolist()) for row in unpack(codes)]


class LibraryTokenizer:
    """A tokenizer of Hugging Face `tokenizers`, without padding, truncation and special tokens."""

    def __init__(self, content: str) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Raises ValueError if the vocabulary lacks a part of it."""
        with _converting():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids. Raises ValueError if they have none."""
        with _converting():
            return self._tokenizer.decode(ids, skip_special_tokens=False)


@contextmanager
def _converting() -> Iterator[None]:
    """Convert the errors of the library, which are of the type Exception, to ValueErrors."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"the tokenizer refuses: {errors.first_line(error)}") from error


def _open(content: str) -> ByteLevelBPE | LibraryTokenizer:
    parsed = json.loads(content)
    return ByteLevelBPE(parsed["model"]) if is_byte_level(parsed) else LibraryTokenizer(content)


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer.json at {path}")
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {errors.first_line(error)}") from error
