"""Save, load and upload models in the hub's layout: safetensors, `config.json` and a model card."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from tokenloom import errors, files, lazy

from .. import checkpoint

display = lazy.load("tokenloom.codecs.display")  # it imports this module
huggingface_hub = lazy.load("huggingface_hub", "hub")

CONFIG, CARD = "config.json", "README.md"


class Card(NamedTuple):
    """Content of a model card.

    Attributes:
        summary: One sentence.
        tags: Tags on the hub.
        pipeline: A task of the hub, or None if none fits.
        facts: Rows of the table.
        usage: Python code. SOURCE stands for the folder or hub id of the model.
    """

    summary: str
    tags: Sequence[str]
    pipeline: str | None
    facts: Mapping[str, str]
    usage: str


class Pretrained:
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for codecs, decoders and omni models.

    Attributes:
        license: License of the weights, an SPDX expression such as "CC-BY-4.0"; None if it is not known. A checkpoint
            states it, and the model card shows it.
    """

    license: str | None = None

    @property
    def terms(self) -> dict[str, str]:
        """Entry of the config that states the license; empty without one."""
        return {} if self.license is None else {"license": self.license}

    def _write(self, folder: Path, **options: Any) -> None:
        """Write weights and config to a folder. `options` are those of the `save` function, with `config_file`."""
        raise NotImplementedError

    @classmethod
    def _read(cls, source: str) -> Self:
        """Load a model."""
        raise NotImplementedError

    def card(self) -> Card:
        """Return the content of the model card."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return display.codec_line(self)

    def _repr_html_(self) -> str:
        return display.card_html(repr(self), self.card())

    def save_pretrained(self, folder: str | Path, *, store: str = "float32", **extra: Any) -> None:
        """Write `model.safetensors`, `config.json` and a model card `README.md`. An existing README.md is kept.

        Args:
            folder: Created if needed.
            store: Type of the stored weights: float32, float16 or int8 (see storage.py).
            **extra: Plain values for the config, such as `trained={…}`.

        Raises:
            ValueError: If the folder holds a checkpoint with a `config.yaml`.
            OSError: If the folder cannot be written.
        """
        self._save(Path(folder), Path(folder).name, store=store, **extra)

    def _save(self, folder: Path, source: str, **options: Any) -> None:
        self._write(folder, config_file=CONFIG, **options)
        if not (folder / CARD).exists():
            files.write(folder / CARD, _markdown(self.card(), source, options.get("license", self.license)))

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """Load a trained model in eval mode. No code in the checkpoint runs.

        Args:
            source: A folder, a shipped name, or a hub id.
            **download: Options of huggingface_hub: revision, token, cache_dir, force_download and so on.

        Raises:
            ValueError: If the checkpoint is of another class.
            FileNotFoundError: If the checkpoint does not exist.
        """
        found = str(source)
        if download:
            if Path(found).exists() or not re.fullmatch(checkpoint.HUB_ID, found):
                raise ValueError(f"{sorted(download)[0]} is for downloads, which need a hub id, got {found!r}")
            found = str(checkpoint.download(found, checkpoint.PATTERNS, **download))
        model = cls._read(found)
        if not isinstance(model, cls):
            raise ValueError(f"{source} must hold a {cls.__name__}, got {type(model).__name__}")
        return model

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, message: str | None = None,
        store: str = "float32", **extra: Any,
    ) -> str:  # fmt: skip
        """Upload what `save_pretrained` writes, and return the URL of the repository.

        Args:
            repo_id: "owner/name". The repository is created if needed. Its existing model card is kept.
            private: Whether a new repository is private; None for the owner's default.
            token: Access token; None for the one that huggingface_hub has stored.
            message: Commit message.
            store: See `save_pretrained`.
            **extra: See `save_pretrained`.

        Raises:
            ValueError: If `repo_id` is not a valid name.
            OSError: If the hub refuses or cannot be reached.
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
                raise ValueError(f"repo_id must be owner/name, got {repo_id!r}: {errors.first_line(error)}") from error
            except Exception as error:  # offline, no token, no permission: dozens of types
                raise OSError(f"nothing was uploaded to {repo_id!r}: {errors.first_line(error)}") from error
        return str(url)


def _markdown(card: Card, source: str, license: str | None) -> str:
    about: dict[str, Any] = {"library_name": "tokenloom", "tags": ["tokenloom", *card.tags]}
    about |= {"pipeline_tag": card.pipeline} if card.pipeline else {}
    facts = dict(card.facts)
    if license:  # the hub knows single licenses, in lower case
        single = " " not in license and not license.startswith("LicenseRef-")
        about |= {"license": license.lower()} if single else {"license": "other", "license_name": license.lower()}
        facts["license of the weights"] = license
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
{yaml.safe_dump(about, sort_keys=False)}---

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
    """Shorten a number: 4321567 → 4.3 M."""
    return next((f"{count / unit:.1f} {name}" for name, unit in (("M", 1e6), ("k", 1e3)) if count >= unit), str(count))
