"""Python files of the user: run when named, found again by their content, and never run on the word of a checkpoint."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenloom import own_code

CODE = "from tests_marker import seen\nseen.append(__name__)\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a configuration of its own. What a test imports is forgotten at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(own_code, "_loaded", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the modules that ran."""
    marker = type(sys)("tests_marker")
    marker.seen = []
    monkeypatch.setitem(sys.modules, "tests_marker", marker)
    return marker.seen


def write(name: str, text: str = CODE) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def new_process() -> None:
    """Forget what ran, as a new process does. The user's configuration stays."""
    for path in own_code._loaded:
        sys.modules.pop(path.stem, None)
    own_code._loaded.clear()


def of(path: Path) -> list[dict[str, str]]:
    """The record of a file in a checkpoint."""
    return [{"file": path.name, "sha256": own_code.sha256(path)}]


def test_a_file_runs_once_and_again_after_a_change(seen):
    own = write("my_code.py")
    own_code.load(own)
    own_code.load(["my_code.py"])
    assert seen == ["my_code"]
    write("my_code.py", CODE + "VALUE = 2\n")
    own_code.load(own)
    assert seen == ["my_code"] * 2 and sys.modules["my_code"].VALUE == 2


def test_folders_packages_and_files_beside_each_other(seen):
    write("plain/first_part.py", CODE + "from second_part import VALUE\n")
    write("plain/second_part.py", CODE + "VALUE = 1\n")
    write("own_package/__init__.py", CODE + "from .inner import VALUE\n")
    write("own_package/inner.py", "VALUE = 3\n")
    own_code.load(["plain", "own_package"])
    assert sorted(seen) == ["first_part", "own_package", "second_part"]
    definition = type("Own", (), {"__module__": "own_package.inner"})
    assert own_code.record(definition) == of(Path("own_package"))
    before = own_code.sha256(Path("own_package"))
    write("own_package/inner.py", "VALUE = 4\n")
    assert own_code.sha256(Path("own_package")) != before


def test_a_file_that_was_imported_is_found_again(seen):
    own = write("mine/my_code.py")
    own_code.load(own)
    new_process()
    assert own_code.recall(of(own), Path("runs/mine")) == [str(own.resolve())]
    assert seen == ["my_code"] * 2


def test_a_file_of_a_stranger_never_runs_by_itself(seen):
    """Neither the copy in the run nor a file of the same name in the current folder runs."""
    copy = write("runs/theirs/code/my_code.py")
    write("my_code.py")
    for owner, way in ((Path("runs/theirs"), f"import={copy} "), (Path("runs/other"), "import=FOLDER/my_code.py ")):
        with pytest.raises(ValueError, match="never imported on this machine: read it, then add") as error:
            own_code.recall(of(copy), owner)
        assert way in str(error.value) and "\n" not in str(error.value)
    own_code.load(write("elsewhere/my_code.py", "VALUE = 1\n"))  # another file of that name is not the file
    new_process()
    with pytest.raises(ValueError, match="never imported"):
        own_code.recall(of(copy), Path("runs/theirs"))
    assert not seen


def test_a_record_that_points_elsewhere_is_refused(seen, place):
    secret = write("secret.py")
    for sha in ("../../secret.py", "", None, "0" * 63, str(secret.resolve())):
        with pytest.raises(ValueError, match="imports must hold"):
            own_code.recall([{"file": "secret.py", "sha256": sha}], Path("runs/theirs"))
    # a file that the configuration names runs only with the content that the user imported
    write(f"config/tokenloom/imports/{'0' * 64}", str(secret.resolve()))
    with pytest.raises(ValueError, match="has changed since"):
        own_code.recall([{"file": "secret.py", "sha256": "0" * 64}], Path("runs/theirs"))
    assert not seen


def test_a_changed_file_is_asked_for(seen):
    own = write("my_code.py")
    own_code.load(own)
    record, copy = of(own), write("runs/mine/code/my_code.py")
    new_process()
    write("my_code.py", CODE + "# changed\n")
    with pytest.raises(ValueError, match=f"has changed since.*import={own.resolve()}, or import={copy} for") as error:
        own_code.recall(record, Path("runs/mine"))
    assert "\n" not in str(error.value)
    own_code.load(own)
    with pytest.warns(UserWarning, match="differs from the my_code.py that runs/mine was made with"):
        own_code.recall(record, Path("runs/mine"))
    own.unlink()
    new_process()
    with pytest.raises(ValueError, match=f"my_code.py is gone: add import={copy}"):
        own_code.recall(record, Path("runs/mine"))


def test_a_copy_is_the_file(seen):
    """Equal files run once, wherever they are; another version of a loaded file is refused."""
    imports = [write("my_code.py"), write("runs/mine/code/my_code.py")]
    own_code.load(imports)
    assert seen == ["my_code"]
    with pytest.raises(ValueError, match=r"the module my_code is .*my_code\.py already; rename the file"):
        own_code.load(write("new/my_code.py", CODE + "VALUE = 2\n"))


def test_what_is_registered_already_needs_no_file():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own_code.recall([{"file": "own.py", "sha256": "1" * 64}], Path("runs/mine"), known=True) == []
    assert own_code.recall(None, Path("runs/mine")) == []


def test_records_are_of_the_users_files_only():
    assert own_code.record(own_code.load) == []  # tokenloom
    assert own_code.record(pytest.fixture) == []  # an installed package
    assert own_code.record(type("Made", (), {"__module__": "builtins"})) == []  # no file
    assert own_code.record(write) == of(Path(__file__))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("broken.py", "x = 1\ny = (\n", r"broken\.py, line 2: SyntaxError"),
        ("fails.py", "x = 1\n\nraise KeyError('no')\n", r"fails\.py, line 3: KeyError: 'no'"),
        ("lacks.py", "import no_such_package\n", r"lacks\.py, line 1: ModuleNotFoundError: No module named"),
        ("json.py", "", r"json\.py: the module json is .*json.* already; rename the file"),
        ("two.parts.py", "", r"two\.parts\.py: the name of a module must not have a dot"),
        ("colorsys.py", "", r"the module colorsys is .*colorsys\.py already; rename the file"),
        ("notes.txt", "", r"import must be a Python file or a folder, got notes\.txt"),
    ],
)
def test_mistakes_are_one_line(name, text, says):
    write(name, text)
    with pytest.raises(ValueError, match=says) as error:
        own_code.load(name)
    assert "\n" not in str(error.value)


def test_paths_that_hold_nothing():
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="import=empty: the folder must hold Python files"):
        own_code.load("empty")
    with pytest.raises(FileNotFoundError, match=r"import=gone\.py: there is no such file or folder"):
        own_code.load("gone.py")


def test_a_configuration_that_cannot_be_written_is_told(seen, place):
    (place / "config").write_text("a file")
    with pytest.warns(UserWarning, match="my_code.py is not remembered .* needs import= again"):
        own_code.load(write("my_code.py"))
    assert seen == ["my_code"]
