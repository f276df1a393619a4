"""Hugging Face `datasets` as a source; the package is an extra: tokenloom[hub]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloom.codecs.types import Modality

from .source import BrokenItem, Item, Source, at_least, decode


class Hub(Source):
    """One split of a data set from the hub or a local folder, downloaded once and memory-mapped.

    path            a hub id (`ylecun/mnist`) or a folder that `datasets` reads
    split           "train", "test", "train[:100]"
    config          the data set's configuration, where it has several
    column          the signal's column; null: the first of images or audio, else the first of strings
    caption_column  the caption's column; null: no captions
    limit           the first so many items

    Raises a one-line ValueError where the package, the data set or a column is missing.
    """

    name = "hub"

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        config: str | None = None,
        column: str | None = None,
        caption_column: str | None = None,
        limit: int | None = None,
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ValueError("data source hub needs the package datasets: pip install 'tokenloom[hub]'") from error
        try:
            rows = datasets.load_dataset(path, config, split=split)
        except Exception as error:  # offline, absent, gated, malformed: dozens of types, one meaning
            generic = isinstance(error, datasets.exceptions.DatasetGenerationError)
            first = str(error.__cause__ if generic and error.__cause__ else error).strip().split("\n")[0]
            raise ValueError(f"data set {path!r} (split {split!r}) did not load: {first}") from error
        self.path = path
        self.column, self.modality = _signal_column(rows.features, column, datasets)
        self.caption_column = caption_column
        if caption_column is not None and caption_column not in rows.features:
            raise ValueError(f"caption_column {caption_column!r} is none of {', '.join(rows.features)}")
        if self.modality is not Modality.TEXT:  # the file's own bytes: decoding is ours
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
        signal, rate = decode(data, self.modality, f"{self.path} item {i}")
        return Item(key, self.modality, signal, rate, caption)


def _signal_column(features: dict[str, Any], column: str | None, datasets: Any) -> tuple[str, Modality]:
    kinds = {}
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            kinds[name] = Modality.IMAGE
        elif isinstance(feature, datasets.Audio):
            kinds[name] = Modality.AUDIO
        elif getattr(feature, "dtype", None) in ("string", "large_string"):
            kinds[name] = Modality.TEXT
    if column is None:
        column = next((n for n, kind in kinds.items() if kind is not Modality.TEXT), next(iter(kinds), None))
    if column not in kinds:
        raise ValueError(f"column {column!r} is none of the pictures, sound and strings: {', '.join(kinds) or 'none'}")
    return column, kinds[column]
