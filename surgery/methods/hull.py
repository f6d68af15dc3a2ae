"""The lower convex hull of a curve of costs: what a budget over several curves can choose from."""

from __future__ import annotations

from collections.abc import Sequence


def lower_hull(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points of the lower convex hull, in the order given.

    Args:
        points: ``(size, cost)``, sizes strictly falling. The first and the last are always on it.

    Returns:
        Points between which the cost of a unit of size rises strictly.

    Source: Andrew's monotone chain (1979).
    """
    hull: list[tuple[int, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(wider: tuple[int, float], narrower: tuple[int, float]) -> float:
    return (narrower[1] - wider[1]) / (wider[0] - narrower[0])
