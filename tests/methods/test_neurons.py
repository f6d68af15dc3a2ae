"""Orders of neurons, their prices and the refit, against least squares over rows of activations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.methods.neuron_refit import NarrowDown, narrow, output_error
from surgery.methods.neurons import AMENDS, ORDERS, NeuronMoments, System, eliminate

EPS = torch.finfo(torch.float64).eps


def block(
    f: int, d: int, rows: int, seed: int, *, shift: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations (rows, f) that overlap and have means, D (d, f) and b (d)."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    h = torch.nn.functional.gelu(normal(rows, max(1, f // 2)) @ normal(max(1, f // 2), f) + shift)
    return h * (0.05 + torch.rand(f, generator=draw, dtype=torch.float64)), normal(d, f), normal(d)


def moments_of(h: Tensor) -> NeuronMoments:
    return NeuronMoments(h.T @ h / len(h), h.mean(0), float(len(h)))


def damping(moments: NeuronMoments, ridge: float, biased: bool) -> Tensor:
    """The diagonal of Λ."""
    S = moments.centred() if biased else moments.second
    f = len(S)
    return ridge * S.trace() / f + 8 * f * EPS * moments.second.diagonal()


def least_squares(
    h: Tensor, D: Tensor, b: Tensor | None, kept: Tensor, ridge: float
) -> tuple[Tensor, Tensor | None, float]:
    """D' and b' by QR over rows, the ridge being further rows; and the cost they reach."""
    moments = moments_of(h)
    root = damping(moments, ridge, b is not None).sqrt()
    gone = torch.tensor([i for i in range(D.shape[1]) if i not in kept.tolist()], dtype=torch.int64)
    ones = [] if b is None else [torch.ones(len(h), 1, dtype=h.dtype)]
    left = torch.cat([h[:, kept], *ones], dim=1) / len(h) ** 0.5
    right = (h @ D.T + (0 if b is None else b)) / len(h) ** 0.5
    pull = torch.zeros(len(kept), left.shape[1], dtype=h.dtype)
    pull[:, : len(kept)] = torch.diag(root[kept])
    towards = root[kept][:, None] * D[:, kept].T
    whole, wanted = torch.cat([left, pull]), torch.cat([right, towards])
    solved = torch.linalg.lstsq(whole, wanted, driver="gelsd").solution
    cost = float((whole @ solved - wanted).square().sum())
    cost += float((D[:, gone] * root[gone]).square().sum())
    return solved[: len(kept)].T, None if b is None else solved[-1], cost


SIZES: dict[str, Any] = {
    "f": st.integers(1, 24),
    "d": st.integers(1, 6),
    "seed": st.integers(0, 10**6),
    "biased": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(**SIZES, ridge=st.sampled_from([1e-3, 0.1, 10.0]), short=st.booleans())
def test_a_cost_is_what_least_squares_reaches_at_every_width(
    f: int, d: int, seed: int, biased: bool, ridge: float, short: bool
) -> None:
    """``short``: fewer rows than neurons, so that moments are far from full rank."""
    h, D, b = block(f, d, max(2, f // 2) if short else 4 * f + 8, seed)
    bias = b if biased else None
    moments = moments_of(h)
    found = eliminate(D, moments, biased=biased, ridge=ridge)
    costs = found.costs()
    assert costs.shape == (f + 1,) and float(costs[f]) == 0
    # The ridge bounds the condition by f / ridge.
    slack = 64 * f * (f / ridge) * EPS
    whole = float(costs[0])
    for width in range(f + 1):
        kept = found.kept(width)
        result = narrow(D, bias, moments, kept, ridge=ridge)
        if 0 < width < f:
            down, own, cost = least_squares(h, D, bias, kept, ridge)
            scale = float(D.norm()) * float(h.norm(dim=0).max() / h.norm(dim=0).min().clamp(1e-9))
            assert float((result.down - down).norm()) <= 1e3 * slack * scale
            assert float(costs[width]) == pytest.approx(cost, rel=1e-9, abs=slack * whole)
            assert (own is None) == (result.bias is None)
        # The cost is the output's error and the ridge's part, no more.
        error, _ = output_error(D, bias, moments, result)
        change = D.clone()
        change[:, kept] -= result.down
        penalty = float((change.square() * damping(moments, ridge, biased)).sum())
        assert error + penalty == pytest.approx(float(costs[width]), rel=1e-9, abs=slack * whole)


@settings(max_examples=30, deadline=None)
@given(**SIZES, ridge=st.sampled_from([1e-3, 0.1]))
def test_updates_of_single_neurons_compose_to_the_closed_form(
    f: int, d: int, seed: int, biased: bool, ridge: float
) -> None:
    """The optimal brain surgeon's own steps, one neuron at a time, against D' at once."""
    h, D, b = block(f, d, 4 * f + 8, seed)
    moments = moments_of(h)
    found = eliminate(D, moments, biased=biased, ridge=ridge)
    S = (moments.centred() if biased else moments.second) + torch.diag(
        damping(moments, ridge, biased)
    )
    H, now = torch.linalg.inv(S), D.clone()
    for step, i in enumerate(found.order.tolist()[:-1]):
        price = float(now[:, i].square().sum() / H[i, i])
        total = float(found.prices.sum())
        assert float(found.prices[step]) == pytest.approx(price, rel=1e-9, abs=1e-11 * total)
        now = now - torch.outer(now[:, i], H[i] / H[i, i])
        H = H - torch.outer(H[:, i], H[i]) / H[i, i]
        H[i] = H[:, i] = 0.0
        kept = found.kept(f - step - 1)
        closed = narrow(D, b if biased else None, moments, kept, ridge=ridge).down
        assert float((now[:, kept] - closed).norm()) <= 1e-10 * float(now.norm())


@pytest.mark.parametrize("amends", AMENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_nested_and_priced_with_and_without_refit(order: Any, amends: Any) -> None:
    h, D, b = block(20, 6, 100, 1)
    moments = moments_of(h)
    found = eliminate(D, moments, biased=True, order=order, amends=amends)
    sets = [set(found.kept(width).tolist()) for width in range(21)]
    assert all(a < b for a, b in pairwise(sets))
    for width in (0, 5, 13, 20):
        result = narrow(D, b, moments, found.kept(width), amends=amends)
        error, whole = output_error(D, b, moments, result)
        lost = D.clone()
        lost[:, result.kept] -= result.down
        shift = b - result.bias
        naive = float(((h @ lost.T) + shift).square().sum()) / len(h)
        assert error == pytest.approx(naive, rel=1e-10, abs=1e-12 * whole)
        assert whole == pytest.approx(float((h @ D.T + b).square().sum()) / len(h))
        if amends != "refit":
            assert float(found.costs()[width]) == pytest.approx(error, rel=1e-9, abs=1e-12 * whole)
            assert torch.equal(result.down, D[:, result.kept])
        if amends == "none":
            assert torch.equal(result.bias, b)


def test_the_named_orders_are_what_they_say() -> None:
    h, D, _ = block(30, 8, 200, 2)
    moments = moments_of(h)
    S = moments.centred()
    ridge = 0.05
    inverse = torch.linalg.inv(S + torch.diag(damping(moments, ridge, True)))
    worth = {
        "magnitude": [float(D[:, i].norm()) for i in range(30)],
        "activation": [float(D[:, i].norm() * (h[:, i] ** 2).mean().sqrt()) for i in range(30)],
        "leverage": [float(1 - ridge * S.trace() / 30 * inverse[i, i]) for i in range(30)],
        "variance": [float(h[:, i].var(correction=0) * D[:, i].square().sum()) for i in range(30)],
    }
    for order, values in worth.items():
        found = eliminate(D, moments, biased=True, order=order, ridge=ridge)  # type: ignore[arg-type]
        assert found.order.tolist() == sorted(range(30), key=values.__getitem__), order


def test_the_surgeons_order_is_cheaper_than_the_others() -> None:
    h, D, _ = block(60, 16, 400, 3)
    moments = moments_of(h)
    costs = {
        order: float(eliminate(D, moments, biased=False, order=order).costs()[45])
        for order in ORDERS
    }
    assert min(costs, key=costs.__getitem__) == "surgeon"
    plain = eliminate(D, moments, biased=False, order="activation", amends="none")
    assert costs["activation"] < float(plain.costs()[45])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.booleans())
def test_neurons_in_another_order_are_the_same_neurons(f: int, seed: int, biased: bool) -> None:
    h, D, b = block(f, 5, 3 * f + 8, seed)
    shuffled = torch.randperm(f, generator=torch.Generator().manual_seed(seed))
    one = eliminate(D, moments_of(h), biased=biased)
    other = eliminate(D[:, shuffled], moments_of(h[:, shuffled]), biased=biased)
    total = float(one.prices.sum())
    torch.testing.assert_close(one.costs(), other.costs(), rtol=1e-8, atol=1e-10 * total)
    kept = one.kept(f - 1)
    back = torch.tensor([i for i, j in enumerate(shuffled.tolist()) if j in kept.tolist()])
    bias = b if biased else None
    first = narrow(D, bias, moments_of(h), kept)
    second = narrow(D[:, shuffled], bias, moments_of(h[:, shuffled]), back)
    sorted_ = shuffled[back].argsort()
    torch.testing.assert_close(second.down[:, sorted_], first.down, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.parametrize("biased", [False, True])
def test_dead_constant_and_duplicate_neurons_go_free_of_charge(biased: bool, ridge: float) -> None:
    """Of three alike two go; a neuron that never moves is free where a bias takes its mean."""
    h, D, b = block(20, 12, 300, 4)
    h[:, 3] = 0.0
    h[:, 8] = 2.0
    h[:, 11] = h[:, 12] = 0.5 * h[:, 5]
    bias = b if biased else None
    moments = moments_of(h)
    found = eliminate(D, moments, biased=biased, ridge=ridge)
    free = 4 if biased else 3
    first = set(found.order[:free].tolist())
    assert 3 in first and len(first & {5, 11, 12}) == 2 and (8 in first) == biased
    total = float(found.prices.sum())
    assert float(found.costs()[20 - free]) < (1e-9 + 10 * ridge) * total
    assert float(found.prices[free]) > 1e-4 * total
    result = narrow(D, bias, moments, found.kept(20 - free), ridge=ridge)
    error, whole = output_error(D, bias, moments, result)
    assert error <= (1e-9 + 10 * ridge) * whole


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize("order", ORDERS)
def test_a_block_that_never_fires_costs_nothing(order: Any, ridge: float) -> None:
    _, D, b = block(9, 4, 10, 5)
    nothing = NeuronMoments(torch.zeros(9, 9).double(), torch.zeros(9).double(), 10.0)
    found = eliminate(D, nothing, biased=True, order=order, ridge=ridge)
    assert sorted(found.order.tolist()) == list(range(9))
    assert float(found.costs().abs().max()) == 0
    result = narrow(D, b, nothing, found.kept(4), ridge=ridge)
    assert torch.equal(result.down, D[:, result.kept]) and torch.equal(result.bias, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("amends", AMENDS)
def test_with_all_kept_every_bit_stays(amends: Any, dtype: torch.dtype) -> None:
    h, D, b = block(12, 5, 50, 6)
    D, b = D.to(dtype), b.to(dtype)
    found = eliminate(D, moments_of(h), biased=True, amends=amends)
    assert found.kept(12).tolist() == list(range(12))
    result = narrow(D, b, moments_of(h), found.kept(12), amends=amends)
    assert torch.equal(result.down, D) and result.down.dtype == dtype
    assert torch.equal(result.bias, b) and result.bias.dtype == dtype


def test_width_nought_leaves_the_mean() -> None:
    h, D, b = block(12, 5, 50, 7)
    nobody = torch.zeros(0, dtype=torch.int64)
    result = narrow(D, b, moments_of(h), nobody)
    assert result.down.shape == (5, 0)
    torch.testing.assert_close(result.bias, (h @ D.T + b).mean(0))
    assert narrow(D, None, moments_of(h), nobody).bias is None


def test_a_large_ridge_is_plain_deletion_and_none_is_least_squares() -> None:
    h, D, _ = block(16, 6, 200, 8)
    moments = moments_of(h)
    kept = eliminate(D, moments, biased=False).kept(11)
    torch.testing.assert_close(
        narrow(D, None, moments, kept, ridge=1e12).down, D[:, kept], rtol=0, atol=1e-9
    )
    C = moments.second
    exact = D @ C[:, kept] @ torch.linalg.inv(C[kept][:, kept])
    torch.testing.assert_close(
        narrow(D, None, moments, kept, ridge=0.0).down, exact, rtol=1e-6, atol=1e-6
    )


def test_loud_neurons_cost_the_others_no_digits() -> None:
    """Units are nobody's business: neurons measured in others go in the same order."""
    h, D, _ = block(20, 6, 200, 9)
    units = 10.0 ** torch.linspace(-6, 6, 20, dtype=torch.float64)
    one = eliminate(D, moments_of(h), biased=False, ridge=0.0)
    other = eliminate(D / units, moments_of(h * units), biased=False, ridge=0.0)
    assert one.order.tolist() == other.order.tolist()
    torch.testing.assert_close(one.prices, other.prices, rtol=1e-6, atol=1e-9 * one.prices.sum())


