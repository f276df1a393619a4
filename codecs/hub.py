"""What is shared by the hub's conventions: a folder of safetensors, `config.json` and a model card, there and back."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import lazy_loader as lazy

from tokenloom import errors

from . import checkpoint

huggingface_hub = lazy.load("huggingface_hub")

CONFIG, CARD = "config.json", "README.md"


class Card(NamedTuple):
    """What a model card says."""

    summary: str
    tags: Sequence[str]
    pipeline: str | None
    """One of the hub's tasks, where one fits."""
    facts: Mapping[str, str]
    """The rows of its table."""
    usage: str
    """Python, in which SOURCE stands for where the model is loaded from."""


class Pretrained:
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for codecs, decoders and omni models."""

    def _write(self, folder: Path, **options: Any) -> None:
        """Weights and config to a folder; `options` as the `save` of the kind takes them, `config_file` among them."""
        raise NotImplementedError

    @classmethod
    def _read(cls, source: str) -> Self:
        """What `load` of the kind gives."""
        raise NotImplementedError

    def card(self) -> Card:
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, *, store: str = "float32", **extra: Any) -> None:
        """Write `model.safetensors`, `config.json` and, where there is none yet, a model card `README.md`.

        store  float32, float16 or int8 (see storage.py)
        extra  plain values for the config, such as `trained={…}`
        Raises ValueError where the folder holds another kind of checkpoint, OSError where it cannot be written.
        """
        self._save(Path(folder), Path(folder).name, store=store, **extra)

    def _save(self, folder: Path, source: str, **options: Any) -> None:
        self._write(folder, config_file=CONFIG, **options)
        if not (folder / CARD).exists():
            (folder / CARD).write_text(_markdown(self.card(), source), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """A trained one in eval mode from a folder, else a shipped name, else a hub id: no code of it is run.

        download  of the hub: revision, token, cache_dir, force_download and the like, as huggingface_hub takes them
        Raises ValueError where it is of another class, FileNotFoundError where there is none; one line each.
        """
        found = str(source)
        if download:
            if Path(found).exists() or not re.fullmatch(checkpoint.HUB_ID, found):
                raise ValueError(f"{sorted(download)[0]} is for downloads, and {found!r} is no hub id")
            found = str(checkpoint.download(found, checkpoint.PATTERNS, **download))
        model = cls._read(found)
        if not isinstance(model, cls):
            raise ValueError(f"{source} holds a {type(model).__name__}, no {cls.__name__}")
        return model

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, message: str | None = None,
        store: str = "float32", **extra: Any,
    ) -> str:  # fmt: skip
        """Upload what `save_pretrained` writes, the repository made where there is none; its address.

        A card that the repository has already stays. Raises OSError in one line where the hub refuses or is out of
        reach; nothing is changed before all is written.
        """
        hub = huggingface_hub.HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), repo_id, store=store, **extra)
            try:
                url = hub.create_repo(repo_id, private=private, exist_ok=True)
                if hub.file_exists(repo_id, CARD):
                    (Path(folder) / CARD).unlink()
                hub.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=message or f"{type(self).__name__}, tokenloom"
                )
            except huggingface_hub.errors.HFValidationError as error:
                raise ValueError(f"{repo_id!r} is no name for a repository: {errors.first_line(error)}") from error
            except Exception as error:  # offline, no token, no right to it: dozens of types, one meaning
                raise OSError(f"nothing was uploaded to {repo_id!r}: {errors.first_line(error)}") from error
        return str(url)


def _markdown(card: Card, source: str) -> str:
    data = huggingface_hub.ModelCardData(
        library_name="tokenloom", tags=["tokenloom", *card.tags], pipeline_tag=card.pipeline
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in card.facts.items())
    return f"""---
{data.to_yaml()}
---

# {Path(source).name}

{card.summary}

|   |   |
|---|---|
{table}

```python
{card.usage.replace("SOURCE", repr(source))}
```
"""


def number(count: int) -> str:
    """4321567 → 4.3 M."""
    return next((f"{count / unit:.1f} {name}" for name, unit in (("M", 1e6), ("k", 1e3)) if count >= unit), str(count))
