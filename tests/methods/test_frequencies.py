"""Ranking RoPE frequencies, against scores with rows of q and k set to zero."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.methods import AttentionWeights, PairDecomposition, activation_aware
from surgery.methods.frequencies import rank_frequencies, share_frequencies

EPS = torch.finfo(torch.float64).eps


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(kv: int, d: int) -> AttentionWeights:
    maps = draw(0, 4, kv, d, 9)
    return AttentionWeights(q=maps[0][:, None], k=maps[1], v=maps[2], o=maps[3][:, None])


def correlated(seed: int, kv: int, n: int, d: int) -> Tensor:
    return draw(seed, kv, n, d) @ draw(seed + 1, kv, d, d)


def rows_of(frequencies: Sequence[int], d: int) -> list[int]:
    return [*frequencies, *(each + d // 2 for each in frequencies)]


def energy(queries: Tensor, keys: Tensor, dropped: Sequence[int]) -> float:
    """Mean square of what scores lose over all pairs, when rows of one head are set to zero."""
    d = queries.shape[-1]
    gone = rows_of(dropped, d)
    left = queries.clone()
    left[:, gone] = 0.0
    return float((left @ keys.T - queries @ keys.T).square().mean())


def ranked(queries: Tensor, keys: Tensor) -> PairDecomposition:
    moments = (each.mT @ each / each.shape[1] for each in (queries, keys))
    return rank_frequencies(block(queries.shape[0], queries.shape[-1]), *moments)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kv=st.integers(1, 3), half=st.integers(1, 5))
def test_frequencies_go_one_by_one_each_time_the_one_that_costs_scores_least(
    seed: int, kv: int, half: int
) -> None:
    d = 2 * half
    queries, keys = correlated(seed, kv, 11, d), correlated(seed + 2, kv, 13, d)
    found = ranked(queries, keys)
    assert found.frequencies is not None and found.step == 2
    for head in range(kv):
        order = found.frequencies[head].tolist()
        assert sorted(order) == list(range(half))
        whole = energy(queries[head], keys[head], range(half))
        lost, costs = 0.0, [0.0]
        for stay in range(half - 1, -1, -1):
            left, gone = order[: stay + 1], order[stay + 1 :]
            tried = {each: energy(queries[head], keys[head], [*gone, each]) for each in left}
            # Two frequencies may cost the same to rounding.
            noise = 100 * d * d * EPS * (whole + max(tried.values()))
            assert tried[order[stay]] <= min(tried.values()) + noise
            costs.append(tried[order[stay]] - lost)
            lost = tried[order[stay]]
            dropped = float(found.spectrum[head, 2 * stay :].square().sum())
            # The spectrum must fall: it tells what is lost, and more where a later cost is less.
            expected = sum(max(costs[: i + 1]) for i in range(1, len(costs)))
            assert dropped == pytest.approx(expected, abs=noise)
            assert dropped >= lost - noise


def test_where_costs_rise_the_spectrum_tells_the_energy_of_every_cut() -> None:
    scales = torch.tensor([1.0, 3.0, 0.1, 0.5] * 2, dtype=torch.float64)
    queries, keys = draw(1, 1, 400, 8) * scales, draw(2, 1, 400, 8)
    found = ranked(queries, keys)
    assert found.frequencies is not None
    order = found.frequencies[0].tolist()
    assert order == [1, 0, 3, 2]
    for stay in range(5):
        lost = energy(queries[0], keys[0], order[stay:])
        assert float(found.spectrum[0, 2 * stay :].square().sum()) == pytest.approx(lost, rel=1e-10)


def test_what_frequencies_have_in_common_counts() -> None:
    """Frequency 1 undoes what 0 does: alone each is dear, and together they are nothing."""
    queries = torch.zeros(1, 6, 6, dtype=torch.float64)
    keys = queries.clone()
    queries[..., 0], queries[..., 1], queries[..., 2] = 5.0, 5.0, 1.0
    keys[..., 0] = draw(3, 6)
    keys[..., 1] = -keys[..., 0]
    keys[..., 2] = draw(4, 6)
    found = ranked(queries, keys)
    assert found.frequencies is not None
    order = found.frequencies[0].tolist()
    # The harmless one first, then one of the two; the other brings the energy back to the first's.
    assert order[2] == 2 and sorted(order[:2]) == [0, 1]
    alone = energy(queries[0], keys[0], [0])
    assert energy(queries[0], keys[0], [0, 1]) <= 1e-12 * alone


def test_nothing_is_mixed_and_every_row_of_a_frequency_is_worth_the_same() -> None:
    found = ranked(correlated(5, 2, 30, 8), correlated(6, 2, 30, 8))
    assert found.left is None and found.right is None and found.order is not None
    assert torch.equal(found.order[:, 1::2], found.order[:, 0::2] + 4)
    assert torch.equal(found.order.sort(dim=-1).values, torch.arange(8).expand(2, 8))
    assert torch.equal(found.spectrum[:, 0::2], found.spectrum[:, 1::2])
    assert torch.all(found.spectrum[:, :-1] >= found.spectrum[:, 1:])
    weights = block(2, 8)
    dense = torch.linalg.matrix_norm(weights.q[:, 0].mT @ weights.k)
    torch.testing.assert_close(found.norm, dense, rtol=1e-12, atol=0)


def test_a_head_without_scores_loses_nothing() -> None:
    queries, keys = correlated(7, 2, 9, 4), correlated(8, 2, 9, 4)
    queries[0] = 0.0
    found = ranked(queries, keys)
    assert not found.spectrum[0].any() and bool(found.spectrum[1].all())


def test_across_rope_activation_aware_ranks_frequencies() -> None:
    class Seen:
        q = k = c = correlated(9, 2, 12, 8).mT @ correlated(9, 2, 12, 8)

    weights = block(2, 8)
    found = activation_aware(weights, Seen(), qk=True, vo=True, rotary=True)
    expected = rank_frequencies(weights, Seen.q, Seen.k)
    assert found.qk is not None and found.vo is not None and found.vo.frequencies is None
    assert torch.equal(found.qk.spectrum, expected.spectrum)
    kept = found.apply(weights)
    assert torch.equal(kept.q, weights.q) and torch.equal(kept.k, weights.k)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), kv=st.integers(1, 3), half=st.integers(1, 5))
def test_shared_frequencies_go_in_one_order_and_their_worth_is_the_sum_over_blocks(
    seed: int, kv: int, half: int
) -> None:
    d = 2 * half
    parts = [
        ranked(correlated(seed + i, kv, 11, d), correlated(seed + 9 + i, kv, 13, d))
        for i in range(3)
    ]
    worth = torch.zeros(half, dtype=torch.float64)
    energies = []
    for part in parts:
        assert part.frequencies is not None
        energy = torch.zeros(half, dtype=torch.float64)
        for order, spectrum in zip(part.frequencies.tolist(), part.spectrum, strict=True):
            for place, frequency in enumerate(order):
                energy[frequency] += spectrum[2 * place : 2 * place + 2].square().sum()
        energies.append(energy)
        worth += energy / energy.sum()
    expected = worth.sort(descending=True)
    for part, shared, energy in zip(parts, share_frequencies(parts), energies, strict=True):
        assert shared.frequencies is not None and torch.equal(shared.norm, part.norm)
        for order, spectrum in zip(shared.frequencies, shared.spectrum, strict=True):
            assert torch.allclose(worth[order], expected.values)
            assert bool((spectrum.diff() <= 0).all())
        # What a block loses with the rest, over all its heads, is at least what it lost before.
        order = shared.frequencies[0]
        for stay in range(half + 1):
            lost = float(shared.spectrum[:, 2 * stay :].square().sum())
            assert lost >= float(energy[order[stay:]].sum()) * (1 - 1e-12)
        assert shared.step == 2


def test_blocks_that_no_input_reached_share_frequencies_too() -> None:
    nothing = ranked(torch.zeros(2, 5, 4).double(), torch.zeros(2, 5, 4).double())
    shared = share_frequencies([nothing, nothing])
    assert all(bool((one.spectrum == 0).all()) for one in shared)
