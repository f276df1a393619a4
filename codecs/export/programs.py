"""Trace a codec, and write and load the programs."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from tokenloom import errors, lazy

from ..codec import LatentCodec
from ..types import Modality
from .agreement import probe_signal

onnxruntime = lazy.load("onnxruntime", "export")

FORMATS = {"onnx": ".onnx", "torch.export": ".pt2"}
PARTS = ("encoder", "decoder")

Layout = dict[str, list[str | int]]
"""Name of an input or output → its axes: a number, or a name for a dynamic size."""


class EncoderProgram(nn.Module):
    """Signals (batch, channels, *size) float32 of any size → indices (batch, quantizers, *positions) int64."""

    def __init__(self, codec: LatentCodec, setting: Any) -> None:
        super().__init__()
        self.codec, self.setting = codec, setting

    def forward(self, signal: Tensor) -> Tensor:
        return self.codec.encode_indices(signal, self.setting)


class DecoderProgram(nn.Module):
    """Indices → signals of whole strides, float32, clamped to range. −1 marks a quantizer that is not used."""

    def __init__(self, codec: LatentCodec, setting: Any) -> None:
        super().__init__()
        self.codec, self.setting = codec, setting
        self.lowest = -1.0 if codec.spec.modality is Modality.AUDIO else 0.0

    def forward(self, indices: Tensor) -> Tensor:
        return self.codec.decode_indices(indices, self.setting).float().clamp(self.lowest, 1.0)


def trace(codec: LatentCodec, setting: Any, device: torch.device) -> Iterator[torch.export.ExportedProgram]:
    """Yield the encoder, then the decoder, with dynamic batch and sizes, for signals and indices on `device`.

    Raises:
        ValueError: If PyTorch cannot trace the codec.
    """
    signal = probe_signal(codec, tuple(2 * step + 1 + axis for axis, step in enumerate(codec.position_stride)), 2)
    indices = codec.indices_by_position(codec.encode(signal, setting))
    copied = copy.deepcopy(codec).to(device).eval().requires_grad_(False)
    free_quantizers = not codec.spec.stride
    encoder, decoder = EncoderProgram(copied, setting), DecoderProgram(copied, setting)
    for part, module, name, example in (
        ("encoder", encoder, "signal", signal.to(device)),
        ("decoder", decoder, "indices", indices.to(device)),
    ):
        try:
            yield _trace(module.eval(), name, example, free_quantizers and module is decoder)
        except (RuntimeError, ValueError, AssertionError, TypeError, NotImplementedError) as error:
            raise ValueError(f"the {part} of {codec.name} cannot be traced: {errors.first_line(error)}") from error


def _trace(module: nn.Module, name: str, x: Tensor, all_free: bool) -> torch.export.ExportedProgram:
    shapes = {name: {axis: torch.export.Dim.DYNAMIC for axis in range(x.ndim) if axis != 1 or all_free}}
    with _quiet(), torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=False)
    _allow_all_sizes(program)
    _strip(program)
    _unify_clamps(program)
    return program


def _allow_all_sizes(program: torch.export.ExportedProgram) -> None:
    """Allow sizes from 1. PyTorch assumes at least two codes per axis, but only its memory layout depends on that."""
    for symbol in program.range_constraints:
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    program._guards_code = []


def _strip(program: torch.export.ExportedProgram) -> None:
    """Remove unused weights and the paths of source files."""
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}
    for spec in list(signature.input_specs):
        if spec.target is not None and not nodes[spec.arg.name].users:
            program.graph.erase_node(nodes[spec.arg.name])
            signature.input_specs.remove(spec)
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", program.graph).nodes:
            node.meta.pop("stack_trace", None)


def _unify_clamps(program: torch.export.ExportedProgram) -> None:
    """Convert the bounds of clamps to one type. The ONNX exporter of PyTorch 2.11 fails on an int and a float."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.clamp.default and any(isinstance(bound, float) for bound in node.args[1:]):
            node.args = (node.args[0], *(None if bound is None else float(bound) for bound in node.args[1:]))
    program.graph_module.recompile()


def write(program: torch.export.ExportedProgram, path: Path, layout: Layout) -> None:
    """Write a program in the format of the path's suffix."""
    with _quiet():
        if path.suffix == FORMATS["torch.export"]:
            torch.export.save(program, path)
            return
        (input_name,) = program.graph_signature.user_inputs
        output_name = "indices" if input_name == "signal" else "signal"
        written = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=[input_name], output_names=[output_name],
            external_data=False,
        )  # fmt: skip
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()
        graph = written.model.graph
        graph.metadata_props.clear()
        graph.name = path.stem
        for value, names in zip(
            (graph.inputs[0], graph.outputs[0]), (layout[input_name], layout[output_name]), strict=True
        ):
            for axis, name in enumerate(names):
                value.shape[axis] = name
        written.save(path, external_data=False)


def load(folder: str | Path, format: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the encoder and decoder of an export as functions of tensors on the device of the export.

    Load only your own exports: PyTorch's reader evaluates expressions in a .pt2 file.
    """
    encoder, decoder = (Path(folder) / f"{part}{FORMATS[format]}" for part in PARTS)
    if format == "onnx":
        return _session(encoder), _session(decoder)
    with _quiet():
        return torch.export.load(encoder).module(), torch.export.load(decoder).module()


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' messages."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
