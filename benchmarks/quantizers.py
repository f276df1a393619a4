"""Search for the nearest codeword, and training steps of quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import torch
import vector_quantize_pytorch as library
from torch import Tensor

from tokenloom.codecs.quantizers import BSQ, FSQ, Quantizer, ResidualVQ
from tokenloom.codecs.quantizers.codebooks import nearest

from .case import Case

SEARCHES = ((16_384, 8192, 8), (4096, 65_536, 8), (4096, 16_384, 256))
"""Vectors, entries and channels."""
LEARNING = {"decay": 0.99, "kmeans_init": True, "threshold_ema_dead_code": 0}


def cases() -> Iterator[Case]:
    for vectors, entries, dim in SEARCHES:
        yield from _searches(vectors, entries, dim)
    yield _step(
        "VQ with moving averages, 4,096 entries of 16", ResidualVQ(4096, 16, dead_below=0),
        library.VectorQuantize(16, 4096, **LEARNING),
    )  # fmt: skip
    yield _step(
        "residual VQ, 8 × 1,024 entries of 128", ResidualVQ(1024, 128, 8, dead_below=0, dropout=False),
        library.ResidualVQ(dim=128, codebook_size=1024, num_quantizers=8, **LEARNING),
    )  # fmt: skip
    yield _step("FSQ, levels 8, 5, 5, 5", FSQ([8, 5, 5, 5]), library.FSQ([8, 5, 5, 5], return_indices=False))
    binary = {"spherical": True, "entropy_loss_weight": 0.1, "commitment_loss_weight": 1.0}
    yield _step(
        "BSQ, 18 bits in 2 codebooks", BSQ(18, 2), library.LFQ(codebook_size=512, dim=18, num_codebooks=2, **binary)
    )


def _searches(vectors: int, entries: int, dim: int) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    x, book = (torch.randn(n, dim, generator=generator) for n in (vectors, entries))
    work = f"{vectors:,} vectors of {dim}, {entries:,} entries"
    index = faiss.IndexFlatL2(dim)
    index.add(book.numpy())

    def plain() -> Tensor:
        norms = book.square().sum(1)
        return torch.cat([torch.addmm(norms, some, book.T, alpha=-2).argmin(1) for some in x.split(2**24 // entries)])

    peers: dict[str, Callable[[], Tensor]] = {
        "PyTorch: addmm and argmin": plain,
        "faiss-cpu: IndexFlatL2": lambda: torch.from_numpy(index.search(x.numpy(), 1)[1][:, 0]),
    }
    for peer, search in peers.items():
        yield Case(
            "nearest codeword", work, peer, lambda: nearest(x, book), search, _same_indices, lambda: _products(x, book)
        )


def _products(x: Tensor, book: Tensor) -> None:
    """Compute the products alone, in tiles that stay in the cache."""
    for some in x.split(256):
        for part in book.split(1024):
            torch.mm(part, some.T)


def _same_indices(ours: Tensor, theirs: Tensor) -> str:
    share = (ours != theirs).double().mean().item()
    assert share < 1e-3
    return "equal" if share == 0 else f"{share:.1e} of the indices differ, at near ties"


def _step(work: str, ours: Quantizer, theirs: torch.nn.Module) -> Case:
    """A training step: quantize, and the gradient with respect to the latents."""
    z, upstream = torch.randn(2, 16, ours.dim, 32, 32, generator=torch.Generator().manual_seed(0))
    for module in (ours, theirs):
        module.train()

    def gradient(quantize: Callable[[Tensor], tuple[Tensor, Any]]) -> Tensor:
        x = z.detach().requires_grad_()
        quantized, loss = quantize(x)
        outputs = [quantized, loss] if loss.requires_grad else [quantized]
        torch.autograd.backward(outputs, [upstream, torch.ones(())][: len(outputs)])
        return quantized.detach()

    def their_quantize(x: Tensor) -> tuple[Tensor, Any]:
        out = theirs(x.flatten(2).transpose(1, 2))
        return out[0].transpose(1, 2).reshape(x.shape), out[2].sum() if len(out) > 2 else torch.zeros(())

    peer = f"vector-quantize-pytorch: {type(theirs).__name__}"
    return Case(
        "training step of a quantizer", f"{work}, 16 × 32 × 32 latents", peer, lambda: gradient(ours.quantize),
        lambda: gradient(their_quantize), _similar,
    )  # fmt: skip


def _similar(ours: Tensor, theirs: Tensor) -> str:
    """Codebooks that learn start from other random vectors, so only the spread of the results is compared."""
    if torch.allclose(ours, theirs, atol=1e-5):
        return "equal"
    assert 0.5 < ours.std() / theirs.std() < 2
    return "codebooks of their own"