@pytest.mark.parametrize("ridge", [1e-4, 0.01])
def test_an_order_found_in_float32_costs_what_one_in_float64_does(ridge: float) -> None:
    h, D, _ = block(400, 60, 500, 10)
    moments = moments_of(h)
    single, double = (
        eliminate(D, moments, biased=False, ridge=ridge, working=working).costs()[200:400]
        for working in (torch.float32, torch.float64)
    )
    assert float((single / double - 1).abs().max()) < 0.01


def test_widths_worth_choosing_are_on_the_convex_hull() -> None:
    h, D, _ = block(40, 10, 200, 11)
    found = eliminate(D, moments_of(h), biased=False)
    costs = found.costs().tolist()
    every = found.worthwhile()
    assert every[0] == (40, 0.0) and every[-1] == (0, costs[0])
    assert found.worthwhile(range(0, 41, 8))[0][0] == 40
    assert {width for width, _ in found.worthwhile([40, 32, 16])} <= {40, 32, 16}
    assert all(costs[width] == cost for width, cost in every)
    with pytest.raises(ValueError, match="widths"):
        found.worthwhile([41, 3])


def test_what_contradicts_itself_is_refused() -> None:
    h, D, b = block(6, 3, 20, 12)
    moments = moments_of(h)
    with pytest.raises(ValueError, match="no bias"):
        eliminate(D, moments, biased=False, amends="mean")
    with pytest.raises(ValueError, match="a ridge of -1"):
        eliminate(D, moments, biased=False, ridge=-1.0)
    with pytest.raises(ValueError, match="width 7 of 6"):
        eliminate(D, moments, biased=False).kept(7)
    for wrong in ([2, 1], [1, 1, 2]):
        with pytest.raises(ValueError, match="ascending"):
            narrow(D, b, moments, torch.tensor(wrong))
    broken = NeuronMoments(moments.second.clone().fill_(torch.nan), moments.mean)
    with pytest.raises(ValueError, match="NaN"):
        eliminate(D, broken, biased=False)
    negative = NeuronMoments(moments.second - 9 * torch.eye(6).double(), moments.mean)
    with pytest.raises(ValueError, match="negative variance"):
        eliminate(D, negative, biased=False)
    of_none = torch.full((6, 6), -1.0).double() + 2 * torch.eye(6).double()
    with pytest.raises(ValueError, match="those of no input"):
        eliminate(D, NeuronMoments(of_none, moments.mean * 0), biased=False)


