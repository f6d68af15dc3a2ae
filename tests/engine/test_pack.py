"""Packing heads into stored tensors and back, against loops over heads and rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.architectures.base import ROLES, AttentionSite, StoredProjection
from surgery.architectures.seams import seams_of
from surgery.report.accounting import full_ranks, site_parameters
from surgery.runtime.heads import SiteRanks
from surgery.stored.pack import read_site, vectors, write_site


def make_site(
    heads: int,
    groups: int,
    d: int,
    width: int,
    *,
    fused: bool,
    biased: bool,
    o_bias: bool,
    transposed: bool = False,
) -> AttentionSite:
    kv, q_rows, kv_rows = heads // groups, heads * d, heads // groups * d

    def stored(role: str, rows: int, columns: int, bias: bool, **more: Any) -> StoredProjection:
        return StoredProjection(
            f"{role}.weight", f"{role}.bias" if bias else None, rows, columns, **more
        )

    if fused:
        rows = {"q": q_rows, "k": kv_rows, "v": kv_rows}
        parts = {r: stored("qkv", rows[r], width, True, transposed=transposed) for r in rows}
        o = stored("o", width, q_rows, True, transposed=transposed)
    else:
        parts = {
            role: stored(role, q_rows if role == "q" else kv_rows, width, biased) for role in "qkv"
        }
        o = stored("o", width, q_rows, o_bias)
    return AttentionSite("x", "decoder", 0, heads, kv, d, width, (), True, **parts, o=o)


@st.composite
def sites_with_ranks(draw: st.DrawFn) -> tuple[AttentionSite, SiteRanks]:
    fused = draw(st.booleans())
    groups = draw(st.integers(1, 3))
    kv, d, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    site = make_site(
        kv * groups,
        groups,
        d,
        width,
        fused=fused,
        transposed=draw(st.booleans()),
        biased=draw(st.booleans()),
        o_bias=draw(st.booleans()),
    )
    rank = st.lists(st.integers(1, d), min_size=kv, max_size=kv)
    return site, SiteRanks(qk=tuple(draw(rank)), vo=tuple(draw(rank)))


def random_dense(site: AttentionSite) -> dict[str, Tensor]:
    """Stored tensors of the dense block."""
    tensors: dict[str, Tensor] = {}
    for role in ROLES:
        projection = site.projection(role)
        size = sum(site.projection(each).out_features for each in site.fused(role))
        shape = (size, projection.in_features)
        shape = shape[::-1] if projection.transposed else shape
        tensors.setdefault(projection.weight, torch.randn(shape))
        if projection.bias is not None:
            tensors.setdefault(projection.bias, torch.randn(size))
    return tensors


def naive_cut(site: AttentionSite, ranks: SiteRanks, dense: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the first rows of every head, one row at a time."""
    rows: dict[str, list[int]] = {}
    for role in ROLES:
        projection = site.projection(role)
        kept = rows.setdefault(projection.weight, [])
        before = "qkv"[: "qkv".find(role)] if site.q.weight == projection.weight else ""
        start = sum(site.projection(each).out_features for each in before)  # type: ignore[arg-type]
        per_kv = ranks.qk if role in "qk" else ranks.vo
        for head in range(site.heads if role in "qo" else site.kv_heads):
            rank = per_kv[head // site.groups] if role in "qo" else per_kv[head]
            for row in range(rank):
                kept.append(start + head * site.head_dim + row)
    cut: dict[str, Tensor] = {}
    for role in ROLES:
        projection = site.projection(role)
        kept, weight = rows[projection.weight], dense[projection.weight]
        heads_first = (role != "o") != projection.transposed
        cut[projection.weight] = weight[kept] if heads_first else weight[:, kept]
        if projection.bias is not None:
            bias = dense[projection.bias]
            cut[projection.bias] = bias if role == "o" else bias[kept]
    return cut


@settings(max_examples=150, deadline=None)
@given(sites_with_ranks())
def test_packing_keeps_the_first_rows_of_every_head(case: tuple[AttentionSite, SiteRanks]) -> None:
    site, ranks = case
    dense = random_dense(site)
    packed = write_site(read_site(dense.__getitem__, site, dtype=torch.float32), site, ranks)
    expected = naive_cut(site, ranks, dense)
    assert packed.keys() == expected.keys() == set(site.tensors())
    for name, tensor in packed.items():
        assert torch.equal(tensor, expected[name]), name
    assert sum(tensor.numel() for tensor in packed.values()) == site_parameters(site, ranks)


@settings(max_examples=150, deadline=None)
@given(sites_with_ranks())
def test_reading_what_was_packed_gives_zeros_where_vectors_were_cut(
    case: tuple[AttentionSite, SiteRanks],
) -> None:
    site, ranks = case
    dense = random_dense(site)
    whole = read_site(dense.__getitem__, site)
    back = read_site(write_site(whole, site, ranks).__getitem__, site, ranks)
    for kv in range(site.kv_heads):
        qk, vo = ranks.qk[kv], ranks.vo[kv]
        for before, after, rank in (
            (whole.k[kv], back.k[kv], qk),
            (whole.v[kv], back.v[kv], vo),
            *((whole.q[kv, g], back.q[kv, g], qk) for g in range(site.groups)),
            *((whole.o[kv, g], back.o[kv, g], vo) for g in range(site.groups)),
        ):
            assert torch.equal(after[:rank], before[:rank])
            assert not after[rank:].any()
        for bias, new, rank in (
            (whole.k_bias, back.k_bias, qk),
            (whole.v_bias, back.v_bias, vo),
        ):
            if bias is not None and new is not None:
                assert torch.equal(new[kv, :rank], bias[kv, :rank])
                assert not new[kv, rank:].any()
    if whole.o_bias is not None and back.o_bias is not None:
        assert torch.equal(back.o_bias, whole.o_bias)


@st.composite
def rotary_sites(draw: st.DrawFn) -> tuple[AttentionSite, SiteRanks]:
    """A block whose heads keep some frequency pairs, or all of them."""
    groups, kv, half = (draw(st.integers(1, 3)) for _ in range(3))
    biased = draw(st.booleans())
    site = make_site(
        kv * groups, groups, 2 * half, 5, fused=False, biased=biased, o_bias=draw(st.booleans())
    )
    pair = st.sets(st.integers(0, half - 1), min_size=1).map(lambda kept: tuple(sorted(kept)))
    pairs = tuple(draw(st.lists(pair, min_size=kv, max_size=kv)))
    qk = tuple(2 * len(kept) for kept in pairs)
    return replace(site, between=("rope",)), SiteRanks(qk, (2 * half,) * kv, pairs)


@settings(max_examples=100, deadline=None)
@given(rotary_sites())
def test_rotary_heads_store_both_rows_of_the_kept_pairs(
    case: tuple[AttentionSite, SiteRanks],
) -> None:
    site, ranks = case
    pairs, d = ranks.pairs, site.head_dim
    assert pairs is not None
    dense = random_dense(site)
    whole = read_site(dense.__getitem__, site, dtype=torch.float32)
    packed = write_site(whole, site, ranks)
    back = read_site(packed.__getitem__, site, ranks, dtype=torch.float32)
    assert sum(tensor.numel() for tensor in packed.values()) == site_parameters(site, ranks)
    merged = write_site(back, site, full_ranks(site))
    for role in ROLES:
        for name in filter(None, (site.projection(role).weight, site.projection(role).bias)):
            if role in "vo":
                assert torch.equal(packed[name], dense[name])
                assert torch.equal(merged[name], dense[name])
                continue
            stored, zeroed = [], torch.zeros_like(dense[name])
            for head in range(site.heads if role == "q" else site.kv_heads):
                kept = pairs[head // site.groups if role == "q" else head]
                for half in (0, d // 2):
                    for pair in kept:
                        stored.append(dense[name][head * d + half + pair])
                        zeroed[head * d + half + pair] = dense[name][head * d + half + pair]
            assert torch.equal(packed[name], torch.stack(stored))
            assert torch.equal(merged[name], zeroed)


@settings(max_examples=60, deadline=None)
@given(sites_with_ranks())
def test_full_ranks_round_trip_to_the_bit(case: tuple[AttentionSite, SiteRanks]) -> None:
    site, _ = case
    dense = random_dense(site)
    weights = read_site(dense.__getitem__, site)
    for name, tensor in write_site(weights, site, full_ranks(site)).items():
        assert torch.equal(tensor.float(), dense[name])
        assert tensor.shape == dense[name].shape


@settings(max_examples=60, deadline=None)
@given(sites_with_ranks())
def test_one_vector_costs_what_one_rank_less_saves(
    case: tuple[AttentionSite, SiteRanks],
) -> None:
    site, _ = case
    full = full_ranks(site)
    qk_cost, vo_cost = (seam.cost for seam in seams_of(site).values())
    less = tuple(rank - (head == 0) for head, rank in enumerate(full.qk))
    whole = site_parameters(site, full)
    assert whole - site_parameters(site, SiteRanks(less, full.vo)) == qk_cost
    assert whole - site_parameters(site, SiteRanks(full.qk, less)) == vo_cost


def test_query_heads_take_the_rank_of_their_key_head() -> None:
    site = make_site(6, 3, 4, 5, fused=False, biased=False, o_bias=False)
    ranks = SiteRanks(qk=(2, 4), vo=(1, 3))
    assert vectors(site, ranks, "q") == [2, 2, 2, 4, 4, 4]
    assert vectors(site, ranks, "k") == [2, 4]
    assert vectors(site, ranks, "v") == [1, 3]
    assert vectors(site, ranks, "o") == [1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("role", ["q_bias", "k_bias", "v_bias"])
def test_a_bias_that_became_redundant_is_stored_as_zeros(role: str) -> None:
    site = make_site(2, 1, 3, 4, fused=False, biased=True, o_bias=True)
    weights = read_site(random_dense(site).__getitem__, site)
    tensors = write_site(replace(weights, **{role: None}), site, SiteRanks((2, 1), (3, 2)))
    name = f"{role[0]}.bias"
    assert set(tensors) == set(site.tensors())
    assert tensors[name].tolist() == [0.0] * (5 if role == "v_bias" else 3)
