"""The functions `tokenloom.compare` and `tokenloom.train`: the commands of the same names, from Python."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloom import errors, files, lazy, lock, own_code
from tokenloom.cli.options import choices

if TYPE_CHECKING:
    from tokenloom.codecs import Codec
    from tokenloom.data import Source
    from tokenloom.eval.compare.front import Comparison
    from tokenloom.train.trained import TrainedRun

checkpoint = lazy.load("tokenloom.codecs.checkpoint")
conf = lazy.load("tokenloom.conf")
front = lazy.load("tokenloom.eval.compare.front", "eval")
composing = lazy.load("tokenloom.cli.compose", "train")
trained = lazy.load("tokenloom.train.trained", "train")


def compare(
    codecs: str | Mapping[str, Any] | Codec | Sequence[str | Mapping[str, Any] | Codec],
    data: str | os.PathLike[str] | Mapping[str, Any] | Source = "images",
    out: str | os.PathLike[str] | None = None,
    *,
    anchor: str | Sequence[str] | None = None,
    items: int | None = None,
    rate: float | Mapping[str, float] | None = None,
    protocols: Sequence[str] = ("rgb8", "waveform", "exact"),
    targets: Sequence[str] | None = None,
    references: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    export: str | None = None,
    modelled: bool = False,
    training: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    budget: int = 1048576,
    device: str = "auto",
    recognizer: str = "pocketsphinx-captions",
    seed: int = 0,
) -> Comparison:
    """Measure the fidelity of codecs and the bits they need, at every setting of their sweeps.

        result = compare(["image/jpeg", "emoji-fsq"], data="photos")
        result.frame()  # a pandas DataFrame

    Args:
        codecs: Names, folders, globs; "+diffusion" adds the diffusion decoder of a codec. `my_codec.py:MyCodec` is a
            class of your own file, which is run. A mapping adds arguments, {"name": …, "checkpoint": …}. Or a `Codec`.
        data: A folder, a tar file or a glob of tar files; a source such as "images" or "demo"; a mapping of a source
            and its keys, {"name": "folder", "path": "photos", "limit": 20}; or a `tokenloom.data.Source`.
        out: Folder of the results. None: a temporary one, which goes with the result.
        anchor: Reference codec of BD-rate, at most one per modality. None: JPEG, Opus, bytes, else the first codec.
        items: Largest number of items of each modality, drawn with `seed`. None: all.
        rate: Rate of the examples: bits per pixel, or {"bits_per_pixel": …, "kbps": …}.
        protocols: Names of protocols, at most one per modality. "perceptual", "speech" and "music" have slow judges.
        targets: "psnr", "slope" or both. None: both, for codecs of flexible length.
        references: Published curves beside those of images: JSON files, folders and globs in CompressAI's layout.
        export: "compressai" writes the curves of image codecs in that layout to the folder `compressai`.
        modelled: Whether to measure the bits under a small transformer, too.
        training: Data that it learns from, as for `data`. None: the items of `data` that are not evaluated.
        budget: Number of tokens that each of these trainings sees.
        device: Of learned codecs: auto, cpu, cuda, cuda:1 or mps.
        recognizer: Of speech, in the protocol "speech": pocketsphinx-captions, pocketsphinx, FILE.py:FUNCTION, hub id.
        seed: Seed of the draw and of these trainings.

    Returns:
        The result. After Ctrl-C it is partial, and `result.interrupted` is True.

    Raises:
        ValueError: If an argument is invalid, or the extra `eval` is not installed.
        FileNotFoundError: If a file or checkpoint does not exist.
    """
    names = list(codecs) if isinstance(codecs, Iterable) and not isinstance(codecs, str | Mapping) else [codecs]
    options = {
        "anchor": anchor, "items": items, "rate": rate, "protocols": protocols, "targets": targets, "export": export,
        "references": _paths(references), "modelled": modelled, "budget": budget, "device": device,
        "training": None if training is None else settings_of(training), "recognizer": recognizer, "seed": seed,
    }  # fmt: skip
    given = settings_of(data) if isinstance(data, str | os.PathLike | Mapping) else data
    with front.folder_of(out) as folder, _only_run(folder):
        return front.run(names, given, folder, temporary=out is None, **options)


def _paths(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    return [os.fspath(path) for path in ([given] if isinstance(given, str | os.PathLike) else given)]


def train(
    codec: str | Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> TrainedRun:
    """Train a codec, a transformer or a diffusion decoder, with the checks and defaults of `tokenloom train`.

        run = train("image/fsq", "photos", steps=2000, optimizer={"lr": 5e-4}, out="runs/mine")
        codec = run.load()

    Args:
        codec: A codec that trains, such as "image/fsq", or a mapping with its arguments,
            {"name": "image/fsq", "levels": [8, 5, 5, 5]}. `my_codec.py:MyCodec` is a class of your own file, which
            is run.
        data: A folder, a tar file or a glob of tar files; a source such as "scenes"; or a mapping of a source and its
            keys.
        **overrides: Keys of conf/train.yaml. A mapping, or a dot in a name (`**{"optimizer.lr": 5e-4}`), sets keys
            inside a key. `experiment="emoji-fsq"` takes a recipe. `out` defaults to runs/train/<date>.

    Returns:
        The run, with its folder. Ctrl-C stops after the current step, and the run is saved.

    Raises:
        ValueError: If a key or a value is wrong, or the extra `train` is not installed.
        FileNotFoundError: If a path does not exist.
    """
    given = {"codec": codec, "data": None if data is None else settings_of(data)} | overrides
    given.setdefault("out", f"runs/train/{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    imports = given.get("imports") or ()
    own_code.load(imports)  # before the configuration is composed: the files may define its choices and keys
    config = composing.compose({key: value for key, value in given.items() if value is not None})
    out = Path(config.out)
    with _only_run(out):
        return trained.run(config)


def settings_of(data: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data` group of a configuration for a source or a path.

    Args:
        data: A mapping with `name` or `path`, the name of a source, a folder, a tar file, or a glob of tar files.

    Raises:
        ValueError: If it is none of these.
        FileNotFoundError: If it is a path that does not exist.
    """
    if isinstance(data, Mapping):
        if "name" in data:
            return {str(key): value for key, value in data.items()}
        if "path" in data:
            return settings_of(data["path"]) | {str(key): value for key, value in data.items()}
        raise ValueError(f"data must name a source or a path, such as {{name: images}}, got {dict(data)!r:.200}")
    text, known = os.fspath(data), choices("data")
    if isinstance(data, str) and text in known:
        return checkpoint.read_mapping(Path(conf.__path__[0]) / "data" / f"{text}.yaml")
    path = Path(text).expanduser()
    if path.is_dir():
        return {"name": "folder", "path": str(path)}
    if path.suffix == ".tar":
        return {"name": "tar", "path": str(path)}
    if path.exists():
        raise ValueError(f"data must be a folder, a tar file or a source, {text} is another file")
    if os.sep in text:
        raise FileNotFoundError(f"data: there is no folder or tar file {text}")
    raise ValueError(errors.unknown("data source", text, known))


@contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Refuse a second run in the same folder, and remove a new folder that stays empty."""
    new = not out.exists()
    try:
        with files.naming(out), lock.locked(out):
            yield
    finally:
        if new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
