"""Byte-level BPE against Hugging Face tokenizers."""

import json
import random

import pytest

from tokenloom import codecs
from tokenloom.codecs.native import unpack
from tokenloom.codecs.text import bpe


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["waving hand", "waving hand light skin tone", "raised hand"]
    return bpe.BPE.train_from_iterator(iter(texts * 4), vocab_size=300)


def test_byte_level_bpe_has_the_ids_of_tokenizers(tokenizer):
    """Letters, digits, spaces, marks and emoji of every plane, contractions, and words without a space."""
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(tokenizer.content)
    draw = random.Random(0)
    points = [*range(0x250), *range(0x1F300, 0x1F650), *(draw.randrange(0x250, 0xD800) for _ in range(1000))]
    texts = [f"a {chr(point)}b1{chr(point)} .{chr(point)}" for point in points]
    letters = " \t\n wavinghdlstkoe0²½'’sretm.,é中🙂\u0301\u200d\x1c\x85\xa0"
    texts += ["".join(draw.choices(letters, k=draw.randrange(40))) for _ in range(500)]
    texts += ["wavinghand" * 2000, " " * 5000, "a" * 5000]
    codes = tokenizer.encode(texts)
    expected = [row.ids for row in library.encode_batch(texts, add_special_tokens=False)]
    assert [row.tolist() for row in unpack(codes)] == expected
    noise = [[draw.randrange(library.get_vocab_size()) for _ in range(12)] for _ in range(200)]
    assert [tokenizer._tokenizer.decode(row) for row in noise] == library.decode_batch(noise, skip_special_tokens=False)


def test_byte_level_bpe_takes_linear_time(tokenizer):
    """A pair that is sought from the beginning again after every merge would take minutes."""
    assert tokenizer.decode(tokenizer.encode(["raised" * 50_000])) == ["raised" * 50_000]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["vocab"].pop("in"), "it lacks 'in'"),
        (lambda model: model["vocab"].update(a=-1), "ids must be integers from 0 on, got -1"),
        (lambda model: model["vocab"].update(a="1"), "ids must be integers from 0 on, got '1'"),
        (lambda model: model["merges"].append("lonely"), "must be a tokenizer.json"),
    ],
)
def test_a_damaged_byte_level_bpe_is_refused(tokenizer, change, message):
    content = json.loads(tokenizer.content)
    change(content["model"])
    with pytest.raises(ValueError, match=message):
        codecs.build("text/bpe", tokenizer=json.dumps(content))
