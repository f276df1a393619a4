"""A tokenized data set as a map-style Dataset of PyTorch."""

from __future__ import annotations

import operator
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tokenloom.codecs.codec import Codec

from .job import sha256
from .optional import get_format
from .reading import complete_index, naming_damage


class TokenDataset(Dataset):
    """The rows of a folder that `tokenize` wrote, for a DataLoader with any number of workers.

        loader = DataLoader(TokenDataset("tokens/photos"), batch_size=8, shuffle=True, num_workers=2)
        for batch in loader:
            batch["codes"], batch["caption"]  # Codes of 8 items, and a list of 8 texts

    An item is a mapping of `codes` (a batch of one), `caption` and `key`. The DataLoader's own collate function joins
    the codes of a batch: those of unequal sizes are padded, and `sizes` and `lengths` state what is valid. Files are
    opened at each access, so that workers, also those of "spawn", share nothing.

    Args:
        folder: Written by `tokenize`.
        codec: Codec whose fingerprint must match, if given.
        verify: Whether to compare the SHA-256 of a shard with the index when a process first reads from it.

    Raises:
        FileNotFoundError: The folder has no index.
        ValueError: The codec differs or shards are missing; at an access, a shard is damaged.
        IndexError: At an access beyond the last item.
    """

    def __init__(self, folder: str | Path, codec: Codec | None = None, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.index = complete_index(self.folder, codec)
        self.verify = verify
        self._ends = list(accumulate(shard["items"] for shard in self.index["shards"]))
        self._positions: dict[int, np.ndarray] = {}
        get_format(self.index["format"])  # fails here, not in a worker, if its package is missing

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = range(len(self))[operator.index(i)]
        number = bisect_right(self._ends, i)
        path = self.folder / self.index["shards"][number]["name"]
        with naming_damage(path):
            found = self._positions_of(number, path)
            begin = self._ends[number] - self.index["shards"][number]["items"]
            row = get_format(self.index["format"]).read_at(path, found, i - begin)
        return {"codes": row.codes, "caption": row.caption, "key": row.key}

    def _positions_of(self, number: int, path: Path) -> np.ndarray:
        """Return where the rows of a shard are; check the shard before its first use."""
        if number not in self._positions:
            if self.verify and sha256(path) != self.index["shards"][number]["sha256"]:
                raise ValueError("its SHA-256 differs from that in the index")
            self._positions[number] = get_format(self.index["format"]).positions(path)
        return self._positions[number]
