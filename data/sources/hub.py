"""Hugging Face `datasets` as a source. The package is an extra: tokenloom[hub]."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenloom import lazy
from tokenloom.codecs.types import Modality
from tokenloom.errors import first_line, missing

from .source import BrokenItem, Item, Source, at_least, decode

datasets = lazy.load("datasets", "hub")


class Hub(Source):
    """One split of a data set from the hub or a local folder, downloaded once and memory-mapped.

    Args:
        path: A hub id such as `ylecun/mnist`, or a folder that `datasets` reads.
        split: A split such as "train", "test" or "train[:100]".
        config: Configuration of the data set, if it has several.
        column: Column of the signal. None: the first of images or audio, else the first of strings.
        caption_column: Column of the caption. None: no captions.
        limit: Largest number of items.

    Raises:
        ValueError: The package, the data set or a column is missing.
    """

    name = "hub"

    modality: Modality

    def __init__(
        self, path: str, *, split: str = "train", config: str | None = None, column: str | None = None,
        caption_column: str | None = None, limit: int | None = None,
    ) -> None:  # fmt: skip
        if find_spec("datasets") is None:
            raise missing("datasets", "hub", "data source hub")
        try:
            rows = datasets.load_dataset(path, config, split=split)
        except Exception as error:  # offline, absent, gated, malformed: dozens of types
            generic = isinstance(error, datasets.exceptions.DatasetGenerationError)
            reason = first_line(error.__cause__ if generic and error.__cause__ else error)
            raise ValueError(f"data set {path!r} (split {split!r}) did not load: {reason}") from error
        self.path = path
        self.column, self.modality = _signal_column(rows.features, column)
        self.caption_column = caption_column
        if caption_column is not None and caption_column not in rows.features:
            raise ValueError(f"caption_column must be one of {', '.join(rows.features)}, got {caption_column!r}")
        if self.modality is not Modality.TEXT:  # keep the bytes of the file for `decode`
            rows = rows.cast_column(self.column, type(rows.features[self.column])(decode=False))
        columns = dict.fromkeys([self.column, *([caption_column] if caption_column else [])])
        rows = rows.select_columns(list(columns))
        self.rows = rows if limit is None else rows.select(range(min(at_least("limit", limit, 1), len(rows))))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Item:
        row = self.rows[self._check(i)]
        caption = "" if self.caption_column is None else str(row[self.caption_column] or "")
        value, key = row[self.column], f"{i:06d}"
        if value is None:
            raise BrokenItem(f"{self.path} item {i}: {self.column} is empty")
        if self.modality is Modality.TEXT:
            return Item(key, self.modality, str(value), None, caption)
        try:
            data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
        except OSError as error:
            raise BrokenItem(f"{value['path']}: {error.strerror or error}") from error
        signal, rate, told = decode(data, self.modality, f"{self.path} item {i}")
        return Item(key, self.modality, signal, rate, caption, notices=told)


def _signal_column(features: dict[str, Any], column: str | None) -> tuple[str, Modality]:
    modalities = {}
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            modalities[name] = Modality.IMAGE
        elif isinstance(feature, datasets.Audio):
            modalities[name] = Modality.AUDIO
        elif getattr(feature, "dtype", None) in ("string", "large_string"):
            modalities[name] = Modality.TEXT
    if column is None:
        signals = (name for name, modality in modalities.items() if modality is not Modality.TEXT)
        column = next(signals, next(iter(modalities), None))
    if column is None or column not in modalities:
        known = ", ".join(modalities) or "none"
        raise ValueError(f"column must be one of images, audio or strings ({known}), got {column!r}")
    return column, modalities[column]
