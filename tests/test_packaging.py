"""The installation: what the wheel holds, its license, the packages it needs, and the extras."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from support.building import build
from support.tree import MODULES, ROOMS, ROOT, files

from tokenloom import checkpoints

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RESEARCH = "LicenseRef-research-use"
MOST = 12
"""Largest number of distributions that pip installs besides torch and those that torch needs."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Return the source distribution, and the wheel that is built from it."""
    return build(tmp_path_factory.mktemp("built"))


# -- the wheel and its license --------------------------------------------------------------------


def test_the_sdist_and_the_wheel_hold_the_tree(built):
    """Both hold every file once, although tokenloom/ has links to folders. Research-use weights are in neither."""
    sdist, wheel = built
    expected = set()
    for room in ROOMS:
        for path in files(room):
            parts = path.relative_to(ROOT).parts
            if parts[:1] != ("checkpoints",) or parts[1] not in checkpoints.RESEARCH_USE:
                expected.add("/".join(parts if room == "tokenloom" else ("tokenloom", *parts)))
    in_wheel = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tokenloom/")]
    with tarfile.open(sdist) as archive:
        in_sdist = [m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()]
    assert sorted(in_wheel) == sorted(expected)
    assert sorted(name for name in in_sdist if name.startswith("tokenloom/")) == sorted(expected)
    assert not [name for name in in_sdist if name.partition("/")[0] in ROOMS[1:]]


def test_the_license_of_the_wheel_is_that_of_its_code_and_weights(built):
    """The SPDX expression names exactly the licenses of the configs inside, and the wheel holds their texts."""
    archive = zipfile.ZipFile(built[1])
    configs = [yaml.safe_load(archive.read(n)) for n in archive.namelist() if n.endswith("/config.yaml")]
    assert configs
    weights = {one for config in configs for one in config["license"].split(" AND ")}
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    fields = email.message_from_bytes(archive.read(metadata))
    assert sorted({"Apache-2.0", *weights}) == fields["License-Expression"].split(" AND ")
    assert not [one for one in weights if one.startswith("LicenseRef")]
    assert {"LICENSE", "NOTICE", "LICENSES/OFL-1.1.txt", "LICENSES/Unicode-3.0.txt"} == set(
        fields.get_all("License-File")
    )


def test_the_description_has_absolute_links(built):
    """PyPI shows the README outside of the repository."""
    archive = zipfile.ZipFile(built[1])
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    fields = email.message_from_bytes(archive.read(metadata))
    text = fields.get_payload()
    links = re.findall(r"(?:\]\(|src=\")([^)\"]+)", text)
    repository = PROJECT["urls"]["Repository"]
    assert links and all(link.startswith("https://") for link in links)
    own = [link.partition("/main/")[2] for link in links if link.split("/")[3:5] == repository.split("/")[3:5]]
    assert len(own) == len(links) and all((ROOT / name).exists() for name in own)
    assert fields["Description-Content-Type"] == "text/markdown"
    assert f"Repository, {repository}" in fields.get_all("Project-URL")


LEAN = """
import importlib.util, sys

def refused(name):
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in ALLOWED and not top.startswith("_")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if path is None and refused(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if refused(name) else find_spec(name, package)
sys.meta_path.insert(0, Refuse())
from tokenloom.cli.main import main
"""
"""Beginning of a program that has only ALLOWED packages besides the standard library."""


def documented_imports() -> list[str]:
    """Return the lines of README and docs that import from the package."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
    return sorted({line for line in lines if re.fullmatch(r"from tokenloom[\w.]* import [\w., ]+", line)})


def test_the_wheel_encodes_decodes_and_generates_with_the_base_packages(built, tmp_path):
    """Whatever else a command needs, one line says which extra installs it; the same for research-use weights."""
    zipfile.ZipFile(built[1]).extractall(tmp_path / "site")
    base = needed(PROJECT["dependencies"])
    tops = [
        top for top, names in importlib.metadata.packages_distributions().items() if base & set(map(normalize, names))
    ]
    program = (
        f"ALLOWED = {sorted({*tops, 'tokenloom'})!r}\nDOCUMENTED = {documented_imports()!r}{LEAN}"
        + """
from pathlib import Path
import torch, tokenloom
from tokenloom import codecs, compare

for line in DOCUMENTED:
    exec(line, {})

def said(function, *given):
    try:
        function(*given)
    except ValueError as error:
        return str(error)

assert str(Path(tokenloom.__file__)).startswith(str(Path.cwd()))
codecs.write(torch.rand(3, 40, 50), "p.png")
codecs.write(torch.rand(1, 8000) - 0.5, "s.wav", sample_rate=8000)
Path("t.txt").write_text("a red heart")
trips = ("p.png", "emoji-fsq", "q.png"), ("s.wav", "audio/opus", "o.wav"), ("t.txt", "captions-bpe", "u.txt")
for name, codec, back in trips:
    assert main(["encode", name, "--codec", codec, "-o", "x.tlm", "-f"]) == main(["decode", "x.tlm", "-o", back]) == 0
