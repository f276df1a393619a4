"""A vocabulary's ids as tokens of a transformers tokenizer, and as rows of a model's embeddings.

    <|segment:end|>          the end of a segment whose length varies
    <|segment:picture|>      the beginning of a segment of the channel "picture"
    <|size:0|> … <|size:255|>    the digits of sizes
    <|picture:0:17|>         code 17 of the channel's quantizer 0

They are special tokens: `decode(skip_special_tokens=True)` leaves them out, and with `split_special_tokens=True` such
a name in a text is plain characters.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokenloom import lazy

from ..vocabulary import Vocabulary
from ..vocabulary.id_space import DIGITS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

tokenizers = lazy.load("tokenizers", "hf")

CLASS = "PreTrainedTokenizerFast"


def token_names(vocabulary: Vocabulary) -> list[str]:
    """Return the token of each id of a vocabulary, from END on. The host has its own PAD, DOCUMENT and STOP."""
    out = ["<|segment:end|>", *(f"<|segment:{name}|>" for name in vocabulary.channels)]
    out += [f"<|size:{digit}|>" for digit in range(DIGITS)]
    for layout in vocabulary.layouts:
        for quantizer, ids in enumerate(layout.ranges):
            out += [f"<|{layout.channel.name}:{quantizer}:{code}|>" for code in range(len(ids))]
    return out


def add_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> int:
    """Add the tokens of a vocabulary after all tokens of a tokenizer. Return the id of the first one.

    Raises ValueError, and changes nothing, if the tokenizer is not fast, has such a token, or does not read the tokens
    that it writes.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"the tokenizer must be a fast one, with a tokenizer.json; {type(tokenizer).__name__} is not")
    new, known = token_names(vocabulary), tokenizer.get_vocab()
    if new[0] in known:
        raise ValueError(f"the tokenizer is merged already: it has {new[0]}; merge all channels at once")
    if taken := next((name for name in new if name in known), None):
        raise ValueError(f"the tokenizer has a token {taken} already; give the channel another name")
    tokens = [tokenizers.AddedToken(name, special=True, normalized=False) for name in new]
    backend = tokenizer.backend_tokenizer
    added, size = tokenizer.get_added_vocab().values(), backend.get_vocab_size(with_added_tokens=False)
    first = max(size, max(added, default=-1) + 1)  # id of the next token
    if first <= (last := max(known.values(), default=-1)):
        raise ValueError(
            f"the ids of the tokenizer must not have gaps, got {len(known)} tokens, the last with id {last}"
        )
    trial = tokenizers.Tokenizer.from_str(backend.to_str())
    trial.add_special_tokens(tokens[:3])
    text = trial.decode(ids := [first + 1, first, first + 2], skip_special_tokens=False)
    if (back := trial.encode(text, add_special_tokens=False).ids) != ids:
        raise ValueError(f"the tokenizer needs a decoder: it writes ids {ids} as {text!r} and reads {back}")
    tokenizer.add_tokens(tokens, special_tokens=True)
    return first


def check_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, first: int) -> None:
    """Raise ValueError unless the tokenizer has the vocabulary's tokens at the ids from `first` on."""
    find = tokenizer.backend_tokenizer.token_to_id
    for id, name in enumerate(token_names(vocabulary), first):
        if (found := find(name)) != id:
            raise ValueError(
                f"the tokenizer must have {name} at id {id}, got {'no such token' if found is None else f'id {found}'}"
            )


def original_tokenizer(tokenizer: PreTrainedTokenizerBase, first: int) -> tokenizers.Tokenizer:
    """Return the tokenizer without the merged tokens, so that no text becomes a code."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < first]
    plain = tokenizers.Tokenizer.from_str(json.dumps(state))
    plain.no_truncation()
    plain.no_padding()
    return plain


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a text, such as a beginning-of-text token."""
    bare, full = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    at = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:at], full[at + len(bare) :]


def contents(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the files of the tokenizer, name → content, in a form that loads fast.

    Unless the config lists the added tokens, transformers copies and adds each of them again, which dominates the time
    from about ten thousand tokens on. tokenizer.json holds them too and loads quickly, but only the plain class uses
    that file unchanged; the classes of some models rebuild the tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    config = json.loads(found["tokenizer_config.json"])
    config |= {"tokenizer_class": CLASS, "added_tokens_decoder": {}}
    found["tokenizer_config.json"] = f"{json.dumps(config, indent=2, ensure_ascii=False)}\n".encode()
    return found


@torch.no_grad()
def resize(model: PreTrainedModel, first: int, size: int, pad_to_multiple_of: int | None = None) -> None:
    """Set the rows of a model for the ids from `first` to `size` − 1 to the mean of the host's rows.

    The model grows if it has fewer rows, and never shrinks. The mean of embeddings, output weights and biases gives
    each new token a small probability in every context, so the model's text does not change (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if size > rows or pad_to_multiple_of:
        model.resize_token_embeddings(max(size, rows), pad_to_multiple_of, mean_resizing=False)
    for weight in _rows(model):
        weight[first:size] = weight[: min(first, rows)].float().mean(0).to(weight.dtype)


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Weights with one row per id: input embeddings, output weights unless they are tied, and output biases."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = [inputs.weight]
    if isinstance(outputs, nn.Module):
        found += [] if outputs.weight is inputs.weight else [outputs.weight]
        found += [] if getattr(outputs, "bias", None) is None else [outputs.bias]
    return found
