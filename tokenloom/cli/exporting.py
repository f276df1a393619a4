"""Export of a codec to a folder, as `tokenloom export` runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tokenloom import codecs
from tokenloom.cli.conversion import parse_setting
from tokenloom.codecs import export


def run(codec: str, format: str, output: Path | None = None, setting: str | None = None) -> str:
    """Export a codec and return a line that describes the result.

    Args:
        codec: A shipped name, a folder or a hub id.
        format: "onnx" or "torch.export".
        output: A folder; None for the codec's name and the format.
        setting: A value of the codec's setting as typed; None for its default.
    """
    loaded = codecs.load(codec)
    if output is None:
        name = re.sub(r"[^\w.-]+", "-", Path(codec).name)
        output = Path(f"{name}-{format}")
    value = None if setting is None else parse_setting(setting, loaded, codec)
    print(f"tokenloom: exporting {codec} as {format} …", file=sys.stderr, flush=True)
    agreement = export.export(loaded, output, format, value)
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    return f"{output}: encoder and decoder of {codec}, {size:.1f} MB; against PyTorch {agreement}"
