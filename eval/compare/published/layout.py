"""Files of curves in the results layout of CompressAI: {"name": …, "description": …, "results": {"bpp": […], …}}.

The bench of CompressAI computes the PSNR of the 8-bit RGB of each picture, and its MS-SSIM (pytorch-msssim), and writes
their means over the pictures, with those of the bits per pixel, at each quality. Papers also state MS-SSIM in dB.
"""

from __future__ import annotations

import glob
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenloom import __version__, errors, files

from ...serialize import from_json
from ..records import Record, ReferenceCurve
from ..results import Results

FOLDER = "compressai"
"""Folder of the files that `write` writes, and name of the layout."""
MAX_FILES, MAX_BYTES, MAX_POINTS, MAX_TEXT = 200, 2**20, 1000, 200
KEYS = {"psnr": ("psnr-rgb", "psnr"), "ms_ssim": ("ms-ssim-rgb", "ms-ssim", "ms-ssim-db-rgb", "ms-ssim-db")}
"""Metric here → keys of the layout, the first one to be written."""
DECIBEL = "MS-SSIM was given in dB"
"""Note of a curve whose MS-SSIM was converted: a value above 1 is 10 log10(1 / (1 - MS-SSIM))."""
MOST_DECIBEL = 100.0


def read(sources: Sequence[str | Path]) -> list[ReferenceCurve]:
    """Read curves.

    Args:
        sources: JSON files, folders whose JSON files are all read, and globs.

    Returns:
        The curves, each with a name of its own: that in its file, with the stem of the file if others share it.

    Raises:
        FileNotFoundError: If a file does not exist, or a folder or glob has none.
        ValueError: If a file is too large or not in the layout, or there are more than MAX_FILES.
    """
    paths = list(dict.fromkeys(path for source in sources for path in _paths(str(source))))
    if len(paths) > MAX_FILES:
        raise ValueError(f"references must be at most {MAX_FILES} files, got {len(paths)}")
    curves = [_curve(path) for path in paths]
    names = [curve.name for curve in curves]
    for curve, path in zip(curves, paths, strict=True):
        if names.count(curve.name) > 1:
            curve.name += f" ({path.stem})"
    return curves


def write(results: Results, folder: Path) -> None:
    """Write the curve of each image codec to `folder` / FOLDER. A codec without finite PSNR is left out with a warning.

    A point has the coded rate. A metric that a point lacks is left out.
    """
    taken: set[str] = set()
    for codec in results.codecs("image"):
        records = [r for r in results.of("image") if r.codec == codec and _finite(r.value("psnr")) and r.rate()]
        if not records:
            warnings.warn(f"{codec} has no finite PSNR, and so no curve in {FOLDER}/", stacklevel=2)
            continue
        stem = re.sub(r"[^A-Za-z0-9.+-]+", "-", codec).strip("-.") or "codec"
        name = next(n for i in range(len(taken) + 1) if (n := f"{stem}-{i + 1}" if i else stem) not in taken)
        taken.add(name)
        content = json.dumps(_content(results, codec, records), indent=2, ensure_ascii=False)
        files.write(folder / FOLDER / f"{name}.json", content + "\n")


def require_rgb(common: Mapping[str, str], protocol: str) -> None:
    """Raise ValueError for a protocol whose figures the layout has no place for."""
    if not str(common.get("colour")).startswith("RGB"):
        raise ValueError(f"published curves are of RGB, and protocol {protocol} measures luma: use protocols=[kodak]")


def _content(results: Results, codec: str, records: list[Record]) -> dict[str, Any]:
    """Return the content of the file of a codec. All lists have a value for each record."""
    columns: dict[str, Callable[[Record], float | None]] = {
        "bpp": lambda r: r.rate(),
        KEYS["psnr"][0]: lambda r: r.value("psnr"),
        KEYS["ms_ssim"][0]: lambda r: r.value("ms_ssim"),
        "encoding_time": lambda r: r.time.encode / r.n,
        "decoding_time": lambda r: r.time.decode / r.n,
    }
    values = {key: [column(r) for r in records] for key, column in columns.items()}
    first = records[0]
    return {
        "name": codec,
        "description": f"tokenloom {__version__}, protocol {first.protocol}, {first.n} images of {results.title}",
        "results": {key: column for key, column in values.items() if all(map(_finite, column))},
    }


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- read ------------------------------------------------------------------------------------------


def _paths(source: str) -> list[Path]:
    """Return the files of one element of the list."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    found = path.glob("*.json") if path.is_dir() else map(Path, glob.glob(str(path)))
    if not (paths := sorted(p for p in found if p.is_file())):
        what = "holds no JSON file" if path.is_dir() else "is neither a file nor a folder, and no glob of files"
        raise FileNotFoundError(f"references: {source} {what}")
    return paths


def _curve(path: Path) -> ReferenceCurve:
    """Read one file."""
    try:
        content = from_json(path, MAX_BYTES)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {errors.first_line(error)}") from error
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise ValueError(f'{path} must hold {{"name": …, "results": {{"bpp": […], "psnr-rgb": […]}}}}')
    rates = _numbers(path, "bpp", results.get("bpp"), 0, 1e6)
    if min(rates) <= 0:
        raise ValueError(f"{path}: bpp must be positive, got {min(rates)}")
    metrics, notes = {}, []
    for metric, keys in KEYS.items():
        if (key := next((key for key in keys if results.get(key) is not None), None)) is None:
            continue
        values = _numbers(path, key, results[key], -1, 1000)
        if len(values) != len(rates):
            raise ValueError(f"{path}: {key} must have {len(rates)} values, as bpp has, got {len(values)}")
        if metric == "ms_ssim" and max(values) > 1:
            notes, values = [DECIBEL], [_linear(path, key, value) for value in values]
        metrics[metric] = values
    if not metrics:
        wanted = ", ".join(key for keys in KEYS.values() for key in keys)
        raise ValueError(f"{path}: results must hold one of {wanted}")
    return ReferenceCurve(
        name=_text(content.get("name")) or path.stem, file=path.name, about=_about(content), rates=rates,
        metrics=metrics, notes=notes,
    )  # fmt: skip


def _numbers(path: Path, key: str, values: Any, low: float, high: float) -> list[float]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_POINTS:
        raise ValueError(f"{path}: {key} must be a list of 1 to {MAX_POINTS} numbers, got {values!r:.80}")
    for value in values:
        if not _finite(value) or not low <= value <= high:
            raise ValueError(f"{path}: {key} must hold numbers from {low:g} to {high:g}, got {value!r:.80}")
    return [float(value) for value in values]


def _linear(path: Path, key: str, decibel: float) -> float:
    if not 0 <= decibel <= MOST_DECIBEL:
        raise ValueError(f"{path}: {key} in dB must be from 0 to {MOST_DECIBEL:g}, got {decibel:g}")
    return 1 - 10 ** (-decibel / 10)


def _about(content: dict[str, Any]) -> str:
    """Return the description, the data set and the source, as far as the file states them."""
    meta = content.get("meta") if isinstance(content.get("meta"), dict) else {}
    parts = [content.get("description"), meta.get("dataset"), meta.get("url")]
    return ", ".join(text for part in parts if (text := _text(part)))


def _text(value: Any) -> str:
    """Return a text on one line, cut to MAX_TEXT characters; "" for another value."""
    return errors.printable(" ".join(value.split()))[:MAX_TEXT] if isinstance(value, str) else ""
