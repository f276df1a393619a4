"""Edited files: every reader returns what they hold, or refuses them in one line, in bounded time and memory.

`make fuzz` tries many edits of each file.
"""

from __future__ import annotations

import resource
import time
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support import fuzz

from tokenloom import codecs

SECONDS, BYTES = 2, 500 * 2**20
"""Most time, and most memory beyond the result."""


@pytest.mark.parametrize("name", fuzz.names())
def test_edited_files(name, request):
    reader, count = fuzz.reader(name), request.config.getoption("--mutants")

    @settings(
        max_examples=count or 25, derandomize=count is None, deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(fuzz.PLANS)
    def check(plan):
        data = fuzz.mutant(reader, plan)
        before, start = peak(), time.process_time()
        try:
            size = fuzz.size(reader.read(data))
        except (ValueError, FileNotFoundError) as error:
            size, text = 0, str(error)
            assert text.strip() and "\n" not in text and len(text) < 2000
        assert time.process_time() - start < SECONDS
        assert peak() - before < BYTES + size

    for file in reader.files:
        reader.read(file)  # whole files are read
    with pytest.raises(ValueError):
        codecs.load("unknown")  # imports what a refusal names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
