"""A codec's encoder and decoder as programs that run without this package: ONNX, or PyTorch's own `torch.export`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import __version__, errors

from . import validate
from .codec import Codec, LatentCodec
from .image.flex import Flex
from .traced import Decoder, Encoder
from .types import Codes, Modality

FORMATS = {"onnx": ".onnx", "torch.export": ".pt2"}
PARTS = ("encoder", "decoder")
MOST_DIFFERING = 1e-3
"""Share of the codes that may be others than PyTorch's: those that lay between two entries."""
LARGEST_ERROR = 1e-2
"""Of a decoded sample; what is found is about 1e-6, so anything like this means other arithmetic."""
LARGEST = 2**31 - 2**20
"""Bytes of weights of one ONNX file, which is a protobuf message."""
AXES = {Modality.IMAGE: ("height", "width"), Modality.AUDIO: ("samples",)}


@dataclass(frozen=True)
class Agreement:
    """How an exported codec compares with the codec itself, on generated signals of several sizes.

    tokens     compared; differing  of them
    largest    difference of a decoded sample, from the same codes
    """

    tokens: int
    differing: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.differing} of {self.tokens} codes differ ({100 * self.differing / self.tokens:.3g} %), "
            f"signals by at most {self.largest:.2g}"
        )


def export(codec: Codec, folder: str | Path, format: str = "onnx", setting: Any = None) -> Agreement:
    """Write `encoder` and `decoder` with dynamic batch and sizes, `config.json` and a README.md that says how to run.

    The encoder takes signals (batch, channels, *size) float32 in range, of any size, and gives indices (batch,
    quantizers, *grid) int64, as `codec.encode` does; the decoder takes such indices and gives signals clamped to
    range, of whole strides: what lies beyond the size of the signal is the caller's to cut off. Of `image/flex` the
    grid is that of its tiles and the tokens of a tile stand in place of quantizers; flattened they are its row.

    format   onnx (needs the extra `export`) or torch.export
    setting  a value of the codec's dial, fixed from now on; None: the default. The decoder takes what that setting
             gives, −1 in place of indices for less, where the codec is ordered
    An export that lay in the folder is replaced once the new one is complete and checked.
    Raises ValueError for a codec that cannot be exported, for a folder with other files, for missing packages, and
    where more than 0.1 % of the codes differ from PyTorch's; nothing is left behind then.
    """
    folder = Path(folder)
    _check_format(format)
    _check_codec(codec, format)
    setting = validate.setting(setting, codec)
    _check_folder(folder)
    folder = folder.absolute()
    beside = next(parent for parent in folder.parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as scratch:
        staged = Path(scratch)
        layout = _layout(codec, setting)
        for part, program in zip(PARTS, _programs(codec, setting), strict=True):
            _write(program, staged / f"{part}{FORMATS[format]}", layout)
        agreement = _agreement(codec, setting, load(staged, format))
        if agreement.differing > MOST_DIFFERING * agreement.tokens or not agreement.largest <= LARGEST_ERROR:
            raise ValueError(
                f"{codec.name} cannot be exported as {format}: {agreement}; "
                f"at most {100 * MOST_DIFFERING:g} % and {LARGEST_ERROR:g} are taken"
            )
        config = _config(codec, setting, format, layout, agreement)
        (staged / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staged / "README.md").write_text(_readme(config), encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for name in _files() - {path.name for path in staged.iterdir()}:  # those of another format
            (folder / name).unlink(missing_ok=True)
        for path in staged.iterdir():
            path.replace(folder / path.name)
    return agreement


def load(folder: str | Path, format: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Encoder and decoder of an export, as functions of CPU tensors.

    Only for one's own exports: PyTorch's reader evaluates expressions that it finds in a .pt2 file.
    """
    paths = [Path(folder) / f"{part}{FORMATS[format]}" for part in PARTS]
    if format == "onnx":
        return tuple(_session(path) for path in paths)
    with _quiet():
        return tuple(torch.export.load(path).module() for path in paths)


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


# -- what is refused ------------------------------------------------------------------------------


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is none of {', '.join(FORMATS)}")
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise errors.missing(package, "export")


def _check_codec(codec: Codec, format: str) -> None:
    if not isinstance(codec, LatentCodec):
        raise ValueError(
            f"{codec.name} cannot be exported: its codes are made by a library and not by a network of ours; "
            "learned codecs such as image/fsq or audio/rvq can"
        )
    if codec.spec.window is not None:
        raise ValueError(
            f"{codec.name} cannot be exported where it codes a sound in chunks, each with its own scale, as at "
            f"{codec.spec.sample_rate} Hz: how many there are depends on the sound"
        )
    size = sum(p.numel() * p.element_size() for p in codec.parameters())
    if format == "onnx" and size > LARGEST:
        raise ValueError(f"{codec.name} has {size} bytes of weights, an ONNX file at most {LARGEST}; use torch.export")


def _check_folder(folder: Path) -> None:
    """One line for a folder that holds anything but an export."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; an export is a folder")
    found = {path.name for path in folder.iterdir()}
    if stray := sorted(found - _files()):
        raise ValueError(f"{folder} holds {stray[0]}, which is no part of an export; name a folder of its own")
    if found and not _is_export(folder / "config.json"):
        raise ValueError(f"{folder} is not empty and holds no export; name a folder of its own")


def _is_export(config: Path) -> bool:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("format") in FORMATS
    except (OSError, ValueError, AttributeError):
        return False


def _files() -> set[str]:
    return {f"{part}{suffix}" for part in PARTS for suffix in FORMATS.values()} | {"config.json", "README.md"}


# -- tracing --------------------------------------------------------------------------------------


def _programs(codec: LatentCodec, setting: Any) -> Iterator[torch.export.ExportedProgram]:
    """Encoder, then decoder."""
    signal = _signal(codec, tuple(2 * step + 1 + axis for axis, step in enumerate(_stride(codec))), 2)
    codes = _arranged(codec, codec.encode(signal, setting))
    for part, name, example in zip(PARTS, ("signal", "indices"), (signal, codes), strict=True):
        try:
            module = Encoder(codec, setting, codes.shape[1]) if name == "signal" else Decoder(codec, setting)
            yield _trace(module.eval(), name, example)
        except (RuntimeError, ValueError, AssertionError, TypeError, NotImplementedError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"the {part} of {codec.name} cannot be traced: {reason}") from error


def _trace(module: torch.nn.Module, name: str, example: Tensor) -> torch.export.ExportedProgram:
    axes = [axis for axis in range(example.ndim) if axis != 1 or (name == "indices" and isinstance(module.codec, Flex))]
    shapes = {name: {axis: torch.export.Dim.DYNAMIC for axis in axes}}
    with _quiet(), torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    _open(program)
    _strip(program)
    _level(program)
    return program


def _open(program: torch.export.ExportedProgram) -> None:
    """Every size from 1 on, where PyTorch supposes at least two codes an axis, for choices of memory layout only."""
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    for symbol in program.range_constraints:
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    program._guards_code = []


def _strip(program: torch.export.ExportedProgram) -> None:
    """Without weights that the program does not use, and without the paths of this machine's source files."""
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


def _level(program: torch.export.ExportedProgram) -> None:
    """Bounds of one kind in every clamp: the ONNX exporter of PyTorch 2.11 trips over an int beside a float."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.clamp.default and any(isinstance(bound, float) for bound in node.args[1:]):
            node.args = (node.args[0], *(None if bound is None else float(bound) for bound in node.args[1:]))
    program.graph_module.recompile()


def _write(program: torch.export.ExportedProgram, path: Path, layout: dict[str, list[str | int]]) -> None:
    with _quiet():
        if path.suffix == FORMATS["torch.export"]:
            torch.export.save(program, path)
            return
        (given,) = program.graph_signature.user_inputs
        made = "indices" if given == "signal" else "signal"
        written = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=[given], output_names=[made], external_data=False
        )
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()
        graph = written.model.graph
        graph.metadata_props.clear()
        graph.name = path.stem
        for value, names in zip((graph.inputs[0], graph.outputs[0]), (layout[given], layout[made]), strict=True):
            for axis, name in enumerate(names):
                value.shape[axis] = name
        written.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own talk."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# -- checking -------------------------------------------------------------------------------------


def _agreement(codec: LatentCodec, setting: Any, programs: tuple[Callable, Callable]) -> Agreement:
    encode, decode = programs
    tokens = differing = 0
    largest = 0.0
    axes = len(_stride(codec))
    for size, batch in ((_check_size(codec), 2), ((1,) * axes, 1)):
        signal = _signal(codec, size, batch)
        codes = codec.encode(signal, setting)
        wanted = _arranged(codec, codes)
        found = encode(signal)
        if found.shape != wanted.shape:
            raise ValueError(f"{codec.name} cannot be exported: {tuple(found.shape)} codes for {tuple(wanted.shape)}")
        decoded = decode(wanted)[(..., *(slice(n) for n in size))]
        tokens += wanted.numel()
        differing += int((found != wanted).sum())
        error = float((decoded - codec.decode(codes)).abs().max())
        largest = error if math.isnan(error) else max(largest, error)
    return Agreement(tokens, differing, largest)


def _check_size(codec: LatentCodec) -> tuple[int, ...]:
    """A size of about a thousand codes, whole strides on no axis."""
    stride = _stride(codec)
    positions = 1024 if len(codec.spec.codebook_sizes) < 64 else 64
    if isinstance(codec, Flex):
        positions = 16
    side = positions if len(stride) == 1 else math.isqrt(positions)
    return tuple(max(1, (side - axis) * step - step // 3) for axis, step in enumerate(stride))


def _signal(codec: LatentCodec, size: tuple[int, ...], batch: int) -> Tensor:
    """Waves with a little noise, in range."""
    noise = torch.Generator().manual_seed(0)
    phase = 6.3 * torch.rand(batch, codec.spec.channels, *[1] * len(size), generator=noise)
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    wave = sum(torch.sin(phase + place / period) for place in places for period in (3.0, 17.0, 90.0))
    x = wave / (3 * len(size)) + 0.1 * torch.randn(wave.shape, generator=noise)
    return (x.clamp(-1, 1) + 1) / 2 if codec.spec.modality is Modality.IMAGE else x.clamp(-1, 1)


def _stride(codec: LatentCodec) -> tuple[int, ...]:
    return (codec.tile, codec.tile) if isinstance(codec, Flex) else codec.spec.stride


def _arranged(codec: LatentCodec, codes: Codes) -> Tensor:
    """Indices of signals of one size as the programs have them: of `image/flex` by rank, then by tile."""
    if not isinstance(codec, Flex):
        return codes.indices
    return codes.indices[:, 0].unflatten(1, (-1, *codec.tiles(tuple(codes.sizes[0].tolist()))))


# -- what is said beside them ---------------------------------------------------------------------


def _layout(codec: LatentCodec, setting: Any) -> dict[str, list[str | int]]:
    """Axes of the signal and of the indices, by name where they are free."""
    spec = codec.spec
    size, grid = AXES[spec.modality], ["rows", "columns"] if spec.modality is Modality.IMAGE else ["frames"]
    smallest = codec.encode(_signal(codec, (1,) * len(size), 1), setting)
    count = "tokens" if isinstance(codec, Flex) else smallest.indices.shape[1]
    return {"signal": ["batch", spec.channels, *size], "indices": ["batch", count, *grid]}


def _config(
    codec: LatentCodec, setting: Any, format: str, layout: dict[str, list[str | int]], agreement: Agreement
) -> dict[str, Any]:
    spec, used = codec.spec, layout["indices"][1]
    signal = {"name": "signal", "type": "float32", "shape": layout["signal"]}
    indices = {"name": "indices", "type": "int64", "shape": layout["indices"]}
    return {
        "tokenloom": __version__,
        "format": format,
        "name": codec.name,
        "arguments": codec.config,
        "fingerprint": codec.fingerprint.hex(),
        "modality": str(spec.modality),
        "codebook_sizes": list(spec.codebook_sizes[: None if isinstance(used, str) else used]),
        "stride": list(_stride(codec)),
        "channels": spec.channels,
        "sample_rate": spec.sample_rate,
        "range": [0.0 if spec.modality is Modality.IMAGE else -1.0, 1.0],
        "setting": {"name": codec.settings.name, "unit": codec.settings.unit, "value": setting},
        "encoder": {"file": f"encoder{FORMATS[format]}", "input": signal, "output": indices},
        "decoder": {"file": f"decoder{FORMATS[format]}", "input": indices, "output": signal},
        "agreement": asdict(agreement),
    }


def _readme(config: dict[str, Any]) -> str:
    image = config["modality"] == Modality.IMAGE
    size = (45, 38) if image else (3001,)
    shape = (1, config["channels"], *size)
    cut = ", ".join(f":{n}" for n in size)
    if config["format"] == "onnx":
        code = f"""\
import numpy, onnxruntime
encoder, decoder = (onnxruntime.InferenceSession(f"{{part}}.onnx") for part in ("encoder", "decoder"))
signal = numpy.random.rand{shape}.astype("float32")
indices = encoder.run(None, {{"signal": signal}})[0]
decoded = decoder.run(None, {{"indices": indices}})[0][..., {cut}]"""
    else:
        code = f"""\
import torch
encoder, decoder = (torch.export.load(f"{{part}}.pt2").module() for part in ("encoder", "decoder"))
signal = torch.rand{shape}
indices = encoder(signal)
decoded = decoder(indices)[..., {cut}]"""
    dial = config["setting"]
    fixed = "" if not dial["name"] else f" at {dial['name']} {dial['value']}"
    what = "images (batch, 3, height, width) float32 in [0, 1]" if image else (
        f"audio (batch, {config['channels']}, samples) float32 in [-1, 1] at {config['sample_rate']} Hz"
    )  # fmt: skip
    indices = ", ".join(map(str, config["encoder"]["output"]["shape"]))
    return f"""\
# {config["name"]}{fixed}, exported by tokenloom {config["tokenloom"]}

The encoder takes {what} and gives indices
({indices}) int64; batch and sizes are free. The decoder gives
signals of whole strides ({" × ".join(map(str, config["stride"]))}): cut them to the size that went in.

```python
{code}
```
"""
