"""Content of `config.json` and README.md of an export."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tokenloom import __version__

from ..codec import LatentCodec
from ..types import Modality
from .agreement import Agreement, probe_signal
from .programs import FORMATS, Layout

AXES = {Modality.IMAGE: ("height", "width"), Modality.AUDIO: ("samples",)}


def layout(codec: LatentCodec, setting: Any) -> Layout:
    """Return the axes of the signal and of the indices."""
    spec = codec.spec
    size, grid = AXES[spec.modality], ["rows", "columns"] if spec.modality is Modality.IMAGE else ["frames"]
    smallest = codec.encode(probe_signal(codec, (1,) * len(size), 1), setting)
    count = smallest.indices.shape[1] if spec.stride else "tokens"
    return {"signal": ["batch", spec.channels, *size], "indices": ["batch", count, *grid]}


def config(codec: LatentCodec, setting: Any, format: str, axes: Layout, agreement: Agreement) -> dict[str, Any]:
    """Return the content of `config.json`."""
    spec, used = codec.spec, axes["indices"][1]
    signal = {"name": "signal", "type": "float32", "shape": axes["signal"]}
    indices = {"name": "indices", "type": "int64", "shape": axes["indices"]}
    return {
        "tokenloom": __version__,
        "format": format,
        "name": codec.name,
        "arguments": codec.config,
        "fingerprint": codec.fingerprint.hex(),
        "modality": str(spec.modality),
        "codebook_sizes": list(spec.codebook_sizes[: None if isinstance(used, str) else used]),
        "stride": list(codec.position_stride),
        "channels": spec.channels,
        "sample_rate": spec.sample_rate,
        "range": [0.0 if spec.modality is Modality.IMAGE else -1.0, 1.0],
        "setting": {"name": codec.settings.name, "unit": codec.settings.unit, "value": setting},
        "encoder": {"file": f"encoder{FORMATS[format]}", "input": signal, "output": indices},
        "decoder": {"file": f"decoder{FORMATS[format]}", "input": indices, "output": signal},
        "agreement": asdict(agreement),
    }


def readme(config: dict[str, Any]) -> str:
    """Return the text of README.md."""
    image = config["modality"] == Modality.IMAGE
    size = (45, 38) if image else (3001,)
    shape = (1, config["channels"], *size)
    crop = ", ".join(f":{n}" for n in size)
    if config["format"] == "onnx":
        code = f"""\
import numpy, onnxruntime
encoder, decoder = (onnxruntime.InferenceSession(f"{{part}}.onnx") for part in ("encoder", "decoder"))
signal = numpy.random.rand{shape}.astype("float32")
indices = encoder.run(None, {{"signal": signal}})[0]
decoded = decoder.run(None, {{"indices": indices}})[0][..., {crop}]"""
    else:
        code = f"""\
import torch
encoder, decoder = (torch.export.load(f"{{part}}.pt2").module() for part in ("encoder", "decoder"))
signal = torch.rand{shape}
indices = encoder(signal)
decoded = decoder(indices)[..., {crop}]"""
    setting = config["setting"]
    fixed = "" if not setting["name"] else f" at {setting['name']} {setting['value']}"
    signals = "images (batch, 3, height, width) float32 in [0, 1]" if image else (
        f"audio (batch, {config['channels']}, samples) float32 in [-1, 1] at {config['sample_rate']} Hz"
    )  # fmt: skip
    indices = ", ".join(map(str, config["encoder"]["output"]["shape"]))
    return f"""\
# {config["name"]}{fixed}, exported by tokenloom {config["tokenloom"]}

The encoder takes {signals}
and returns indices ({indices}) int64.
Batch and sizes are dynamic. The decoder returns signals of whole strides ({" × ".join(map(str, config["stride"]))}).
Crop them to the size of the input.

```python
{code}
```
"""
