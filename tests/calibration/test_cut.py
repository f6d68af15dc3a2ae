"""A cut tried with hooks on the running model is the checkpoint that would be written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import surgery
from surgery.architectures import AttentionSite
from surgery.calibration.cut import SiteCut, cut_heads, kept_product
from surgery.errors import UsageError
from surgery.methods import (
    AttentionWeights,
    PairDecomposition,
    SiteDecomposition,
    activation_aware,
    prepare,
)
from surgery.runtime.heads import SiteRanks
from surgery.stored.block import site_entry, surgery_block
from surgery.stored.pack import read_site, write_site
from tests.calibration.oracle import sites_of
from tests.engine.support import config_of, run
from tests.models import TINY, tiny_model
from tests.runtime.naive import relative_error, tolerance

EXACT = tolerance(torch.float64)
Ranks = dict[str, tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Seen:
    q: Tensor
    k: Tensor
    c: Tensor


def decompose(model: Any, sites: tuple[AttentionSite, ...]) -> dict[str, SiteDecomposition]:
    """Every block on moments that are far from white."""
    draw = torch.Generator().manual_seed(0)
    state, found = model.state_dict(), {}
    for site in sites:
        shape = (3, site.kv_heads, site.head_dim, site.head_dim)
        root = torch.randn(shape, generator=draw, dtype=torch.float64)
        weights = read_site(state.__getitem__, site)
        rotary = "rope" in site.between
        found[site.path] = activation_aware(
            weights, Seen(*(root @ root.mT)), qk=True, vo=True, rotary=rotary
        )
    return found


def ragged(sites: tuple[AttentionSite, ...]) -> Ranks:
    """Another rank for every head, of every size from one step to all; closed seams stay whole."""
    qk, vo = itertools.cycle((4, 2, 6, 8)), itertools.cycle((3, 5, 1, 8, 2))
    return {
        site.path: (
            [site.head_dim] * site.kv_heads
            if "qk" in site.closed
            else [min(next(qk), site.head_dim) for _ in range(site.kv_heads)],
            [min(next(vo), site.head_dim) for _ in range(site.kv_heads)],
        )
        for site in sites
    }


def cuts(found: Mapping[str, SiteDecomposition], ranks: Ranks) -> dict[str, SiteCut]:
    products = {}
    for path, (qk, vo) in ranks.items():
        part = found[path]
        assert part.qk is not None and part.vo is not None
        products[path] = SiteCut(kept_product(part.qk, qk), kept_product(part.vo, vo))
    return products


def write(
    model: Any,
    path: Path,
    sites: tuple[AttentionSite, ...],
    found: Mapping[str, SiteDecomposition],
    ranks: Ranks,
) -> Path:
    """Write the pruned checkpoint by the functions that the engine reads and writes blocks with."""
    model.save_pretrained(path)
    tensors, entries = load_file(path / "model.safetensors"), {}
    for site in sites:
        qk, vo = ranks[site.path]
        part = found[site.path]
        assert part.qk is not None
        pairs = None
        if part.qk.frequencies is not None and "qk" not in site.closed:
            by_worth = part.qk.frequencies.tolist()
            pairs = tuple(tuple(sorted(row[: r // 2])) for row, r in zip(by_worth, qk, strict=True))
        stored = SiteRanks(tuple(qk), tuple(vo), pairs)
        plain = part.qk.frequencies is None
        ready = prepare(read_site(tensors.__getitem__, site), qk=plain, vo=True)
        tensors |= {
            name: tensor.contiguous()
            for name, tensor in write_site(part.apply(ready), site, stored).items()
        }
        entries[site.path] = site_entry(site, stored)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    operation = {"method": "absorb-decompose", "options": {}, "provenance": {}, "sites": entries}
    block = config_of(path) | {"surgery": surgery_block([operation])}
    (path / "config.json").write_text(json.dumps(block))
    return path


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_cut_on_trial_computes_what_the_pruned_checkpoint_computes(
    name: str, tmp_path: Path
) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    found, ranks = decompose(model, sites), ragged(sites)
    pruned = surgery.load(write(model, tmp_path, sites, found, ranks), dtype=torch.float64)
    before = run(model)
    with cut_heads(model, sites, cuts(found, ranks)):
        tried = run(model)
    assert relative_error(tried, run(pruned)) <= EXACT
    assert relative_error(tried, before) > 1e-2
    assert torch.equal(run(model), before)

    single = tiny_model(name)
    with cut_heads(single, sites, cuts(found, ranks)):
        assert relative_error(run(single), tried) <= tolerance(torch.float32)


@pytest.mark.parametrize("name", sorted(TINY))
def test_full_ranks_change_nothing(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    full = {site.path: ([site.head_dim] * site.kv_heads,) * 2 for site in sites}
    before = run(model)
    with cut_heads(model, sites, cuts(decompose(model, sites), full)):
        after = run(model)
    # P is the identity to the 1e-12 that the products are kept to.
    assert relative_error(after, before) <= EXACT + 1e-11


def test_blocks_and_pairs_that_are_not_cut_are_left_alone() -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    sites = sites_of(model)
    every = cuts(decompose(model, sites), ragged(sites))
    path = sites[1].path
    only = {
        "qk": {path: SiteCut(qk=every[path].qk)},
        "vo": {path: SiteCut(vo=every[path].vo)},
        "both": {path: every[path]},
        "none": {path: SiteCut()},
    }
    seen: dict[str, list[Tensor]] = {}
    first = model.get_submodule(sites[0].path)
    for kind, chosen in only.items():
        taken: list[Tensor] = []
        handle = first.register_forward_hook(lambda *at, taken=taken: taken.append(at[2][0]))
        with cut_heads(model, sites, chosen):
            seen[kind] = [run(model), *taken]
        handle.remove()
    assert torch.equal(seen["none"][0], run(model))
    for one, other in itertools.combinations(seen.values(), 2):
        assert relative_error(one[0], other[0]) > 1e-3
        assert torch.equal(one[1], other[1]), "the block before"


def hooks(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_hooks_are_gone_afterwards_whatever_happens() -> None:
    model = tiny_model("qwen2")
    sites = sites_of(model)
    chosen = cuts(decompose(model, sites), ragged(sites))
    with pytest.raises(ZeroDivisionError), cut_heads(model, sites, chosen):
        assert hooks(model) == 2 * len(sites)
        raise ZeroDivisionError
    assert hooks(model) == 0
    # The last block cannot be cut: those before it are let go of again.
    model.get_submodule(sites[-1].path).q_proj = torch.nn.Linear(32, 20)
    with (
        pytest.raises(UsageError, match=r"layers\.1\.self_attn\.q_proj"),
        cut_heads(model, sites, chosen),
    ):
        pytest.fail("entered")
    assert hooks(model) == 0


def test_what_is_kept_of_a_pair_is_a_projection() -> None:
    """Scores and contexts pass through it: what is kept, is kept whole."""
    model = tiny_model("whisper", dtype=torch.float64)
    sites = sites_of(model)
    found = decompose(model, sites)
    for site in sites:
        part = found[site.path].qk
        assert part is not None
        ranks = [1 + head % site.head_dim for head in range(site.kv_heads)]
        product = kept_product(part, ranks)
        torch.testing.assert_close(product @ product, product, rtol=0, atol=1e-9)
        traces = product.diagonal(dim1=1, dim2=2).sum(dim=1)
        torch.testing.assert_close(traces, torch.tensor(ranks).double(), rtol=0, atol=1e-9)


def test_frequencies_stay_or_go_with_both_rows_in_the_order_of_their_worth() -> None:
    part = PairDecomposition(
        spectrum=torch.tensor([[3.0, 3.0, 2.0, 2.0, 1.0, 1.0]] * 2, dtype=torch.float64),
        norm=torch.ones(2, dtype=torch.float64),
        order=torch.tensor([[2, 5, 0, 3, 1, 4], [1, 4, 2, 5, 0, 3]]),
        step=2,
    )
    kept = kept_product(part, [2, 4])
    assert torch.equal(kept[0].diagonal(), torch.tensor([0, 0, 1, 0, 0, 1.0]).double())
    assert torch.equal(kept[1].diagonal(), torch.tensor([0, 1, 1, 0, 1, 1.0]).double())
    assert torch.equal(kept, torch.diag_embed(kept.diagonal(dim1=1, dim2=2)))
    with pytest.raises(ValueError, match="split pairs"):
        kept_product(part, [3, 4])


def test_what_was_prepared_and_cut_has_the_same_products_as_the_hooks() -> None:
    """Of one head, by hand: P between the two maps is the transforms' first rows on either side."""
    q, k, v, o = torch.randn(4, 1, 4, 9, generator=torch.Generator().manual_seed(0)).double()
    weights = AttentionWeights(q=q[:, None], k=k, v=v, o=o[:, None])
    moments = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double()[None]
    found = activation_aware(weights, Seen(moments, moments, moments), qk=True, vo=True)
    new = found.apply(prepare(weights, qk=True, vo=True))
    assert found.qk is not None and found.vo is not None
    product = kept_product(found.qk, [2])[0]
    expected = new.q[0, 0, :2].T @ new.k[0, :2]
    torch.testing.assert_close(weights.q[0, 0].T @ product @ weights.k[0], expected)
    product = kept_product(found.vo, [3])[0]
    expected = new.o[0, 0, :3].T @ new.v[0, :3]
    torch.testing.assert_close(weights.o[0, 0].T @ product @ weights.v[0], expected)
