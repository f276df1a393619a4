"""The user's own code and configuration in the commands of Hydra: `import=FILE` and `--config-dir FOLDER`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from tokenloom import codecs
from tokenloom.cli.options import choices
from tokenloom.data.sources.registry import SOURCES

KEY = "import"
"""Key of the user's files. The configuration calls it `imports`, since `import` is a word of Python."""
SEARCH = "hydra.searchpath"


def take_imports(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return the absolute paths of `import=FILE` and `import=[A,B]`, and the other overrides."""
    found = [override for override in overrides if override.startswith(f"{KEY}=")]
    files = [str(Path(file).expanduser().absolute()) for override in found for file in _values(override)]
    return files, [override for override in overrides if override not in found]


def search(overrides: list[str], folder: str | None) -> list[str]:
    """Return the overrides with a configuration folder on the search path of Hydra."""
    if folder is None:
        return overrides
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"--config-dir {folder}: there is no such folder")
    others = [value for o in overrides if o.startswith(f"{SEARCH}=") for value in _values(o)]
    paths = listed([*others, f"file://{path}"])
    return [*(o for o in overrides if not o.startswith(f"{SEARCH}=")), f"{SEARCH}={paths}"]


def folders(overrides: list[str]) -> list[str]:
    """Return the configuration folders on the search path of Hydra."""
    values = [value for o in overrides if o.startswith(f"{SEARCH}=") for value in _values(o)]
    return [value.removeprefix("file://") for value in values if value.startswith("file://")]


def offer(overrides: list[str]) -> None:
    """Make registered codecs that train, and data sources, choices of Hydra if no YAML file describes them."""
    described = choices("codec", folders(overrides))
    for name in codecs.names():
        cls = codecs.registry.codec_class(name)
        if name not in described and issubclass(cls, codecs.LatentCodec):
            group, _, kind = f"codec/{name}".rpartition("/")
            keys = {key: value for key, value in _defaults(cls).items() if key in codecs.codec.arguments(cls)}
            ConfigStore.instance().store(group=group, name=kind, node={"name": name, **keys})
    described = choices("data", folders(overrides))
    for name in set(SOURCES) - set(described):
        node = {"name": name, **_defaults(SOURCES[name]), "strict": False}
        ConfigStore.instance().store(group="data", name=name, node=node)


def known(group: str, overrides: list[str]) -> list[str]:
    """Return the choices of a group: YAML files, and what `offer` added."""
    found = choices(group, folders(overrides))
    if group == "codec":
        trained = (n for n in codecs.names() if issubclass(codecs.registry.codec_class(n), codecs.LatentCodec))
        found += [name for name in trained if name not in found]
    return found + [name for name in SOURCES if name not in found] if group == "data" else found


def listed(values: list[str]) -> str:
    """Return texts as a list in Hydra's grammar."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "[" + ",".join(f'"{value}"' for value in quoted) + "]"


def _values(override: str) -> list[str]:
    """Return the text or the texts of an override. Raises ValueError for any other value."""
    parsed = OverridesParser.create().parse_override(override)
    value = None if parsed.is_sweep_override() else parsed.value()
    values = [getattr(one, "text", one) for one in (value if isinstance(value, list) else [value])]
    texts = [one for one in values if isinstance(one, str) and one]
    if len(texts) < len(values):
        key = override.partition("=")[0]
        raise ValueError(f"{key} must be a path, or a list such as '{key}=[a,b]', got {override}")
    return texts


def _defaults(definition: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of the parameters, ??? for those without one."""
    parameters = inspect.signature(definition).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in parameters if p.kind in kinds]
    return {p.name: "???" if p.default is p.empty else list(p.default) if isinstance(p.default, tuple) else p.default
            for p in named}  # fmt: skip
