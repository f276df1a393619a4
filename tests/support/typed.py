"""Check that pyright and mypy know the types of the front door, in a checkout and in a wheel. `make lint` runs it.

It is no test, since mypy reads the whole package in about seven seconds, twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from functools import partial
from pathlib import Path

from building import ROOT, build  # beside this script

PROGRAM = """\
from tokenloom import codecs, compare, data, metrics, models, train
from tokenloom.train import loop

reveal_type(codecs.load("image/jpeg"))
reveal_type(compare(["image/jpeg"], data="photos"))
reveal_type(train("image/fsq", "photos", steps=3))
reveal_type(models.load("omni-small"))
reveal_type(data.open_source("images"))
reveal_type(loop.Run)
"""
TYPES = ("Codec", "Comparison", "TrainedRun", "Omni", "Source", "Run")
"""The type that each line reveals, or a part of it."""
THIRD_PARTY = "torch numpy scipy hydra omegaconf PIL matplotlib jinja2 rich transformers safetensors pandas yaml ray"


def environment(folder: Path, install: Path) -> str:
    """Return the Python of a new environment with the packages of this one, and with tokenloom from `install`."""
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    if install.suffix == ".whl":
        zipfile.ZipFile(install).extractall(site)
    else:
        (site / "tokenloom.pth").write_text(f"{install}\n")
    (site / "zz_packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return str(folder / "bin" / "python")


def check(command: list[str], kind: str, folder: Path) -> None:
    """Run a type checker in a folder, and exit with the end of its output unless each line has its type."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=600)
    done = run(command, env=clean, cwd=folder)  # not in the checkout, which mypy would read
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line or "Type of" in line]
    known = [name in line for name, line in zip(TYPES, revealed, strict=False)]
    if done.returncode or len(revealed) != len(TYPES) or not all(known):
        sys.exit(f"{kind}: {command[0]} must know the types of the front door\n{(done.stdout + done.stderr)[-2000:]}")
    print(f"{kind}: {Path(command[0]).name} knows the types of the front door")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program, config = folder / "program.py", folder / "mypy.ini"
        program.write_text(PROGRAM)
        sections = ",".join(f"{name}.*" for name in THIRD_PARTY.split())
        config.write_text(f"[mypy]\n[mypy-{sections}]\nfollow_imports = skip\nignore_missing_imports = True\n")
        bin = Path(sys.executable).parent
        for kind, install in (("checkout", ROOT), ("wheel", build(folder)[1])):
            python = environment(folder / kind, install)
            check([str(bin / "pyright"), "--pythonpath", python, str(program)], kind, folder)
            mypy = [str(bin / "mypy"), "--config-file", str(config), "--python-executable", python]
            check([*mypy, "--cache-dir", str(folder / "cache"), str(program)], kind, folder)


if __name__ == "__main__":
    main()
