"""LPIPS: the loader and the loss, with random weights in the right layout."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line
from support.training import config

from tokenloom.codecs import Modality
from tokenloom.metrics import lpips as perceptual
from tokenloom.train import losses
from tokenloom.train.loop import Run, train


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def backbone(name: str, prefix: str = "features.") -> dict[str, torch.Tensor]:
    """Random weights with torchvision's names, scaled so that activations do not vanish."""
    noise = generator()
    parameters = perceptual._untrained(name).net.named_parameters()
    shapes = {prefix + key.split(".", 1)[1]: p.shape for key, p in parameters}
    return {
        k: torch.randn(s, generator=noise) * (0.1 if len(s) == 1 else (2 / s[1:].numel()) ** 0.5)
        for k, s in shapes.items()
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub cache. A folder of files stands in for the network."""
    torch.hub.set_dir(str(tmp_path / "hub"))
    (tmp_path / "server").mkdir()
    monkeypatch.setattr(perceptual, "ADDRESS", (tmp_path / "server").as_uri())
    yield tmp_path
    torch.hub._hub_dir = None


def test_lpips_is_that_of_the_package(hub):
    """The reference is the definition: unit features, squared difference, linear heads, mean over positions."""
    weights = backbone("alex")
    torch.save(weights, hub / "alex.pth")
    network = perceptual.load("alex", hub / "alex.pth")
    for key, value in weights.items():
        parts = [p for name, p in network.net.named_parameters() if name.endswith("." + key.split(".", 1)[1])]
        assert len(parts) == 1 and torch.equal(parts[0], value) and not parts[0].requires_grad
    x, y = (torch.rand(2, 3, 40, 33, generator=generator(seed)) for seed in (0, 1))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = (network.net(((2 * s - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1)) for s in (x, y))
    wanted = sum(
        F.conv2d((F.normalize(u, eps=1e-10) - F.normalize(v, eps=1e-10)).square(), head.model[-1].weight).mean()
        for u, v, head in zip(a, b, network.lins, strict=True)
    )
    assert perceptual.distance(network, x, y).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert perceptual.distance(network, x, x) == 0
    assert network.lins[0].model[-1].weight.min() >= 0 and network.lins[0].model[-1].weight.any()
    with pytest.raises(ValueError, match="at least 31 pixels"):
        perceptual.distance(network, x[..., :30], y[..., :30])


def test_lpips_weights_are_looked_for_in_order(hub, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        perceptual.load("alex", download=True)
    assert one_line(error) and str(hub / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth") in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"mine\.pth"):
        perceptual.load("alex", hub / "mine.pth", download=True)

    torch.save(backbone("alex"), hub / "first.pth")
    served = (hub / "first.pth").read_bytes()
    (hub / "server" / perceptual.FILES["alex"]).write_bytes(served)
    with pytest.raises(FileNotFoundError, match="another checksum"):
        perceptual.load("alex", download=True)
    assert not list((hub / "hub" / "checkpoints").iterdir())
    name = f"alexnet-owt-{hashlib.sha256(served).hexdigest()[:8]}.pth"
    monkeypatch.setitem(perceptual.FILES, "alex", name)
    (hub / "server" / name).write_bytes(served)
    with pytest.raises(FileNotFoundError, match="nothing was downloaded"):
        perceptual.load("alex")
    perceptual.load("alex", download=True)
    assert [p.name for p in (hub / "hub" / "checkpoints").iterdir()] == [name]
    (hub / "server" / name).unlink()
    perceptual.load("alex")  # from the cache now

    other = {key.removeprefix("features."): value + 1 for key, value in backbone("alex").items()}
    torch.save(other, hub / "mine.pth")
    mine = perceptual.load("alex", hub / "mine.pth")
    assert torch.equal(next(mine.net.parameters()), other["0.weight"]), "a file that is named comes first"


def test_invalid_backbones_are_one_line(hub):
    state_dict = backbone("alex")
    torch.save(state_dict | {"features.3.weight": torch.zeros(2)}, hub / "shape.pth")
    torch.save({k: v for k, v in state_dict.items() if k != "features.0.bias"}, hub / "lacks.pth")
    torch.save(torch.zeros(3), hub / "tensor.pth")
    (hub / "text.pth").write_text("no weights")
    for file, says in (
        ("shape.pth", "features.3.weight is (2,)"), ("lacks.pth", "features.0.bias is missing"),
        ("tensor.pth", "no state dict"), ("text.pth", "not readable"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            perceptual.load("alex", hub / file)
        assert says in str(error.value) and one_line(error)
    with pytest.raises(ValueError, match="must be one of"):
        perceptual.load("resnet")


def test_training_with_lpips(hub):
    weights = backbone("vgg")
    torch.save(weights, hub / "vgg.pth")
    wanted = {"l1": 1.0, "lpips": 0.5}
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth"):
        train(config(hub / "run", losses=wanted))
    assert not (hub / "run").exists()
    cfg = config(hub / "run", losses=wanted, lpips_weights=str(hub / "vgg.pth"), steps=2, batch_size=2)
    run = Run(cfg)
    terms = run._update(0, torch.rand(2, 3, 32, 32, generator=generator()))
    assert terms["lpips"] > 0 and terms["loss"] == pytest.approx((terms["l1"] + 0.5 * terms["lpips"]).item())
    assert not any("vgg" in key or "slice" in key for key in run.module.state_dict())
    assert len(run.optimizer.param_groups[0]["params"]) == len(list(run.model.parameters()))
    run.logs.close()
    network = run.job.loss_networks["lpips"].args[0]
    x = torch.rand(1, 3, 32, 32, generator=generator()).requires_grad_()
    run.job.loss_networks["lpips"](x, 1 - x.detach()).backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in network.parameters())


def test_lpips_is_for_images():
    assert losses.weights({"lpips": 1.0}, Modality.IMAGE) == {"lpips": 1.0}
    with pytest.raises(ValueError, match="lpips loss is for image"):
        losses.weights({"lpips": 1.0, "l1": 1.0}, Modality.AUDIO)
