"""Compare the speed of tokenloom with that of its peers, in one process and by turns.

    make bench
    make bench ARGS="payloads sound --turns 9"

A word selects the rows whose text holds it. Without words, the table of docs/benchmarks.md is written anew.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

from tokenloom import environment, files

from .case import Case, Row, measure

SUBJECTS = ("quantizers", "payloads", "speech", "pictures", "sampling", "training")
PEERS = ("vector-quantize-pytorch", "faiss-cpu", "encodec", "diffusers", "transformers", "numpy", "torch")
ROOT = Path(__file__).resolve().parents[1]
PAGE = """# Speed beside peers

`make bench` measures tokenloom and what a user would take instead, on one thread of one processor. Both sides run in
one process by turns, and their results are compared. The figures are medians of {turns} turns, in milliseconds of
process time. A ratio above 1 means that tokenloom is faster. The last column is the share of our time that no way can
save, such as the matrix products of a search.

{processor}, {date}; {versions}.

{table}

**Where a peer is faster**

- *faiss-cpu* does not write the products to memory. With 8 channels and 8,192 entries that is most of the work. With
  256 channels its whole search takes less than PyTorch's products alone. It may round otherwise, and a code near a tie
  must not depend on whether the package is installed. Therefore it is not used.
- *transformers* and tokenloom spend two thirds of a step of 16 rows in the same matrix products of MKL. Of fewer rows,
  weights of 8 bits are the faster choice.
- *Plain PyTorch* and *Qwen3* train within 3 % of our time. Both sides compute the same convolutions and matrix
  products, which are 85 % of a step of `image/fsq`.
- *AVIF* is a classical codec. natural-ntc decodes by a network of 43 GFLOP at this size. Most are convolutions that run
  near the best rate of the processor. Its context model takes a third of the time to read.
- *Whole bits* take up to one bit more for each code. Codes of codebooks whose sizes are no powers of two are packed as
  digits of long numbers, within 32 bits of the nominal size. Of few codes, calls of NumPy are most of the time.

**Not measured**

- *CompressAI* needs torch-geometric for its import, which is not part of the extra `bench`.
- *Several ids in one pass.* Pictures of `omni-small` were drawn by Jacobi iteration, with the random numbers of each
  place fixed, so that the result is that of drawing one id after the other. Pictures of 64 tokens took 42 passes on
  average, over 10 prompts, with guesses for the next 16 tokens. A pass of 16 ids takes 1.6 times as long as a pass of
  one, so this saves nothing, and it is not built in.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="select rows")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in _cases():
        if given.words and not any(word in f"{case.subject} {case.work} {case.peer}" for word in given.words):
            continue
        rows.append(measure(case, given.turns))
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    if given.words:
        return
    about = {
        "processor": _processor(), "date": environment.now(), "turns": given.turns,
        "versions": {name: metadata.version(name) for name in PEERS},
    }  # fmt: skip
    content = {**about, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
    files.write(ROOT / "benchmarks" / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    head = "| work | peer | peer, ms | ours, ms | ratio | results | no way saves |\n|---|---|---:|---:|---:|---|---:|"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    page = PAGE.format(**about | {"versions": versions}, table="\n".join([head, *map(_line, rows)]))
    files.write(ROOT / "docs" / "benchmarks.md", page)


def _cases() -> Iterator[Case]:
    for name in SUBJECTS:
        yield from importlib.import_module(f"{__package__}.{name}").cases()


def _line(row: Row) -> str:
    floor = "" if row.floor is None else f"{row.floor / row.ours:.0%}"
    times = " | ".join(f"{t:,.0f}" if t >= 100 else f"{t:.3g}" for t in (row.theirs, row.ours))
    return f"| {row.subject}: {row.work} | {row.peer} | {times} | {row.ratio:.2f} | {row.results} | {floor} |"


def _processor() -> str:
    """Return the name of the processor and its instructions that matter here."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    lines = dict(line.split("\t: ", 1) if "\t: " in line else (line, "") for line in text.splitlines())
    flags = lines.get("flags\t", lines.get("flags", "")).split()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{lines.get('model name', 'unknown processor')} with {', '.join(known) or 'no vector instructions known'}"


if __name__ == "__main__":
    main()
