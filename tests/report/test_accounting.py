"""The accounts agree with a naive count over real tensors."""

from __future__ import annotations

from math import prod

import pytest
import torch

from surgery.architectures import architecture_of, claim
from surgery.architectures.base import AttentionSite, Scope
from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.report.accounting import (
    attention_flops,
    executed_ranks,
    quantities,
    restructured,
    savings,
    sequence_lengths,
    site_parameters,
)
from tests.models import TINY
from tests.report.factory import make_report, sites_of


def _model(name: str):
    torch.manual_seed(0)
    model = TINY[name]()
    raw = model.config.to_dict()
    infos = {
        key: (tuple(value.shape), value.element_size()) for key, value in model.state_dict().items()
    }
    claims = claim(architecture_of(raw), model.config, list(infos))
    return model.config, infos, claims


def _ragged(site: AttentionSite) -> SiteRanks:
    """Every head another rank."""
    qk = tuple(1 + (3 * head + site.layer) % site.head_dim for head in range(site.kv_heads))
    vo = tuple(1 + (5 * head + 2) % site.head_dim for head in range(site.kv_heads))
    return SiteRanks(qk, vo)


@pytest.mark.parametrize("name", sorted(TINY))
def test_untouched_ranks_reproduce_every_shape(name: str) -> None:
    _, infos, claims = _model(name)
    ranks = {site.path: full_ranks(site) for site in claims.sites}
    assert restructured(infos, claims.sites, ranks) == infos


@pytest.mark.parametrize("name", sorted(TINY))
def test_savings_equal_a_count_over_tensors(name: str) -> None:
    _, infos, claims = _model(name)
    ranks = {site.path: _ragged(site) for site in claims.sites}
    after = restructured(infos, claims.sites, ranks)
    found = {s.name: s for s in savings(claims.sites, ranks, infos, after, claims.towers)}

    attention = {name for site in claims.sites for name in site.tensors()}
    assert found["attention"].before == sum(prod(infos[name][0]) for name in attention)
    assert found["attention"].stored == sum(
        site_parameters(site, ranks[site.path]) for site in claims.sites
    )
    assert found["model"].before == sum(prod(shape) for shape, _ in infos.values())
    removed = {key: one.before - one.stored for key, one in found.items()}
    towers = [key for key in found if key not in ("attention", "model")]
    assert removed["model"] == removed["attention"] == sum(removed[key] for key in towers)


def test_only_towers_in_scope_are_listed() -> None:
    _, infos, claims = _model("whisper")
    sites = [site for site in claims.sites if site.scope == "encoder"]
    ranks = {site.path: _ragged(site) for site in sites}
    after = restructured(infos, sites, ranks)
    names = [one.name for one in savings(sites, ranks, infos, after, claims.towers)]
    assert names == ["attention", "encoder", "model"]


def test_query_heads_of_a_group_share_a_rank() -> None:
    _, infos, claims = _model("llama")
    site = claims.sites[0]
    assert site.groups == 2
    ranks = {site.path: SiteRanks((3, 5), (2, 7))}
    after = restructured(infos, [site], ranks)
    assert after[site.q.weight][0] == (16, site.width)
    assert after[site.k.weight][0] == (8, site.width)
    assert after[site.v.weight][0] == (9, site.width)
    assert after[site.o.weight][0] == (site.width, 18)


def test_fused_and_transposed_tensors_shrink_along_their_outputs() -> None:
    _, infos, claims = _model("gpt2")
    site = claims.sites[0]
    ranks = {site.path: _ragged(site)}
    qk, vo = sum(ranks[site.path].qk), sum(ranks[site.path].vo)
    after = restructured(infos, [site], ranks)
    assert after[site.q.weight][0] == (site.width, 2 * qk + vo)
    assert after[site.q.bias][0] == (2 * qk + vo,)
    assert after[site.o.weight][0] == (vo, site.width)


def test_bytes_follow_the_stored_dtype() -> None:
    config, infos, claims = _model("llama")
    half = {name: (shape, 2) for name, (shape, _) in infos.items()}
    ranks = {site.path: _ragged(site) for site in claims.sites}
    lengths = sequence_lengths(config)
    found = {
        one.name: one
        for one in quantities(
            claims.sites, ranks, half, restructured(half, claims.sites, ranks), lengths
        )
    }
    full = sum(2 * site.kv_heads * site.head_dim for site in claims.sites)
    kept = sum(sum(one.qk) + sum(one.vo) for one in ranks.values())
    assert found["kv_bytes_per_1000_tokens"].before == 1000 * full * 2
    assert found["kv_bytes_per_1000_tokens"].after == 1000 * kept * 2
    assert found["disk_bytes"].before == 2 * sum(prod(shape) for shape, _ in infos.values())


def test_flops_equal_the_products_written_out() -> None:
    site = sites_of("tiny")[0]
    n, d, length = site.head_dim, site.width, 1500
    dense = 4 * 2 * length * d * d  # four projections
    dense += 2 * site.heads * 2 * length * length * n  # scores and contexts
    assert attention_flops(site, full_ranks(site), length) == dense


def test_a_sequence_executes_one_width_for_queries_keys_and_values() -> None:
    ranks = SiteRanks((3, 8, 5), (2, 2, 9))
    assert executed_ranks(ranks, "encoder") == SiteRanks((9, 9, 9), (9, 9, 9))
    site = sites_of("tiny")[0]
    for padded in (SiteRanks((10, 20, 30, 40, 50, 60), (64,) * 6), SiteRanks((35,) * 6, (64,) * 6)):
        stored = attention_flops(site, padded, 100)
        assert attention_flops(site, padded, 100, executed=True) > stored
    tied = SiteRanks((35,) * 6, (35,) * 6)
    assert attention_flops(site, tied, 100, executed=True) == attention_flops(site, tied, 100)


def test_heads_of_very_different_widths_execute_in_groups() -> None:
    ranks = SiteRanks((12, 30, 9, 60), (14, 10, 16, 64))
    assert executed_ranks(ranks, "encoder").qk == (16, 30, 16, 64)


@pytest.mark.parametrize("scope", ["decoder", "cross"])
def test_a_new_token_executes_ranks_or_where_they_are_ragged_the_packed_cache(scope: Scope) -> None:
    assert executed_ranks(SiteRanks((3, 3), (5, 5)), scope) == SiteRanks((3, 3), (5, 5))
    assert executed_ranks(SiteRanks((3, 4), (5, 5)), scope) == SiteRanks((7, 7), (10, 10))


def test_whisper_lengths_are_its_window() -> None:
    config, _, _ = _model("whisper")
    lengths = sequence_lengths(config)
    assert lengths["encoder"] == lengths["cross"] == config.max_source_positions
    assert lengths["decoder"] == config.max_target_positions


def test_published_denominators_of_whisper_large_v3() -> None:
    report = make_report("large")
    encoder = next(one for one in report.savings if one.name == "encoder")
    # 32 blocks of 4 x 1280 x 1280 weights and three biases
    blocks = 32 * (4 * 1280 * 1280 + 3 * 1280)
    assert encoder.before == blocks + 427_000_000
