"""Another process that encodes and decodes with the same codec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenloom import codecs, own_code
from tokenloom.codecs.types import Codes

PROGRAM = "import sys; sys.path[:] = {path!r}; from tokenloom.eval.doctor import child; child.main({folder!r})"
MINUTES = 10
REQUEST, GIVEN, ANSWER = "request.json", "given.pt", "answer.pt"


@dataclass(frozen=True)
class ChildAnswer:
    """Codes of the signals, and what the given codes decode to, on the CPU."""

    codes: Codes
    decoded: Tensor | list[str]


def ask(source: Any, setting: Any, device: str, x: Any, codes: Codes) -> ChildAnswer:
    """Encode signals and decode codes in another process.

    Args:
        source: What `codecs.load` takes.
        setting: The setting.
        device: The device.
        x: A batch of signals.
        codes: Codes to decode.

    Raises:
        ValueError: If the process fails. The message is the last line of what it said.
    """
    plain = dict(source) if isinstance(source, Mapping) else str(source)
    imports = list(own_code.paths())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {"source": plain, "setting": setting, "device": device, "imports": imports}
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        torch.save({"x": x, "codes": codes.to("cpu")}, folder / GIVEN)
        program = PROGRAM.format(path=sys.path, folder=name)
        environment = os.environ | {"PYTHONHASHSEED": "4711"}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60 * MINUTES,
            env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise ValueError(f"another process cannot use the codec: {lines[-1]:.300}")
        answer = torch.load(folder / ANSWER, weights_only=True)
    return ChildAnswer(answer["codes"], answer["decoded"])


def main(folder: str) -> None:
    """Answer the request in a folder."""
    place = Path(folder)
    request = json.loads((place / REQUEST).read_text(encoding="utf-8"))
    own_code.load(request["imports"])
    codec = codecs.load(request["source"], device=request["device"])
    given = torch.load(place / GIVEN, weights_only=True)
    codes = codec.encode(given["x"], request["setting"])
    decoded = codec.decode(given["codes"])
    plain = decoded.cpu() if isinstance(decoded, Tensor) else decoded
    torch.save({"codes": codes.to("cpu"), "decoded": plain}, place / ANSWER)
