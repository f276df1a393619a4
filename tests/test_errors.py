"""Messages of errors: names that are not in a set."""

from __future__ import annotations

import pytest

from tokenloom import errors

CODECS = ["image/jpeg", "image/jpeg2000", "image/fsq", "audio/opus", "natural-fsq", "natural-rvq", "text/bytes"]


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("natural-fsk", CODECS, ["natural-fsq"]),
        ("jpeg", CODECS, ["image/jpeg"]),
        ("image/JPEG", CODECS, ["image/jpeg"]),
        ("Natural_FSQ", CODECS, ["natural-fsq"]),
        ("lr", ["seed", "losses.l1", "optimizer.lr", "adversary.lr"], ["optimizer.lr", "adversary.lr"]),
        ("learning_rate", ["steps", "optimizer.lr"], []),
        ("image/opus", CODECS, ["audio/opus"]),
        ("losses.dists", ["losses.l1", "losses.stft", "losses.lpips"], []),
        ("optimizer.lrr", ["optimizer.lr", "optimizer.betas"], ["optimizer.lr"]),
        ("zzz", CODECS, []),
        ("", CODECS, []),
        ("x", [], []),
    ],
)
def test_nearest_names(name: str, names: list[str], near: list[str]) -> None:
    assert errors.nearest(name, names) == near


def test_an_unknown_name_is_answered_with_the_nearest_or_the_first_names() -> None:
    hint = "tokenloom codecs lists all"
    assert errors.unknown("codec", "natural-fsk", CODECS, hint) == (
        "unknown codec 'natural-fsk' (did you mean natural-fsq?); tokenloom codecs lists all"
    )
    assert errors.unknown("loss", "dists", ["l1", "l2"]) == "unknown loss 'dists'; known: l1, l2"
    assert errors.unknown("loss", "l3", ["l1"]) == "unknown loss 'l3'; known: l1"
    assert errors.unknown("loss", "x", []) == "unknown loss 'x'; no loss is known"
    many = errors.unknown("key", "zzz", [f"key{i}" for i in range(100)])
    assert many.endswith(" more") and len(many) < 150
    assert "\n" not in errors.unknown("key", "a\nb", ["c"])
