"""The user's code and configuration in the commands of Hydra: `import=FILE`, `codec=FILE.py:CLASS`, `--config-dir`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from tokenloom import codecs
from tokenloom.cli.options import choices
from tokenloom.cli.overrides import plain
from tokenloom.codecs import registry
from tokenloom.codecs.own import classes
from tokenloom.data.sources.registry import SOURCES
from tokenloom.train.run_config import RunConfig

KEY = "import"
"""Key of the user's files. The configuration calls it `imports`, since `import` is a word of Python."""
SEARCH = "hydra.searchpath"


def take_imports(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return the absolute paths of `import=FILE` and `import=[A,B]`, and the other overrides."""
    found = [override for override in overrides if override.startswith(f"{KEY}=")]
    files = [str(Path(file).expanduser().absolute()) for override in found for file in _values(override)]
    return files, [override for override in overrides if override not in found]


def take_codecs(command: str, overrides: list[str]) -> tuple[list[str], list[str]]:
    """Run the files of codec=FILE.py:CLASS in a training, and resolve mappings, codec={name: …, …}.

    Returns:
        The paths of the files, and the overrides, with choices that Hydra knows in place of the classes, and
        codec.KEY=VALUE in place of a mapping.
    """
    files: list[str] = []
    return files, [line for o in overrides for line in (_codec(command, o, files) if o.startswith("codec=") else [o])]


def _codec(command: str, override: str, files: list[str]) -> list[str]:
    """Return the overrides for codec=VALUE, and add to `files`."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:  # Hydra itself reports it
        return [override]
    if isinstance(value, dict) and isinstance(name := value.pop("name", None), str):
        key, force = ("codec", "") if command == "train" else ("codec.name", "++")
        chosen = (
            _codec(command, f"{key}={plain(key, name)}", files) if command == "train" else [f"{key}={plain(key, name)}"]
        )
        return [*chosen, *(f"{force}codec.{key}={plain(key, one)}" for key, one in value.items())]
    names = [getattr(one, "text", one) for one in (value.list if isinstance(value, ChoiceSweep) else [value])]
    own = [name for name in names if registry.is_reference(name)]
    if command != "train" or not own:
        return [override]
    files += [classes.file_of(registry.codec_class(registry.resolve(name))) for name in own]
    return [f"codec={','.join(choice(str(name)) for name in names)}"]


def choice(name: str) -> str:
    """Return the choice of Hydra for a codec to train. FILE.py:CLASS is run, and stored as a choice."""
    known = registry.resolve(name)
    if not registry.is_reference(known):  # `offer` stores registered classes
        return known
    kind = re.sub(r"[^\w-]", "-", known)
    ConfigStore.instance().store(group="codec/own", name=kind, node=_node(known))
    return f"own/{kind}"


def settled(config: RunConfig) -> RunConfig:
    """Run the files of classes FILE.py:CLASS in the user's configuration of a training. Return it with these imports.

    The classes get the names by which the run and its checkpoints find them again.
    """
    for key in ("codec", "decoder", "omni"):
        if (given := getattr(config, key, None)) is not None:
            setattr(config, key, _settled(given, config.imports))
    return config


def _settled(value: Any, imports: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _settled(one, imports) for key, one in value.items()}
    if isinstance(value, list):
        return [_settled(one, imports) for one in value]
    if not registry.is_reference(value):
        return value
    name = registry.resolve(value)
    if (file := classes.file_of(registry.codec_class(name))) not in imports:
        imports.append(file)
    return name


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
            ConfigStore.instance().store(group=group, name=kind, node=_node(name))
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


def _node(name: str) -> dict[str, Any]:
    """Return the configuration of a codec class: its name, and its arguments with their defaults."""
    cls = registry.codec_class(name)
    return {"name": name} | {key: one for key, one in _defaults(cls).items() if key in registry.arguments(cls)}


def _defaults(definition: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of the parameters, ??? for those without one."""
    parameters = inspect.signature(definition).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in parameters if p.kind in kinds]
    return {p.name: "???" if p.default is p.empty else list(p.default) if isinstance(p.default, tuple) else p.default
            for p in named}  # fmt: skip
