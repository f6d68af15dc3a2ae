"""Householder reflections in compact WY form, against their explicit product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.runtime.householder import reflect, reflect_weight
from surgery.runtime.penalties import orthonormality_penalty
from tests.runtime.memory import largest_tensor, saved_numbers
from tests.runtime.oracles import reflections

EPS32 = torch.finfo(torch.float32).eps
SOME = settings(max_examples=40, deadline=None)
FEW = settings(max_examples=10, deadline=None)
SIZES = (st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))


def draw(d: int, r: int, seed: int) -> tuple[Tensor, Tensor]:
    """Activations ``(3, 2, d)`` and reflection vectors of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, d, generator=generator, dtype=torch.float64)
    u = torch.randn(d, r, generator=generator, dtype=torch.float64)
    return x, u * torch.logspace(-3, 3, r, dtype=torch.float64)


def paired(d: int, pairs: int) -> Tensor:
    generator = torch.Generator().manual_seed(d)
    return torch.randn(d, pairs, generator=generator).repeat_interleave(2, dim=1)


@SOME
@given(*SIZES)
def test_it_is_the_product_of_the_reflections(d: int, r: int, seed: int) -> None:
    x, u = draw(d, r, seed)

    torch.testing.assert_close(reflect(x, u), x @ reflections(u).T, rtol=0, atol=1e-11)


@SOME
@given(*SIZES)
def test_a_reflected_weight_computes_the_same(d: int, r: int, seed: int) -> None:
    x, u = draw(d, r, seed)
    weight = torch.randn(5, d, dtype=torch.float64)

    found = x @ reflect_weight(weight, u).T

    torch.testing.assert_close(found, reflect(x, u) @ weight.T, rtol=0, atol=1e-10)


@SOME
@given(*SIZES)
def test_it_is_orthogonal_in_float32(d: int, r: int, seed: int) -> None:
    _, u = draw(d, r, seed)

    turned = reflect(torch.eye(d), u.float()).double()

    assert (turned @ turned.T - torch.eye(d)).abs().max() < 1e-6 * r


@FEW
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_its_gradients_are_those_of_finite_differences(d: int, r: int, seed: int) -> None:
    x, u = draw(d, r, seed)
    u = torch.nn.functional.normalize(u, dim=0)

    assert torch.autograd.gradcheck(reflect, (x.requires_grad_(), u.requires_grad_()))


@pytest.mark.parametrize("pairs", [1, 4, 16])
@pytest.mark.parametrize("d", [1, 7, 64, 4096])
def test_equal_pairs_are_the_identity_to_rounding(d: int, pairs: int) -> None:
    x = torch.randn(20, d)

    error = reflect(x, paired(d, pairs)) - x

    # Each pair cancels to a few roundings of numbers no larger than the token's norm.
    assert (error.norm(dim=1) <= 16 * pairs * EPS32 * x.norm(dim=1)).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_equal_pairs_change_sixteen_bit_activations_by_no_more_than_float32_ones(
    half: torch.dtype,
) -> None:
    x = torch.randn(50, 256).to(half)

    found = reflect(x, paired(256, 8))

    assert found.dtype == half
    own = torch.finfo(half).eps * x.double().abs() + torch.finfo(half).smallest_normal
    allowed = own + 128 * EPS32 * x.double().norm(dim=1, keepdim=True)
    assert ((found.double() - x.double()).abs() <= allowed).all()
    assert (found == x).double().mean() > 0.99


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_sixteen_bit_activations_are_rounded_once(half: torch.dtype) -> None:
    x, u = torch.randn(9, 100).to(half), torch.randn(100, 8)

    assert torch.equal(reflect(x, u), reflect(x.float(), u).to(half))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_gradients_of_sixteen_bit_activations_are_computed_in_float32(half: torch.dtype) -> None:
    x, u = torch.randn(9, 100).to(half), torch.randn(100, 8)
    upstream = torch.randn(9, 100).to(half)

    x16, u16 = x.clone().requires_grad_(), u.clone().requires_grad_()
    reflect(x16, u16).backward(upstream)
    x32, u32 = x.float().requires_grad_(), u.clone().requires_grad_()
    reflect(x32, u32).backward(upstream.float())

    assert x16.grad is not None and x32.grad is not None
    torch.testing.assert_close(u16.grad, u32.grad, rtol=1e-5, atol=1e-5)
    assert x16.grad.dtype == half
    # Two terms of about the gradient's size, each rounded, and so is their sum.
    close = 4 * torch.finfo(half).eps * x32.grad.norm(dim=1, keepdim=True)
    assert ((x16.grad.float() - x32.grad).abs() <= close).all()


