"""Packing heads of unequal width, and the ranks a block can have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.runtime import HeadLayout, LoadError, SiteRanks
from surgery.runtime.packing import SHORT, Packing

RANKS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
TIMES = st.sampled_from([3, SHORT])  # of two rows: copied by index, and head by head


@given(RANKS, TIMES)
def test_unpacking_puts_each_head_first_and_zeros_after_it(ranks: list[int], time: int) -> None:
    packed = torch.randn(2, time, sum(ranks))

    heads = Packing(ranks).unpack(packed)

    assert heads.shape == (2, len(ranks), time, max(ranks))
    for head, (rank, part) in enumerate(zip(ranks, packed.split(ranks, dim=-1), strict=True)):
        assert torch.equal(heads[:, head, :, :rank], part)
        assert not heads[:, head, :, rank:].any()


@given(RANKS, TIMES)
@example([1, 1], 3)  # a column each: laid out otherwise without a copy
def test_packing_undoes_unpacking_and_drops_what_is_beyond_the_ranks(
    ranks: list[int], time: int
) -> None:
    packing, packed = Packing(ranks), torch.randn(2, time, sum(ranks))
    heads = packing.unpack(packed).clone()
    for head, rank in enumerate(ranks):
        heads[:, head, :, rank:] = float("nan")

    found = packing.pack(heads.transpose(1, 2))
    assert torch.equal(found, packed) and found.is_contiguous()


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), TIMES)
def test_halves_are_padded_by_themselves(pairs: list[int], time: int) -> None:
    ranks, widest = [2 * kept for kept in pairs], max(pairs)
    packing, packed = Packing(ranks, parts=2), torch.randn(2, time, 2 * sum(pairs))

    heads = packing.unpack(packed)

    assert heads.shape == (2, len(pairs), time, 2 * widest)
    for head, (kept, part) in enumerate(zip(pairs, packed.split(ranks, dim=-1), strict=True)):
        for half, found in zip(part.chunk(2, -1), heads[:, head].chunk(2, -1), strict=True):
            assert torch.equal(found[..., :kept], half)
            assert not found[..., kept:].any()
    assert torch.equal(packing.pack(heads.transpose(1, 2)), packed)


@given(RANKS, TIMES, st.data())
def test_groups_are_laid_out_as_wide_as_they_ask_and_packed_in_stored_order(
    ranks: list[int], time: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(ranks))))
    cut = data.draw(st.integers(0, len(ranks)))
    groups = [group for group in (order[:cut], order[cut:]) if group]
    packing = Packing(ranks, groups=groups, widths=[6, 7][: len(groups)])
    packed = torch.randn(2, time, sum(ranks))
    pieces = packed.split(ranks, dim=-1)

    found = packing.lay_out(packed)

    for heads, group, width in zip(found, groups, (6, 7), strict=False):
        assert heads.shape == (2, len(group), time, width)
        for slot, head in enumerate(group):
            assert torch.equal(heads[:, slot, :, : ranks[head]], pieces[head])
            assert not heads[:, slot, :, ranks[head] :].any()
    assert torch.equal(packing.pack(*(heads.transpose(1, 2) for heads in found)), packed)


def test_uniform_heads_are_only_viewed() -> None:
    packed = torch.randn(2, 3, 12)

    assert Packing([4, 4, 4]).unpack(packed).data_ptr() == packed.data_ptr()


@pytest.mark.parametrize("short", [SHORT, 0])
def test_gradients_flow_through_both_directions(
    short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.runtime.packing.SHORT", short)
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
    layout = HeadLayout(4, 2, 8, SiteRanks((8, 3), (2, 5)))

    assert layout.queries.ranks == (8, 8, 3, 3)
    assert layout.contexts.ranks == (2, 2, 5, 5)
    assert (layout.keys.total, layout.values.total) == (11, 7)
    assert not layout.uniform


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads a multiple of kv_heads"),
        ({"kv_heads": 0}, "positive numbers"),
        ({"ranks": SiteRanks((8,), (2, 5))}, "one rank per key/value head"),
        ({"ranks": SiteRanks((0, 5), (2, 5))}, "between 1 and the head dimension 8"),
        ({"ranks": SiteRanks((8, 3), (-1, 5))}, "between 0 and the head dimension 8"),
        ({"ranks": SiteRanks((8, 3), (9, 5))}, "between 0 and the head dimension 8"),
    ],
)
def test_an_impossible_layout_is_refused(change: dict[str, object], message: str) -> None:
    fields = {"heads": 4, "kv_heads": 2, "head_dim": 8, "ranks": SiteRanks((8, 3), (2, 5))}
    with pytest.raises(LoadError, match=message):
        HeadLayout(**(fields | change))  # type: ignore[arg-type]
