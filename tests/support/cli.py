"""The command line, called in this process."""

from __future__ import annotations

import pytest

from tokenloom.cli.main import main


def succeed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must succeed, and return its stdout."""
    capsys.readouterr()
    status = main(argv)
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def refuse(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2) -> str:
    """Run a command that must fail, and return its error message: one line on stderr, and nothing on stdout."""
    capsys.readouterr()
    assert main(argv) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenloom: ")
    assert err.count("\n") == 1
    return err.removeprefix("tokenloom: ").rstrip("\n")
