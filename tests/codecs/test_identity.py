"""A fingerprint follows every change of a weight, however it is made, and costs little."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.utils.prune
from support.codecs import MIDDLE, signals, tiny

from tokenloom.codecs import Codec


def weight(codec: Codec) -> torch.nn.Parameter:
    return codec.encoder[1].weight


@torch.no_grad()
def add_in_place(codec: Codec) -> None:
    weight(codec).add_(1e-3)


def add_to_data(codec: Codec) -> None:
    weight(codec).data[0] += 1e-3


def write_through_numpy(codec: Codec) -> None:
    weight(codec).detach().numpy()[0, 0, 0, 0] *= -1


def negate_rows_through_numpy(codec: Codec) -> None:
    weight(codec).detach().numpy()[:2] *= -1


def swap_two_numbers(codec: Codec) -> None:
    flat = weight(codec).detach().numpy().reshape(-1)
    flat[[0, 1]] = flat[[1, 0]]


def load_other_weights(codec: Codec) -> None:
    codec.load_state_dict({name: value + (name == "encoder.1.bias") for name, value in codec.state_dict().items()})


def replace_the_parameter(codec: Codec) -> None:
    codec.encoder[1].weight = torch.nn.Parameter(weight(codec).detach() * 2)


def point_to_other_memory(codec: Codec) -> None:
    weight(codec).data = weight(codec).data * 2


@torch.no_grad()
def set_to_another_tensor(codec: Codec) -> None:
    weight(codec).set_(weight(codec) * 2)


def swap_two_layers(codec: Codec) -> None:
    codec.decoder[1].first, codec.decoder[1].second = codec.decoder[1].second, codec.decoder[1].first


def change_in_inference_mode(codec: Codec) -> None:
    with torch.inference_mode():
        weight(codec).mul_(2)


def change_a_count(codec: Codec) -> None:
    codec.counts[0, 3] += 1


def change_a_buffer_that_is_not_stored(codec: Codec) -> None:
    codec.quantizer.bound[0] *= 1.5


def change_the_config(codec: Codec) -> None:
    codec.config["levels"] = [3, 3, 3]


def flip_the_sign_in_a_view(codec: Codec) -> None:
    codec.encoder[1].weight = torch.nn.Parameter(torch._neg_view(weight(codec).detach()))


def make_sparse(codec: Codec) -> None:
    codec.encoder[1].weight = torch.nn.Parameter((weight(codec).detach() * 2).to_sparse())


def repeat_one_number(codec: Codec) -> None:
    codec.encoder[1].weight = torch.nn.Parameter(torch.ones(1).expand_as(weight(codec)))


def add_a_quantized_tensor(codec: Codec) -> None:
    codec.register_buffer("scale", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))


def add_what_is_no_tensor(codec: Codec) -> None:
    layer = codec.encoder[1]
    layer.__class__ = type("Scaled", (type(layer),), {"get_extra_state": lambda _: {"scale": (2, torch.ones(2))}})


def prune_a_layer(codec: Codec) -> None:
    torch.nn.utils.prune.random_unstructured(codec.encoder[1], "weight", 0.5)


def add_a_parametrization(codec: Codec) -> None:
    torch.nn.utils.parametrizations.weight_norm(codec.encoder[1])


def write_a_vector(codec: Codec) -> None:
    vector = torch.nn.utils.parameters_to_vector(codec.parameters())
    torch.nn.utils.vector_to_parameters(vector * 2, codec.parameters())


def swap_tensors(codec: Codec) -> None:
    torch.utils.swap_tensors(weight(codec), torch.nn.Parameter(weight(codec).detach() * 2))


CHANGES = [
    flip_the_sign_in_a_view, make_sparse, repeat_one_number, add_a_quantized_tensor, add_what_is_no_tensor,
    prune_a_layer, add_a_parametrization, write_a_vector, swap_tensors,
    add_in_place, add_to_data, write_through_numpy, negate_rows_through_numpy, swap_two_numbers, load_other_weights,
    replace_the_parameter, point_to_other_memory, set_to_another_tensor, swap_two_layers, change_in_inference_mode,
    change_a_count, change_a_buffer_that_is_not_stored, change_the_config,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_follows_every_change(change):
    codec = copy.deepcopy(tiny("image/fsq"))
    before = codec.fingerprint
    undo = copy.deepcopy(codec)
    change(codec)
    after = codec.fingerprint
    assert after != before and codec.fingerprint == after
    assert undo.fingerprint == before, "the copy has its own weights"


def test_without_weights_there_is_no_fingerprint():
    codec = copy.deepcopy(tiny("image/fsq")).to_empty(device="meta")
    with pytest.raises(ValueError, match=r"the weight counts cannot be read: .* meta tensor"):
        codec.fingerprint  # noqa: B018


def test_use_changes_no_fingerprint(codec):
    before = codec.fingerprint
    codec.decompress(codec.compress(signals(codec, MIDDLE[codec.spec.modality])))
    assert codec.fingerprint == before


def test_codecs_travel(codec):
    """Copies, pickles and state dicts keep the fingerprint; tensors of a state dict are contiguous and their own."""
    for other in (copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert other.fingerprint == codec.fingerprint and other.spec == codec.spec
        other.load_state_dict(codec.state_dict())
        assert other.fingerprint == codec.fingerprint
    tensors = [value for value in codec.state_dict().values() if isinstance(value, torch.Tensor) and value.numel()]
    assert all(value.is_contiguous() for value in tensors)
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in tensors)
    assert len({value.data_ptr() for value in tensors}) == len(tensors)
