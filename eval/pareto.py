"""Pareto fronts: the points that no other point beats in both rate and quality."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]], higher: bool) -> list[int]:
    """Return the numbers of the points (rate, quality) on the Pareto front, the lowest rate first.

    A point is on the front if no other has at most its rate and at least its quality, one of them strictly better. Of
    equal points, all are on the front. A point without a rate or a quality is not.

    Args:
        points: Rate, and quality, which can be infinite.
        higher: Whether a higher quality is better.
    """
    known = [
        (rate, -value if higher else value, i) for i, (rate, value) in enumerate(points) if rate and value is not None
    ]
    found: list[int] = []
    best: tuple[float, float] | None = None
    for rate, loss, i in sorted(known):
        if best is None or loss < best[1] or (rate, loss) == best:
            best = (rate, loss)
            found.append(i)
    return found
