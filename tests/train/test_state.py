"""Shards of a tree, of an optimizer and of a module, in one process that holds them whole."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tokenloom.train import state


@pytest.fixture
def mesh(loopback, tmp_path):
    """A mesh of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def plain(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.Tensor) and not isinstance(tensor, DTensor)


def test_shards_anywhere_in_a_tree_become_whole(mesh):
    whole = torch.arange(6.0).reshape(3, 2)
    shards = distribute_tensor(whole.clone(), mesh, [Shard(0)]).requires_grad_()
    tree = {"step": 3, "groups": [{"moments": [shards, whole]}, shards, "text"]}
    found = state.collect(tree)
    first, second = found["groups"][0]["moments"][0], found["groups"][1]
    assert found == {"step": 3, "groups": [{"moments": [first, whole]}, second, "text"]}
    for tensor in (first, second):
        assert plain(tensor) and torch.equal(tensor, whole) and not tensor.requires_grad
        assert tensor.data_ptr() != shards.to_local().data_ptr(), "a later step must not change it"
    assert found["groups"][0]["moments"][1] is whole
    assert state.collect(tree, keep=False) == {"step": 3, "groups": [{"moments": [None, whole]}, None, "text"]}


def test_the_local_part_is_written_in_place(mesh):
    shards, whole = distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)]).requires_grad_(), nn.Parameter(torch.ones(2))
    torch._foreach_add_(state.local([shards, whole]), 1.0)
    assert torch.equal(shards.full_tensor(), torch.ones(3, 2)) and whole.tolist() == [2, 2]
    assert all(map(plain, state.local([shards, whole])))


def test_a_whole_optimizer_state_is_sharded_as_its_parameters(mesh):
    """Moments have the shape of their parameter. The step has not, even where it has as many numbers."""

    def trained(steps: int, *weights: torch.Tensor) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW([{"params": list(weights[:2])}, {"params": list(weights[2:]), "lr": 0.5}])
        for step in range(steps):
            for weight in weights:
                weight.grad = torch.full_like(weight, 1.0 + step)
            optimizer.step()
        return optimizer

    def weights() -> list[torch.Tensor]:
        sharded = [distribute_tensor(torch.ones(n, 2), mesh, [Shard(0)]).requires_grad_() for n in (3, 1)]
        return [sharded[0], nn.Parameter(torch.ones(2, 2)), sharded[1]]

    old, new = weights(), weights()
    saved = state.collect(trained(2, *old).state_dict())
    assert all(plain(value) for values in saved["state"].values() for value in values.values())
    optimizer = trained(0, *new)
    state.fill_optimizer(optimizer, saved)
    assert optimizer.param_groups[1]["lr"] == 0.5
    for parameter in new:
        values = optimizer.state[parameter]
        assert {type(values[key]) for key in ("exp_avg", "exp_avg_sq")} == {type(parameter.data)}
        assert plain(values["step"]) and values["step"].item() == 2
    found = state.collect(optimizer.state_dict())
    for index, values in saved["state"].items():
        assert all(torch.equal(value, found["state"][index][key]) for key, value in values.items())


def test_each_layer_is_sharded_for_itself(mesh):
    layers = [nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])), nn.Linear(2, 2)]
    module = nn.Sequential(nn.Linear(2, 2), nn.ModuleList(layers))
    sharded = state.shard(module, mesh)
    own = [m for m in sharded.modules() if isinstance(m, torch.distributed.fsdp.FSDPModule)]
    assert sharded is module and set(own) == {module, *layers, *layers[0][0]}
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