def test_autocast_does_not_reach_it() -> None:
    x, u = torch.randn(4, 64), torch.randn(64, 6)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reflect(x, u)

    assert torch.equal(found, reflect(x, u))


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (8,), (0, 8), (2, 0, 8)])
def test_any_leading_shape_is_kept(shape: tuple[int, ...]) -> None:
    x, u = torch.randn(shape, requires_grad=True), torch.randn(8, 3, requires_grad=True)

    found = reflect(x, u)
    found.sum().backward()

    assert found.shape == shape
    torch.testing.assert_close(found, (x.double() @ reflections(u).T).float(), atol=1e-5, rtol=0)
    assert u.grad is not None


def test_strides_do_not_matter() -> None:
    x, u = torch.randn(8, 5, 3).transpose(0, 2), torch.randn(8, 3)

    torch.testing.assert_close(reflect(x, u), reflect(x.contiguous(), u))


def test_a_zero_column_reflects_nothing_and_gets_no_gradient() -> None:
    u = torch.randn(6, 3, dtype=torch.float64)
    u[:, 1] = 0
    u.requires_grad_()
    x = torch.randn(4, 6, dtype=torch.float64)

    found = reflect(x, u)
    found.square().sum().backward()

    torch.testing.assert_close(found, reflect(x, u[:, [0, 2]]))
    assert u.grad is not None and u.grad.isfinite().all()
    assert not u.grad[:, 1].any()


def test_a_column_that_is_not_finite_is_not_hidden() -> None:
    u = torch.randn(6, 2)
    u[3, 1] = float("nan")

    assert reflect(torch.randn(4, 6), u).isnan().all()


def test_it_takes_no_matrix_of_the_width_squared() -> None:
    d, r, tokens = 512, 4, 3
    x = torch.randn(tokens, d, requires_grad=True)
    u = torch.randn(d, r, requires_grad=True)

    largest = largest_tensor(lambda: reflect(x, u).sum().backward())
    saved = saved_numbers(lambda: reflect(x, u))

    assert largest <= d * max(r, tokens)
    assert saved <= 2 * tokens * d + 4 * d * r + 4 * tokens * r + 4 * r * r


def test_sixteen_bit_activations_are_kept_as_they_are() -> None:
    d, tokens = 256, 64
    x = torch.randn(tokens, d, dtype=torch.bfloat16, requires_grad=True)
    u = torch.randn(d, 2, requires_grad=True)

    saved = saved_numbers(lambda: reflect(x, u), dtype=torch.float32)

    assert saved < tokens * d  # so no float32 copy of them


@pytest.mark.parametrize("pairs", [1, 3])
def test_the_penalty_at_a_start_of_orthonormal_pairs_is_the_number_of_columns(pairs: int) -> None:
    columns = torch.linalg.qr(torch.randn(20, pairs))[0].repeat_interleave(2, dim=1)

    squared = orthonormality_penalty(columns, squared=True)

    torch.testing.assert_close(squared, torch.tensor(2.0 * pairs))
    torch.testing.assert_close(orthonormality_penalty(columns, squared=False), squared.sqrt())


@pytest.mark.parametrize("squared", [True, False])
def test_the_penalty_at_orthonormal_columns_is_zero_with_gradient_zero(squared: bool) -> None:
    columns = torch.eye(6, 3).requires_grad_()

    penalty = orthonormality_penalty(columns, squared=squared)
    penalty.backward()

    assert penalty == 0
    assert columns.grad is not None and not columns.grad.any()


@pytest.mark.parametrize("squared", [True, False])
def test_the_penalty_is_computed_in_float32(squared: bool) -> None:
    columns = torch.randn(30, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = orthonormality_penalty(columns, squared=squared)

    assert torch.equal(found, orthonormality_penalty(columns.float(), squared=squared))
    assert torch.autograd.gradcheck(
        lambda c: orthonormality_penalty(c, squared=squared),
        torch.randn(5, 3, dtype=torch.float64, requires_grad=True),
    )


def test_the_same_vectors_give_what_pefts_layer_gives() -> None:
    peft = pytest.importorskip("peft")
    linear = torch.nn.Linear(24, 10)
    model = peft.get_peft_model(
        torch.nn.Sequential(linear), peft.HRAConfig(r=6, target_modules=["0"], init_weights=False)
    )
    layer = model.base_model.model[0]
    u = layer.hra_u["default"].detach()
    x = torch.randn(3, 5, 24)

    torch.testing.assert_close(layer(x), linear(reflect(x, u)), atol=1e-5, rtol=1e-5)
    merged = linear.weight @ layer.get_delta_weight("default")
    torch.testing.assert_close(merged, reflect_weight(linear.weight, u), atol=1e-5, rtol=1e-5)
