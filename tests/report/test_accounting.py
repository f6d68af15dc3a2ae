"""The accounts agree with a naive count over real tensors."""

from __future__ import annotations

from math import prod

import pytest

from surgery.report.accounting import full_ranks, restructured, savings, site_parameters
from surgery.runtime.heads import SiteRanks
from tests.models import TINY
from tests.report.counted import counted, ragged
from tests.report.factory import make_report


@pytest.mark.parametrize("name", sorted(TINY))
def test_untouched_ranks_reproduce_every_shape(name: str) -> None:
    infos, claims = counted(name)
    ranks = {site.path: full_ranks(site) for site in claims.sites}
    assert restructured(infos, claims.sites, ranks) == infos


@pytest.mark.parametrize("name", sorted(TINY))
def test_savings_equal_a_count_over_tensors(name: str) -> None:
    infos, claims = counted(name)
    ranks = {site.path: ragged(site) for site in claims.sites}
    after = restructured(infos, claims.sites, ranks)
    found = {s.name: s for s in savings(claims.sites, infos, after, claims.towers)}

    attention = {name for site in claims.sites for name in site.tensors()}
    assert found["attention"].before == sum(prod(infos[name][0]) for name in attention)
    assert found["attention"].stored == sum(
        site_parameters(site, ranks[site.path]) for site in claims.sites
    )
    assert found["model"].before == sum(prod(shape) for shape, _ in infos.values())
    removed = {key: one.before - one.stored for key, one in found.items()}
    towers = [key for key in found if key not in ("attention", "model")]
    assert removed["model"] == removed["attention"] == sum(removed[key] for key in towers)
    assert all(one.executed == one.stored for one in found.values())  # only activations are padded


def test_only_towers_in_scope_are_listed() -> None:
    infos, claims = counted("whisper")
    sites = [site for site in claims.sites if site.scope == "encoder"]
    ranks = {site.path: ragged(site) for site in sites}
    after = restructured(infos, sites, ranks)
    names = [one.name for one in savings(sites, infos, after, claims.towers)]
    assert names == ["attention", "encoder", "model"]


def test_query_heads_of_a_group_share_a_rank() -> None:
    infos, claims = counted("llama")
    site = claims.sites[0]
    assert site.groups == 2
    ranks = {site.path: SiteRanks((3, 5), (2, 7))}
    after = restructured(infos, [site], ranks)
    assert after[site.q.weight][0] == (16, site.width)
    assert after[site.k.weight][0] == (8, site.width)
    assert after[site.v.weight][0] == (9, site.width)
    assert after[site.o.weight][0] == (site.width, 18)


def test_fused_and_transposed_tensors_shrink_along_their_outputs() -> None:
    infos, claims = counted("gpt2")
    site = claims.sites[0]
    ranks = {site.path: ragged(site)}
    qk, vo = sum(ranks[site.path].qk), sum(ranks[site.path].vo)
    after = restructured(infos, [site], ranks)
    assert after[site.q.weight][0] == (site.width, 2 * qk + vo)
    assert after[site.q.bias][0] == (2 * qk + vo,)
    assert after[site.o.weight][0] == (vo, site.width)


def test_published_denominators_of_whisper_large_v3() -> None:
    report = make_report("large")
    encoder = next(one for one in report.savings if one.name == "encoder")
    # 32 blocks of 4 x 1280 x 1280 weights and three biases
    blocks = 32 * (4 * 1280 * 1280 + 3 * 1280)
    assert encoder.before == blocks + 427_000_000