def test_the_scaled_system_is_the_system() -> None:
    h, _, _ = block(15, 3, 60, 13)
    moments = moments_of(h)
    for biased in (False, True):
        system = System.of(moments, biased=biased, ridge=0.1)
        S = moments.centred() if biased else moments.second
        whole = S + torch.diag(damping(moments, 0.1, biased))
        made = system.matrix * torch.outer(system.scale, system.scale)
        torch.testing.assert_close(made, whole, rtol=1e-12, atol=1e-14)
        assert system.ridge == pytest.approx(0.1 * float(S.trace()) / 15)


def test_a_result_says_what_it_kept() -> None:
    h, D, _ = block(6, 3, 20, 14)
    result = narrow(D, None, moments_of(h), torch.tensor([0, 2, 5]))
    assert isinstance(result, NarrowDown) and result.kept.tolist() == [0, 2, 5]
    assert result.down.dtype == torch.float64


def test_under_a_metric_prices_are_what_the_output_minds() -> None:
    h, D, _ = block(18, 7, 60, seed=3)
    moments, kept = moments_of(h), 11
    draw = torch.Generator().manual_seed(4)
    root = torch.randn(5, 7, generator=draw, dtype=torch.float64)  # of rank 5: some errors are free
    metric = root.T @ root
    found = eliminate(D, moments, biased=False, ridge=0.0, metric=metric)
    narrowed = narrow(D, None, moments, found.kept(kept), ridge=0.0)
    error = (h @ D.T - h[:, narrowed.kept] @ narrowed.down.T) @ root.T
    assert float(found.costs()[kept]) == pytest.approx(float(error.square().sum(1).mean()))
    # Where the metric sees one direction alone, neurons that do not move it go first and for free.
    seen = torch.zeros(7, 7, dtype=torch.float64)
    seen[2, 2] = 1.0
    D[2, :6] = 0.0
    found = eliminate(D, moments, biased=False, ridge=1e-9, metric=seen)
    assert float(found.costs()[18 - 6]) < 1e-9 * float(found.costs()[0])


def test_a_metric_of_all_ones_changes_nothing() -> None:
    h, D, _ = block(18, 7, 60, seed=5)
    plain = eliminate(D, moments_of(h), biased=False)
    same = eliminate(D, moments_of(h), biased=False, metric=torch.eye(7, dtype=torch.float64))
    assert plain.order.tolist() == same.order.tolist()
    torch.testing.assert_close(plain.prices, same.prices)


@pytest.mark.parametrize("order", [each for each in ORDERS if each != "surgeon"])
def test_a_baselines_order_is_what_it_says_under_any_metric(order: Any) -> None:
    h, D, _ = block(18, 7, 60, seed=6)
    root = torch.randn(7, 7, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    plain = eliminate(D, moments_of(h), biased=False, order=order)
    minded = eliminate(D, moments_of(h), biased=False, order=order, metric=root.T @ root)
    assert minded.order.tolist() == plain.order.tolist()
    assert not torch.allclose(minded.prices, plain.prices)
