"""Sums do not depend on the pieces that activations come in, and survive large means."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.calibration import moments as module
from surgery.calibration.moments import MOMENTS, Accumulator, Moments
from surgery.errors import SurgeryError
from tests.calibration.oracle import difference

KV, G, D = 2, 3, 4


def draw(seed: int, sequences: int, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(heads: int) -> Tensor:
        return torch.randn(sequences, tokens, heads, D, generator=generator, dtype=torch.float64)

    weights = torch.rand(sequences, tokens, generator=generator, dtype=torch.float64)
    weights *= torch.rand(weights.shape, generator=generator) > 0.3  # some positions are padding
    weights[0, 0] = 1.0  # not all of them
    bias = torch.randn(KV, D, generator=generator, dtype=torch.float64)
    return {"q": normal(KV * G), "k": normal(KV), "c": normal(KV * G), "w": weights, "b": bias}


def add(sums: Accumulator, given: dict[str, Tensor], part: slice) -> None:
    sums.add_queries(given["q"][part], given["w"][part])
    sums.add_keys(given["k"][part], given["w"][part], given["w"][part].sum(dim=1))
    sums.add_contexts(given["c"][part], given["w"][part], given["b"])


def assert_same(found: Moments, expected: Moments) -> None:
    for name in MOMENTS:
        own, other = getattr(found, name), getattr(expected, name)
        # Absolute too: keys that are all alike have no covariance at all.
        assert float((own - other).norm()) < 1e-13 * (1 + float(other.norm())), name
    assert found.queries == pytest.approx(expected.queries, rel=1e-14)
    assert found.sequences == expected.sequences


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sequences=st.integers(1, 7),
    tokens=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 7), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_merged_parts_are_the_whole(
    seed: int, sequences: int, tokens: int, cuts: list[int], order: object
) -> None:
    given_ = draw(seed, sequences, tokens)
    whole = Accumulator(KV, G, D)
    add(whole, given_, slice(None))
    edges = [0, *sorted(cuts), sequences]
    parts = []
    for begin, end in pairwise(edges):
        part = Accumulator(KV, G, D)
        add(part, given_, slice(begin, min(end, sequences)))
        parts.append(part)
    order.shuffle(parts)  # type: ignore[attr-defined]
    merged = Accumulator(KV, G, D)
    for part in parts:
        merged.merge(part)
    assert_same(merged.moments("here"), whole.moments("here"))


def test_few_numbers_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = draw(3, 6, 5)
    results = []
    for at_once in (1, 100, 1 << 20):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        sums = Accumulator(KV, G, D)
        add(sums, given_, slice(None))
        results.append(sums.moments("here"))
    for other in results[1:]:
        assert_same(other, results[0])


def test_a_large_common_part_of_the_keys_leaves_their_covariance_alone() -> None:
    # Keys of spread 1 around 10^6: E[k kᵀ] - m mᵀ would err by 10^12 roundings, 1e-4 relative.
    # Taking the mean off first errs by 10^6 roundings of the keys themselves.
    given_ = draw(5, 4, 50)
    plain, moved = Accumulator(KV, G, D), Accumulator(KV, G, D)
    add(plain, given_, slice(None))
    add(moved, given_ | {"k": given_["k"] + 1e6}, slice(None))
    expected = plain.moments("here").k
    assert difference(moved.moments("here").k, expected) < 20 * 1e6 * torch.finfo(torch.float64).eps


def test_moments_are_exactly_symmetric_and_on_the_cpu() -> None:
    sums = Accumulator(KV, G, D)
    add(sums, draw(1, 3, 40), slice(None))
    found = sums.moments("here")
    for name in MOMENTS:
        moment = getattr(found, name)
        assert moment.dtype == torch.float64 and moment.shape == (KV, D, D)
        assert torch.equal(moment, moment.mT)


def test_a_sequence_without_weight_counts_for_nothing() -> None:
    given_ = draw(2, 3, 5)
    given_["w"][1] = 0.0
    sums, without = Accumulator(KV, G, D), Accumulator(KV, G, D)
    add(sums, given_, slice(None))
    for row in (0, 2):
        add(without, given_, slice(row, row + 1))
    assert_same(sums.moments("here"), without.moments("here"))
    assert sums.moments("here").sequences == 2


def test_nothing_seen_is_an_error_that_names_the_block() -> None:
    with pytest.raises(SurgeryError, match=r"layers\.3"):
        Accumulator(KV, G, D).moments("layers.3")
