"""Packing heads of unequal width, and the widths they run at."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.runtime import HeadLayout, LoadError, executed_widths
from surgery.runtime.heads import Packing

RANKS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(RANKS)
def test_unpacking_puts_each_head_first_and_zeros_after_it(ranks: list[int]) -> None:
    packed = torch.randn(2, 3, sum(ranks))

    heads = Packing(ranks).unpack(packed)

    assert heads.shape == (2, len(ranks), 3, max(ranks))
    for head, (rank, part) in enumerate(zip(ranks, packed.split(ranks, dim=-1), strict=True)):
        assert torch.equal(heads[:, head, :, :rank], part)
        assert not heads[:, head, :, rank:].any()


@given(RANKS)
def test_packing_undoes_unpacking_and_drops_what_is_beyond_the_ranks(ranks: list[int]) -> None:
    packing, packed = Packing(ranks), torch.randn(2, 3, sum(ranks))
    heads = packing.unpack(packed).clone()
    for head, rank in enumerate(ranks):
        heads[:, head, :, rank:] = float("nan")

    assert torch.equal(packing.pack(heads.transpose(1, 2)), packed)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_halves_are_padded_by_themselves(pairs: list[int]) -> None:
    ranks, widest = [2 * kept for kept in pairs], max(pairs)
    packing, packed = Packing(ranks, parts=2), torch.randn(2, 3, 2 * sum(pairs))

    heads = packing.unpack(packed)

    assert heads.shape == (2, len(pairs), 3, 2 * widest)
    for head, (kept, part) in enumerate(zip(pairs, packed.split(ranks, dim=-1), strict=True)):
        for half, found in zip(part.chunk(2, -1), heads[:, head].chunk(2, -1), strict=True):
            assert torch.equal(found[..., :kept], half)
            assert not found[..., kept:].any()
    assert torch.equal(packing.pack(heads.transpose(1, 2)), packed)


def test_uniform_heads_are_only_viewed() -> None:
    packed = torch.randn(2, 3, 12)

    assert Packing([4, 4, 4]).unpack(packed).data_ptr() == packed.data_ptr()


def test_gradients_flow_through_both_directions() -> None:
    packing = Packing([2, 1, 3])
    packed = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    heads = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(packing.unpack, packed)
    assert torch.autograd.gradcheck(packing.pack, heads)


def test_the_index_follows_the_data_to_another_device() -> None:
    packing = Packing([1, 2])
    assert packing.unpack(torch.zeros(1, 1, 3, device="meta")).device.type == "meta"
    assert packing.unpack(torch.ones(1, 1, 3)).sum() == 3


def test_query_heads_take_the_ranks_of_their_key_value_head() -> None:
    layout = HeadLayout(heads=4, kv_heads=2, head_dim=8, qk_ranks=(8, 3), v_ranks=(2, 5))

    assert layout.queries.ranks == (8, 8, 3, 3)
    assert layout.contexts.ranks == (2, 2, 5, 5)
    assert (layout.keys.total, layout.values.total) == (11, 7)
    assert not layout.uniform


def test_every_head_runs_at_the_width_of_the_widest() -> None:
    assert executed_widths([3, 8], [2, 5]) == (8, 5)
    assert executed_widths([3, 3], [2, 2])._asdict() == {"qk": 3, "v": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads a multiple of kv_heads"),
        ({"kv_heads": 0}, "positive numbers"),
        ({"qk_ranks": (8,)}, "one rank per key/value head"),
        ({"v_ranks": (0, 5)}, "smallest rank is 1"),
        ({"v_ranks": (9, 5)}, "between 1 and the head dimension 8"),
    ],
)
def test_an_impossible_layout_is_refused(change: dict[str, object], message: str) -> None:
    fields = {"heads": 4, "kv_heads": 2, "head_dim": 8, "qk_ranks": (8, 3), "v_ranks": (2, 5)}
    with pytest.raises(LoadError, match=message):
        HeadLayout(**(fields | change))  # type: ignore[arg-type]
