"""The lower hull of a curve, against every chord."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from surgery.methods.hull import lower_hull

CURVES = st.lists(st.integers(-50, 50), min_size=1, max_size=25)


@given(CURVES)
def test_no_chord_between_points_passes_below_the_hull(costs: list[int]) -> None:
    points = [(len(costs) - i, float(cost)) for i, cost in enumerate(costs)]
    hull = lower_hull(points)
    assert hull[0] == points[0] and hull[-1] == points[-1]
    assert [point for point in points if point in hull] == hull
    for (w, a), (n, b) in pairwise(hull):
        for size, cost in points:
            if n <= size <= w:
                assert cost * (w - n) >= a * (size - n) + b * (w - size) - 1e-9
    slopes = [(b - a) / (w - n) for (w, a), (n, b) in pairwise(hull)]
    assert all(x < y for x, y in pairwise(slopes))


def test_a_line_has_two_ends() -> None:
    assert lower_hull([(3, 0.0), (2, 1.0), (1, 2.0)]) == [(3, 0.0), (1, 2.0)]
    assert lower_hull([]) == []
