"""A small language model of transformers, and its tokenizer."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'tokenloom[hf]')")


def host_tokenizer(**more):
    """Return a byte-level BPE tokenizer like that of GPT-2, trained on one sentence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 4, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **more}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def llama(vocab_size: int, **more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=0.5, **more,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()
