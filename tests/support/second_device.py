"""A second device without hardware: PyTorch's private backend, whose tensors keep their values in CPU tensors.

Inside `active()`, `torch.device("elsewhere")` behaves as a GPU does: an operation refuses tensors of two devices, a
generator of the CPU does not draw on it, and NumPy cannot read it. As on MPS, it has no float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tokenloom import devices

NAME = "elsewhere"  # PyTorch adds a method of this name to tensors and modules
aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_, aten.copy}
"""Operations that may read one device and write another."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
"""Operations that take indices from the CPU, too."""


class _Module(backend_registration._DummyBackendModule):
    """What PyTorch asks of the module of a backend."""

    def __init__(self) -> None:
        self.active = False

    def is_available(self) -> bool:
        return self.active

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return _module.active


_module = _Module()
backend_registration._setup_privateuseone_for_python_backend(NAME, _module, _Hook())
DEVICE = torch.device(NAME, 0)


class SecondTensor(Tensor):
    """A tensor on the second device. `raw` is the tensor of the CPU that holds its values."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> SecondTensor:
        if raw.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the second device has no {raw.dtype}")
        out = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        out.raw = raw
        return out

    def __init__(self, raw: Tensor) -> None:
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a tensor of the CPU, to which `torch.load(…, map_location="cpu")` moves those of a GPU."""
        return self.raw.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:  # PyTorch supports no subclass in it
            return args[0].raw.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on the second device outside of active()")


class _Constructors(TorchFunctionMode):
    """Moves tensors made from numbers. PyTorch makes them on the CPU, where no mode sees the copy to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        method = func is Tensor.new_tensor and isinstance(args[0], SecondTensor)
        if (
            func in (torch.tensor, torch.as_tensor, torch.asarray)
            and torch.device(kwargs.get("device") or "cpu") == DEVICE
        ):
            del kwargs["device"]
            return func(*args, **kwargs).to(DEVICE)
        if func in (torch.stft, torch.istft) and isinstance(args[0], SecondTensor):
            return (_stft if func is torch.stft else _istft)(*args, **kwargs)
        if func is Tensor.__getitem__ and isinstance(args[0], SecondTensor):  # lists become tensors of the device
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return func(args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in index))
        return args[0].raw.new_tensor(*args[1:], **kwargs).to(DEVICE) if method else func(*args, **kwargs)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        leaves = list(_leaves((args, kwargs)))
        here = [leaf for leaf in leaves if type(leaf) is SecondTensor]
        named = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        out_here = named[0].type == NAME if named else bool(here)
        if packet is aten.copy_:
            out_here = type(args[0]) is SecondTensor
        if not (here or out_here):
            return func(*args, **kwargs)
        _check(func, args, leaves, here, out_here)
        raw_args, raw_kwargs = _map(_to_raw, (args, kwargs))
        out = (_lstm_cell if packet is aten._thnn_fused_lstm_cell else func)(*raw_args, **raw_kwargs)
        if torch.Tag.inplace_view in func.tags:
            raise NotImplementedError(f"{func} changes the shape of a tensor in place")
        known = {id(leaf.raw): leaf for leaf in here}  # operations in place return their argument
        return _map(lambda x: _wrap(x, known) if isinstance(x, Tensor) else x, out) if out_here else out


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _map(function: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(function, part) for key, part in value.items()}
    return type(value)(_map(function, x) for x in value) if type(value) in (list, tuple) else function(value)


def _wrap(raw: Tensor, known: dict[int, SecondTensor]) -> SecondTensor:
    return known[id(raw)] if id(raw) in known else SecondTensor(raw)


def _stft(
    x: Tensor, n_fft: int, hop_length: int, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, pad_mode: str = "reflect", **_: Any,
) -> Tensor:  # fmt: skip
    """Compute what `torch.stft` computes for (rows, samples), without its changes of shapes in place."""
    assert window is not None and center
    x = torch.nn.functional.pad(x[None], (n_fft // 2, n_fft // 2), mode=pad_mode)[0]
    left = (n_fft - (win_length or n_fft)) // 2
    window = torch.nn.functional.pad(window, (left, n_fft - len(window) - left))
    return torch.fft.rfft(x.unfold(-1, n_fft, hop_length) * window).transpose(-1, -2)


def _istft(
    x: Tensor, n_fft: int, hop_length: int, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """Compute what `torch.istft` computes for (rows, bins, frames)."""
    assert window is not None and length is not None and center and win_length is None
    frames = torch.fft.irfft(x.transpose(1, 2), n_fft) * window
    total = n_fft + hop_length * (x.shape[2] - 1)

    def overlap(parts: Tensor) -> Tensor:
        parts = parts.transpose(1, 2)
        return torch.nn.functional.fold(parts, (1, total), (1, n_fft), stride=(1, hop_length))[:, 0, 0]

    weight = overlap((window * window).expand(1, x.shape[2], -1))
    return (overlap(frames) / weight.clamp_min(1e-11))[:, n_fft // 2 : n_fft // 2 + length]


def _lstm_cell(inputs: Tensor, hidden: Tensor, cell: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a step of an LSTM. GPUs have an operation for it, which the CPU lacks."""
    gates = inputs + hidden + b + c
    i, f, g, o = gates.chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell, gates


def _to_raw(value: Any) -> Any:
    if isinstance(value, SecondTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _check(func: Any, args: Any, leaves: list[Any], here: list[SecondTensor], out_here: bool) -> None:
    """Raise RuntimeError as PyTorch does if the devices of an operation differ."""
    packet = func.overloadpacket
    if out_here and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"a generator of the CPU draws on the second device in {func}")
    if packet in COPIES or not here:
        return
    if packet in INDEXING and isinstance(args[0], SecondTensor):
        leaves = list(_leaves((args[0], args[2:])))
    strays = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, SecondTensor)]
    if strays := [
        stray for stray in strays if stray.ndim or (packet in INDEXING and not isinstance(args[0], SecondTensor))
    ]:
        raise RuntimeError(f"tensors of two devices meet in {func}: {NAME} and {strays[0].device}")


@contextmanager
def active() -> Iterator[torch.device]:
    """Make the second device available inside the block, to `devices.resolve` as well."""
    found, available = devices.available(), devices.available
    _module.active, devices.available = True, lambda: [*found, DEVICE]
    try:
        with _Mode(), _Constructors():
            yield DEVICE
    finally:
        _module.active, devices.available = False, available
