"""What the tests of several commands share."""

from __future__ import annotations

import pytest
from support.omni import fresh

from tokenloom import models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a small model, and return its folder."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    models.save(fresh(), folder)
    return str(folder)
