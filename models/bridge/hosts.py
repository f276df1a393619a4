"""A vocabulary's ids as tokens of a Hugging Face tokenizer, and as rows of a model's embeddings.

    <|segment:end|>          the end of a segment whose length varies
    <|segment:picture|>      the beginning of a segment of the channel "picture"
    <|size:0|> … <|size:255|>    the digits of sizes
    <|picture:0:17|>         code 17 of the channel's quantizer 0

They are special tokens: `decode(skip_special_tokens=True)` leaves them out, and `split_special_tokens=True` reads a
text that contains such a name as the plain characters that a person typed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..vocabulary.grammar import DIGITS, END
from ..vocabulary.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLASS = "PreTrainedTokenizerFast"


def names(vocabulary: Vocabulary) -> list[str]:
    """The token of each id of a vocabulary, from END on, in order."""
    out = ["<|segment:end|>", *(f"<|segment:{name}|>" for name in vocabulary.channels)]
    out += [f"<|size:{digit}|>" for digit in range(DIGITS)]
    for part in vocabulary.parts:
        for quantizer, ids in enumerate(part.ranges):
            out += [f"<|{part.channel.name}:{quantizer}:{code}|>" for code in range(len(ids))]
    return out


def add(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> int:
    """Add the tokens of a vocabulary, contiguous behind all that the tokenizer has → the id of the first of them.

    Raises ValueError, before anything is changed, for a tokenizer without the tokenizers library behind it, one that
    has such a token already, and one that would not read back what it writes.
    """
    from tokenizers import AddedToken, Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is a tokenizer in Python; wanted a fast one, with a tokenizer.json"
        )
    new, known = names(vocabulary), tokenizer.get_vocab()
    if new[0] in known:
        raise ValueError(f"this tokenizer has been merged already: it has {new[0]}; merge all channels at once")
    if taken := next((name for name in new if name in known), None):
        raise ValueError(f"this tokenizer has a token {taken} of its own; give the channel another name")
    tokens = [AddedToken(name, special=True, normalized=False) for name in new]
    backend = tokenizer.backend_tokenizer
    added, size = tokenizer.get_added_vocab().values(), backend.get_vocab_size(with_added_tokens=False)
    first = max(size, max(added, default=-1) + 1)  # the id that the library gives to the next token
    if first <= (last := max(known.values(), default=-1)):
        raise ValueError(
            f"the ids of this tokenizer have gaps: {len(known)} tokens, the last with id {last}; new ones would collide"
        )
    trial = Tokenizer.from_str(backend.to_str())
    trial.add_special_tokens(tokens[:3])
    text = trial.decode(ids := [first + 1, first, first + 2], skip_special_tokens=False)
    if (back := trial.encode(text, add_special_tokens=False).ids) != ids:
        raise ValueError(f"this tokenizer writes ids {ids} as {text!r} and reads that as {back}: it needs a decoder")
    tokenizer.add_tokens(tokens, special_tokens=True)
    require(tokenizer, vocabulary, first)
    return first


def require(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, first: int) -> None:
    """ValueError unless the tokenizer has exactly the vocabulary's tokens at the ids from `first` on."""
    find = tokenizer.backend_tokenizer.token_to_id
    for id, name in enumerate(names(vocabulary), first):
        if (found := find(name)) != id:
            raise ValueError(f"the tokenizer has {'no' if found is None else f'id {found} for'} {name}, wanted id {id}")


def host(tokenizer: PreTrainedTokenizerBase, first: int) -> Tokenizer:
    """The tokenizer as it was before the merge: to it, no text is a code."""
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["id"] < first]
    plain = Tokenizer.from_str(json.dumps(whole))
    plain.no_truncation()
    plain.no_padding()
    return plain


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a text, such as its beginning-of-text token."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """`save_pretrained`, in the form that loads fast.

    transformers makes a Python object of every added token, copies it and adds it again, unless the config says
    which those are: that takes most of the time from some ten thousand on. tokenizer.json holds all of them anyway,
    and the library behind reads them in a moment; but only the plain class takes the file as it is, where the
    classes of some models rebuild a tokenizer from its parts.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": CLASS, "added_tokens_decoder": {}}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def resize(model: PreTrainedModel, first: int, size: int, pad_to_multiple_of: int | None = None) -> None:
    """Make room for ids first … size − 1 in a model's embeddings, and begin them at the mean of the host's own rows.

    Rows that a model has beyond its tokenizer, as padding, are used first: they never become fewer. The mean gives
    new tokens a small probability each, whatever the context, and so leaves the model's text as it is (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"); output weights and biases begin there too.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if size > rows or pad_to_multiple_of:
        model.resize_token_embeddings(max(size, rows), pad_to_multiple_of, mean_resizing=False)
    for weight in _rows(model):
        weight[first:size] = weight[: min(first, rows)].float().mean(0).to(weight.dtype)


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """All weights with a row for each id: input embeddings and, where they are not tied, output weights; biases."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = [inputs.weight]
    if isinstance(outputs, nn.Module):
        found += [] if outputs.weight is inputs.weight else [outputs.weight]
        found += [] if getattr(outputs, "bias", None) is None else [outputs.bias]
    return found


def own(vocabulary: Vocabulary) -> int:
    """How many tokens a vocabulary adds: PAD, DOCUMENT and STOP are the host's business."""
    return vocabulary.size - END
