"""One number that is not finite, anywhere, is found and located."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.checkpoint.validate import MOST, check_finite
from surgery.errors import CheckpointError

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.integers(1, 70),
    st.integers(0, 10_000),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
def test_the_one_bad_value_is_located(
    dtype: torch.dtype, length: int, where: int, value: float
) -> None:
    tensor = torch.zeros(length, dtype=dtype)
    tensor[where % length] = value
    with pytest.raises(CheckpointError) as caught:
        check_finite("x.weight", tensor)
    assert "x.weight" in str(caught.value)
    assert f"the first at [{where % length}]" in str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("value", [MOST, -MOST, 3e38])
def test_what_single_precision_cannot_square_is_located(dtype: torch.dtype, value: float) -> None:
    tensor = torch.ones(70, dtype=dtype)
    tensor[33] = value
    with pytest.raises(CheckpointError, match=r"too large[^!]*x\.weight[^!]*1 of 70.* at \[33\]"):
        check_finite("x.weight", tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_and_the_smallest_pass(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    largest = min(limits.max, MOST * (1 - limits.eps / 2))
    assert float(torch.tensor(largest, dtype=dtype)) < MOST
    extremes = [
        largest,
        -largest,
        limits.tiny,
        -limits.tiny,
        limits.smallest_normal,
        0.0,
        -0.0,
    ]
    check_finite("x", torch.tensor(extremes, dtype=dtype).repeat(1000))
    check_finite("x", torch.tensor(1.0, dtype=dtype))
    check_finite("x", torch.zeros(0, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_counted_in_large_and_strided_tensors(dtype: torch.dtype) -> None:
    tensor = torch.ones(700, 301, dtype=dtype).T
    tensor[300, 699] = float("nan")
    tensor[3, 5] = float("inf")
    with pytest.raises(CheckpointError, match=r"1 NaN and 1 infinite of 210700, .* \[3, 5\]"):
        check_finite("x", tensor)


def test_integers_are_finite() -> None:
    check_finite("ids", torch.arange(5))
