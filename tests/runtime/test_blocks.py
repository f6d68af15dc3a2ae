"""Blocks behind a linear map: what they keep for the gradient, and what they never form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from surgery.runtime.blocks import mix_outputs, mix_rows, scale_outputs, spread
from tests.runtime.memory import largest_tensor, saved_numbers

TOKENS, OUT = 40, 96
KERNELS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "uniform": (lambda y, part: mix_outputs(y, part, [8] * 12), 12 * 64),
    "ragged": (lambda y, part: mix_outputs(y, part, [8] * 8 + [4, 12], 3), 8 * 64 + 160),
    "diagonal": (lambda y, part: scale_outputs(y, part, [8] * 12), 96),
    "shared": (lambda y, part: scale_outputs(y, part, [8, 6, 2], 9, 2), 8),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_sixteen_bit_outputs_are_kept_as_they_are_for_the_gradient(kind: str) -> None:
    kernel, size = KERNELS[kind]
    y = torch.randn(TOKENS, OUT, dtype=torch.bfloat16, requires_grad=True)
    part = torch.randn(size, requires_grad=True)

    wide = saved_numbers(lambda: kernel(y, part), torch.float32)

    assert wide <= OUT + 2 * size  # no token in float32


@pytest.mark.parametrize("kind", ["uniform", "ragged"])
def test_no_matrix_over_all_outputs_is_formed(kind: str) -> None:
    kernel, size = KERNELS[kind]
    y, part = torch.randn(2, OUT, requires_grad=True), torch.randn(size, requires_grad=True)

    largest = largest_tensor(lambda: kernel(y, part).sum().backward())

    assert largest <= max(size, 2 * OUT) < OUT * OUT


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_sixteen_bit_gradients_are_those_of_float32_rounded_once(kind: str, trained: bool) -> None:
    kernel, size = KERNELS[kind]
    half = torch.randn(TOKENS, OUT).bfloat16()
    ys = [half.clone().requires_grad_(), half.float().requires_grad_()]
    part, direction = torch.randn(size), torch.randn(TOKENS, OUT).bfloat16()
    parts = [part.clone().requires_grad_(trained) for _ in ys]

    for y, one in zip(ys, parts, strict=True):
        kernel(y, one).backward(direction.to(y.dtype))

    found, expected = ys
    assert found.grad is not None and expected.grad is not None
    assert torch.equal(found.grad, expected.grad.bfloat16())
    if trained:
        assert torch.equal(parts[0].grad, parts[1].grad)  # type: ignore[arg-type]


def test_outputs_outside_the_blocks_pass_bit_by_bit() -> None:
    y = torch.randn(3, 5, 10)

    found = mix_outputs(y, torch.randn(2 * 9), [3, 3], 2)

    assert torch.equal(found[..., :2], y[..., :2]) and torch.equal(found[..., 8:], y[..., 8:])
    assert not torch.isclose(found[..., 2:8], y[..., 2:8]).all()


def test_values_are_shared_within_their_block() -> None:
    values = torch.tensor([1.0, 2.0, 3.0])

    assert spread(values, [4, 2], 2).tolist() == [1, 2, 1, 2, 3, 3]
    assert spread(values, [1, 2], 1).tolist() == [1, 2, 3]
    assert spread(torch.arange(4.0), [4, 4], 2).tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_a_bias_is_one_more_column() -> None:
    weight, bias = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    flat = torch.randn(9 + 4, dtype=torch.float64)

    together = mix_rows(torch.cat([weight, bias], dim=1), flat, [3, 2], 1)

    torch.testing.assert_close(together[:, :4], mix_rows(weight, flat, [3, 2], 1))
    torch.testing.assert_close(together[:, 4:], mix_rows(bias, flat, [3, 2], 1))
