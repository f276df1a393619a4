"""Codes are a sequence of items that compares, copies, pickles and collates as PyTorch's users expect."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from support.codecs import MIDDLE, signals
from torch.utils.data import DataLoader

from tokenloom.codecs import Codes


def codes(*values: int, side: float = 1.0) -> Codes:
    rows = torch.tensor(values)[:, None, None].repeat(1, 2, 3)
    return Codes(rows, torch.full((len(values), 1), 5), None, {"scale": torch.tensor([[side, math.nan]] * len(values))})


def test_a_batch_is_a_sequence_of_items():
    batch = codes(4, 5, 6)
    assert len(batch) == 3 and [int(one.indices[0, 0, 0]) for one in batch] == [4, 5, 6]
    assert batch[-1] == batch[2] == codes(6) and batch[1:] == codes(5, 6) and batch[::2] == codes(4, 6)
    assert batch[torch.tensor(1)] == codes(5)
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            batch[beyond]


def test_equality_is_one_bool_and_agrees_with_the_hash():
    batch = codes(4, 5)
    assert (batch == codes(4, 5)) is True and hash(batch) == hash(codes(4, 5))
    others = [
        codes(4, 6), codes(4), codes(4, 5, side=2.0), Codes(batch.indices, batch.sizes),
        Codes(batch.indices, batch.sizes + 1, None, batch.side),
        Codes(batch.indices, batch.sizes, torch.tensor([3, 3]), batch.side),
        Codes(batch.indices.flatten(1), batch.sizes, None, batch.side),
    ]  # fmt: skip
    assert all((batch == other) is False and batch != other for other in others)
    assert batch != 3 and len({batch, codes(4, 5), *others}) == 1 + len(others)


def test_codes_of_every_codec_are_contiguous_and_travel(codec):
    batch = codec.encode(signals(codec, MIDDLE[codec.spec.modality]))
    tensors = [batch.indices, batch.sizes, *batch.side.values(), *([] if batch.lengths is None else [batch.lengths])]
    assert all(tensor.is_contiguous() for tensor in tensors)
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    for other in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch)), torch.load(file), batch.to("cpu")):
        assert other == batch


def test_an_item_is_saved_without_its_batch():
    batch = Codes(torch.zeros(1000, 1, 100, dtype=torch.int64), torch.full((1000, 1), 100))
    assert len(pickle.dumps(batch[3])) < 5000 < len(pickle.dumps(batch))


class Items(torch.utils.data.Dataset):
    """Codes of different lengths, one per item."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Codes:
        return Codes(torch.full((1, 1, i + 1), i), torch.tensor([[i + 1]]), torch.tensor([i + 1]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_collates_codes(workers):
    first, second = DataLoader(Items(), batch_size=2, num_workers=workers)
    assert first.indices.tolist() == [[[0, 0]], [[1, 1]]] and first.lengths.tolist() == [1, 2]
    assert second.lengths.tolist() == [3, 4] and second[1] == Items()[3]
