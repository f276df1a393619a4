"""The command line, called in this process."""

from __future__ import annotations

import pytest

from tokenloom.cli.main import main


def succeed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that works says on stdout."""
    capsys.readouterr()
    status = main(argv)
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def refuse(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2) -> str:
    """The one line of a command that does not: nothing on stdout, no traceback."""
    capsys.readouterr()
    assert main(argv) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenloom: ")
    assert err.count("\n") == 1
    return err.removeprefix("tokenloom: ").rstrip("\n")
