"""`tokenloom export`: a codec's encoder and decoder as programs of ONNX or PyTorch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tokenloom import codecs
from tokenloom.cli.files import parse_setting
from tokenloom.codecs import export


def run(codec: str, format: str, output: Path | None = None, setting: str | None = None) -> str:
    """Write the export of a codec; the line to show.

    codec    a shipped name, a folder or a hub id
    output   a folder; None: the codec's name and the format
    setting  a value of its dial as a person types it
    """
    found = codecs.load(codec)
    if output is None:
        name = re.sub(r"[^\w.-]+", "-", Path(codec).name)
        output = Path(f"{name}-{format}")
    dial = None if setting is None else parse_setting(setting, found, codec)
    print(f"tokenloom: exporting {codec} as {format} …", file=sys.stderr, flush=True)
    agreement = export.export(found, output, format, dial)
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    return f"{output}: encoder and decoder of {codec}, {size:.1f} MB; against PyTorch {agreement}"
