"""Program of the child process that decodes Codec 2; see codec2.py. It does not import torch.

Standard input is a mode in ASCII, a line break, and packed frames. Standard output is samples of 16 bits.
"""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    mode, _, data = sys.stdin.buffer.read().partition(b"\n")
    decoder = import_module("pycodec2").Codec2(int(mode))
    length = decoder.bytes_per_frame()
    for start in range(0, len(data), length):
        sys.stdout.buffer.write(decoder.decode(data[start : start + length]).tobytes())


if __name__ == "__main__":
    main()
