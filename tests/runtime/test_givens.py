"""Trees of rotations and of free 2×2 blocks, against the product of their embedded factors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.runtime import tiers as running
from surgery.runtime.givens import mix, mix_weight, rotate, rotate_weight, rotation_blocks
from surgery.runtime.penalties import block_orthogonality_penalty
from surgery.runtime.subtrees import DEPTH, stages, tiers
from tests.runtime.memory import largest_tensor, saved_numbers
from tests.runtime.oracles import pairs, rotations, tree

SOME = settings(max_examples=40, deadline=None)
FEW = settings(max_examples=10, deadline=None)
SIZES = (st.integers(1, 40), st.integers(0, 2**31))
# Around one tier, and around two: a subtree of one leaf, of all but one, and whole ones.
LARGE = pytest.mark.parametrize("d", [31, 32, 33, 63, 65, 500, 1023, 1024, 1025, 1057])
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def draw(d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activations ``(3, 2, d)``, angles, and blocks near rotations, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, d, generator=generator, dtype=torch.float64)
    angles = torch.randn(d - 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(d - 1, 2, 2, generator=generator, dtype=torch.float64)
    return x, angles, rotation_blocks(angles) + 0.2 * noise


@given(st.integers(1, 3000))
def test_there_is_one_rotation_less_than_elements(d: int) -> None:
    assert sum(count for _, count in stages(d)) == d - 1 == len(pairs(d))
    assert len(stages(d)) == (d - 1).bit_length()


@given(st.integers(1, 40_000))
def test_the_tiers_take_every_block_once_in_order(d: int) -> None:
    start, width = 0, d
    for tier in tiers(d):
        assert (tier.start, tier.width) == (start, width)
        assert len(tier.pairs) <= DEPTH
        start, width = start + sum(tier.pairs), tier.count
    assert (start, width) == (d - 1, 1)


@SOME
@given(*SIZES)
def test_it_is_the_product_of_the_rotations(d: int, seed: int) -> None:
    x, angles, blocks = draw(d, seed)

    torch.testing.assert_close(rotate(x, angles), x @ rotations(angles), rtol=0, atol=1e-12)
    torch.testing.assert_close(mix(x, blocks), x @ tree(blocks), rtol=1e-12, atol=1e-12)


@LARGE
def test_it_is_the_product_of_the_rotations_across_tiers(d: int) -> None:
    x, angles, blocks = draw(d, d)

    torch.testing.assert_close(rotate(x, angles), x @ rotations(angles), rtol=0, atol=1e-12)
    torch.testing.assert_close(mix(x, blocks), x @ tree(blocks), rtol=1e-12, atol=1e-12)


@SOME
@given(*SIZES)
def test_a_rotated_weight_computes_the_same(d: int, seed: int) -> None:
    x, angles, blocks = draw(d, seed)
    weight = torch.randn(5, d, dtype=torch.float64)

    rotated, mixed = rotate_weight(weight, angles), mix_weight(weight, blocks)

    torch.testing.assert_close(x @ rotated.T, rotate(x, angles) @ weight.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(x @ mixed.T, mix(x, blocks) @ weight.T, rtol=1e-12, atol=1e-12)


@LARGE
def test_a_rotated_weight_computes_the_same_across_tiers(d: int) -> None:
    x, angles, blocks = draw(d, d)
    weight = torch.randn(5, d, dtype=torch.float64)

    rotated, mixed = rotate_weight(weight, angles), mix_weight(weight, blocks)

    torch.testing.assert_close(x @ rotated.T, rotate(x, angles) @ weight.T, rtol=0, atol=1e-11)
    torch.testing.assert_close(x @ mixed.T, mix(x, blocks) @ weight.T, rtol=1e-11, atol=1e-11)


@FEW
@given(st.integers(1, 9), st.integers(0, 2**31))
def test_its_gradients_are_those_of_finite_differences(d: int, seed: int) -> None:
    x, angles, blocks = (drawn.requires_grad_() for drawn in draw(d, seed))

    assert torch.autograd.gradcheck(mix, (x, blocks.detach().requires_grad_()))
    assert torch.autograd.gradcheck(mix_weight, (x[0], blocks.detach().requires_grad_()))
    if d > 1:
        assert torch.autograd.gradcheck(rotate, (x, angles))


@LARGE
def test_its_gradients_are_those_of_dense_factors_across_tiers(d: int) -> None:
    x, _, blocks = draw(d, d)
    upstream = torch.randn_like(x)
    given_x, given_blocks = x.clone().requires_grad_(), blocks.clone().requires_grad_()
    mix(given_x, given_blocks).backward(upstream)

    dense = tree(blocks)
    step = torch.randn_like(blocks)
    nudge = 1e-6 * step
    ahead, behind = (upstream * (x @ tree(blocks + sign * nudge)) for sign in (1, -1))

    assert given_x.grad is not None and given_blocks.grad is not None
    torch.testing.assert_close(given_x.grad, upstream @ dense.T, rtol=1e-10, atol=1e-10)
    slope = (ahead - behind).sum() / 2e-6
    torch.testing.assert_close((given_blocks.grad * step).sum(), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", ["x", "blocks"])
def test_either_gradient_can_be_had_alone(asked: str) -> None:
    x, _, blocks = draw(70, 0)
    both_x, both_blocks = x.clone().requires_grad_(), blocks.clone().requires_grad_()
    mix(both_x, both_blocks).square().sum().backward()

    x.requires_grad_(asked == "x")
    blocks.requires_grad_(asked == "blocks")
    mix(x, blocks).square().sum().backward()

    alone, both = (x.grad, both_x.grad) if asked == "x" else (blocks.grad, both_blocks.grad)
    assert alone is not None and both is not None
    torch.testing.assert_close(alone, both)


@LARGE
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_angles_and_identity_blocks_change_nothing_at_all(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(4, d).to(dtype)

    assert torch.equal(rotate(x, torch.zeros(d - 1)), x)
    assert torch.equal(mix(x, torch.eye(2).expand(d - 1, 2, 2)), x)
    assert torch.equal(rotate_weight(x, torch.zeros(d - 1)), x)


@LARGE
def test_it_is_orthogonal_to_1e_6_in_float32(d: int) -> None:
    angles = 3 * torch.randn(d - 1)

    turned = rotate(torch.eye(d), angles).double()

    assert (turned @ turned.T - torch.eye(d)).abs().max() < 1e-6


@HALVES
def test_sixteen_bit_activations_are_rounded_once(half: torch.dtype) -> None:
    x, angles = torch.randn(9, 100).to(half), torch.randn(99)

    found = rotate(x, angles)

    assert found.dtype == half
    assert torch.equal(found, rotate(x.float(), angles).to(half))


@HALVES
def test_gradients_of_sixteen_bit_activations_are_rounded_once(half: torch.dtype) -> None:
    x, angles = torch.randn(9, 1100).to(half), torch.randn(1099)
    upstream = torch.randn(9, 1100).to(half)

    x16, angles16 = x.clone().requires_grad_(), angles.clone().requires_grad_()
    rotate(x16, angles16).backward(upstream)
    x32, angles32 = x.float().requires_grad_(), angles.clone().requires_grad_()
    rotate(x32, angles32).backward(upstream.float())

    assert x16.grad is not None and x32.grad is not None
    assert torch.equal(x16.grad, x32.grad.to(half))
    torch.testing.assert_close(angles16.grad, angles32.grad)


def test_autocast_does_not_reach_it() -> None:
    x, angles = torch.randn(4, 70), torch.randn(69, requires_grad=True)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rotate(x, angles)
        found.sum().backward()
        within, angles.grad = angles.grad, None

    expected = rotate(x, angles)
    expected.sum().backward()
    assert torch.equal(found, expected)
    assert within is not None and angles.grad is not None
    assert torch.equal(within, angles.grad)


@pytest.mark.parametrize("shape", [(5, 37), (2, 3, 37), (37,), (0, 37), (2, 0, 37)])
def test_any_leading_shape_is_kept(shape: tuple[int, ...]) -> None:
    x, angles = torch.randn(shape, requires_grad=True), torch.randn(36, requires_grad=True)

    found = rotate(x, angles)
    found.sum().backward()

    assert found.shape == shape
    torch.testing.assert_close(found, (x.double() @ rotations(angles)).float(), rtol=0, atol=1e-5)
    assert angles.grad is not None and angles.grad.isfinite().all()


def test_strides_do_not_matter() -> None:
    for x in (torch.randn(70, 5, 3).transpose(0, 2), torch.randn(5, 140)[:, ::2]):
        given, angles = x.clone().requires_grad_(), torch.randn(69)
        upstream = torch.randn(70, *x.shape[:-1]).movedim(0, -1)

        torch.testing.assert_close(rotate(x, angles), rotate(x.contiguous(), angles))
        rotate(given, angles).backward(upstream)
        again = x.contiguous().requires_grad_()
        rotate(again, angles).backward(upstream.contiguous())
        torch.testing.assert_close(given.grad, again.grad)


def test_many_tokens_go_through_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, blocks = (drawn.requires_grad_() for drawn in draw(70, 1))
    blocks = blocks.detach().requires_grad_()
    at_once = mix(x, blocks)
    expected = torch.autograd.grad(at_once.square().sum(), (x, blocks))

    monkeypatch.setattr(running, "CHUNK", 150)  # two tokens at a time
    chunked = mix(x, blocks)

    torch.testing.assert_close(chunked, at_once)
    for found, wanted in zip(
        torch.autograd.grad(chunked.square().sum(), (x, blocks)), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_it_takes_no_matrix_of_the_width_squared() -> None:
    d, tokens, size = 2048, 3, 2**DEPTH
    x = torch.randn(tokens, d, requires_grad=True)
    blocks = rotation_blocks(torch.randn(d - 1)).requires_grad_()

    largest = largest_tensor(lambda: mix(x, blocks).sum().backward())
    saved = saved_numbers(lambda: mix(x, blocks))

    assert largest <= d * size < d * d / 8
    assert saved <= tokens * d * (1 + 2 / size) + 1.1 * d * size + 4 * d


def test_the_only_activations_kept_are_those_that_came_in() -> None:
    d, tokens = 256, 4096
    x = torch.randn(tokens, d, dtype=torch.bfloat16, requires_grad=True)
    angles = torch.randn(d - 1, requires_grad=True)

    saved = saved_numbers(lambda: rotate(x, angles), dtype=torch.float32)

    assert saved < tokens * d / 16


def test_it_runs_without_data() -> None:
    x, angles = torch.empty(2, 3, 100, device="meta"), torch.empty(99, device="meta")

    assert rotate(x, angles).shape == (2, 3, 100)


def test_the_penalty_sums_the_squared_products_of_the_columns() -> None:
    blocks = torch.randn(7, 2, 2, dtype=torch.float64, requires_grad=True)

    expected = sum((block[:, 0] @ block[:, 1]) ** 2 for block in blocks)

    torch.testing.assert_close(block_orthogonality_penalty(blocks), expected)
    assert torch.autograd.gradcheck(block_orthogonality_penalty, blocks)


def test_the_penalty_of_rotations_of_any_length_is_zero() -> None:
    blocks = rotation_blocks(torch.randn(9, dtype=torch.float64)) * 3

    assert block_orthogonality_penalty(blocks) < 1e-28