assert Path("u.txt").read_text() == "a red heart"
assert main(["generate", "seven", "--to", "text", "--seed", "0"]) == 0
from tokenloom.data import tokens
tokens.tokenize({"name": "scenes", "count": 3, "size": 32}, "image/png", "shards", workers=0)
assert len(tokens.TokenDataset("shards")) == 3
from tokenloom.models.bridge import Bridge
assert "pip install 'tokenloom[hf]'" in said(Bridge.merge, None, None, [])
assert "pip install 'tokenloom[eval]'" in said(compare, ["image/jpeg"])
assert "pip install 'tokenloom[train]'" in said(tokenloom.train, "image/fsq", "scenes")
assert "pip install 'tokenloom[hub]'" in said(codecs.load, "someone/codec")
assert "pip install 'tokenloom[text]'" in said(codecs.registry.codec_class("text/bpe").train_from_iterator, ["a"])
assert said(codecs.load, "natural-fsq").startswith("natural-fsq is for research use only") 
assert main(["compare", "codecs=[image/jpeg]"]) == 2
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "site", capture_output=True, text=True, check=False,
        timeout=300, env={"PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("tokenloom: ") and "Traceback" not in done.stderr


def test_the_names_left_out_are_those_for_research_use():
    stated = {p.parent.name: yaml.safe_load(p.read_text())["license"] for p in ROOT.glob("checkpoints/*/config.yaml")}
    assert sorted(checkpoints.RESEARCH_USE) == sorted(name for name, license in stated.items() if license == RESEARCH)
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert not [name for name in stated if not re.search(rf"\b{name}\b", notice)]


# -- the packages it needs ------------------------------------------------------------------------


def needed(names: list[str]) -> set[str]:
    """Return the installed distributions that these requirements install, by their normalized names."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        key = (normalize(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for line in importlib.metadata.distribution(requirement.name).requires or []:
            inner = Requirement(line)
            environments = [{"extra": extra} for extra in (*requirement.extras, "")]
            if inner.marker is None or any(inner.marker.evaluate(one) for one in environments):
                todo.append(inner)
    return {name for name, _ in found}


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_few_packages_besides_torch():
    assert len(needed(PROJECT["dependencies"]) - needed(["torch"])) <= MOST


BROUGHT = {"omegaconf": "hydra-core", "markupsafe": "jinja2", "torch_fidelity": "torch-fidelity"}
"""Imported name → declared distribution that installs it."""
IMPORTED = BROUGHT | {
    "PIL": "pillow", "pillow_jxl": "pillow-jxl-plugin", "yaml": "pyyaml", "hydra": "hydra-core",
    "skimage": "scikit-image",
}  # fmt: skip
"""Imported name → distribution, where the names differ by more than - and _."""
ROOM_EXTRAS = {
    "tokenloom.progress.terminal": "train eval",
    "tokenloom.cli.compose": "train",
    "tokenloom.cli.hydra": "train eval",
    "tokenloom.cli.jobs": "train eval",
    "tokenloom.cli.own": "train eval",
    "tokenloom.cli.overrides": "train eval",
    "tokenloom.cli.resuming": "train eval",
    "tokenloom.data.tokens.on_ray": "ray",
    "tokenloom.data.tokens.parquet": "parquet",
    "tokenloom.eval": "eval",
    "tokenloom.train": "train",
}
"""Beginning of a module's name → extras, each of which must install what the module imports at its head."""


def extra(name: str) -> set[str]:
    """Return the distributions that an extra declares, those of the extras in it included."""
    out: set[str] = set()
    for line in PROJECT["optional-dependencies"][name]:
        requirement = Requirement(line)
        if requirement.name == "tokenloom":
            out |= {one for inner in requirement.extras for one in extra(inner)}
        else:
            out.add(normalize(requirement.name))
    return out


def third_party(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (distribution, extra) for each package that a module imports or loads at its first use.

    The extra is that of `lazy.load`; None for an import.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in (node for part in tree.body if part not in typing for node in ast.walk(part)):
        found: list[tuple[str, str | None]] = []
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found = [(node.module, None)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy.load" and node.args:
            given = [a.value if isinstance(a, ast.Constant) else "" for a in node.args]
            found = [(str(given[0]), given[1] if len(given) > 1 else "")]
        for name, of in found:
            top = name.partition(".")[0]
            if top and top != "tokenloom" and top not in sys.stdlib_module_names:
                yield normalize(IMPORTED.get(top, top)), of


def test_every_package_is_declared():
    """A package that is imported or loaded is in the base, or the extra that the error would name installs it."""
    base, problems = {normalize(Requirement(line).name) for line in PROJECT["dependencies"]}, []
    for name, path in MODULES.items():
        allowed = [extras for start, extras in ROOM_EXTRAS.items() if name.startswith(start)]
        for distribution, named in third_party(path):
            extras = [named] if named else " ".join(allowed).split() if named is None else []
            if distribution not in base and not extras:
                problems.append(f"{name} needs {distribution}, which is neither in the base nor loaded with an extra")
            if distribution not in base:
                problems += [
                    f"{one} of {name} lacks {distribution}" for one in extras if distribution not in extra(one)
                ]
    assert not problems


def test_all_has_what_train_and_eval_have():
    assert extra("all") >= extra("train") | extra("eval") | extra("hub") | extra("text") | extra("frame")
    assert "pesq" not in extra("all") and "encodec" not in extra("all"), "PyPI has no wheels of them"


def test_versions_of_python():
    classified = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert classified == {"3.11", "3.12", "3.13"} and PROJECT["requires-python"] == ">=3.11"
