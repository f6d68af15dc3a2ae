"""Heads factored for tuning: products and maps kept in float64, whatever the heads' rank.

The oracle forms each head's product, or map, densely.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.architectures import Config, architecture_of, claim
from surgery.engine.parts.factor import factor_site
from surgery.engine.parts.factor_plan import FactorSite
from surgery.methods import FORMS, AttentionWeights, Behind, Form, prepare
from surgery.report.accounting import full_ranks
from surgery.stored.pack import read_site
from tests.models import TINY, tiny_model


def sites_of(name: str) -> list[tuple[FactorSite, AttentionWeights]]:
    model = tiny_model(name)
    state, raw = model.state_dict(), model.config.to_dict()
    family = architecture_of(raw)
    found = claim(family, Config(family, raw, "config.json"), list(state)).sites
    return [
        (FactorSite(site, full_ranks(site), True, True), read_site(state.__getitem__, site))
        for site in found
    ]


def behind_heads(rows: Tensor, behind: Behind, *, shared: bool) -> Tensor:
    """What stands behind each head times its rows ``(kv, d, n)``."""
    heads = []
    for each, piece in zip(rows, behind.pieces, strict=True):
        if behind.form == "diagonal":
            piece = torch.diag(torch.cat([piece, piece]) if shared else piece)
        heads.append(piece @ each)
    return torch.stack(heads)


def broken(weights: AttentionWeights) -> AttentionWeights:
    """The same block with a value head of zeros, a repeated key row and one row of zeros."""
    v, k = weights.v.clone(), weights.k.clone()
    v[0] = 0
    k[0, 1], k[-1, 0] = k[0, 0], 0
    return AttentionWeights(
        weights.q, k, v, weights.o, weights.q_bias, weights.k_bias, weights.v_bias, weights.o_bias
    )


@pytest.mark.parametrize("deficient", [False, True], ids=["full", "deficient"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted(TINY))
def test_each_heads_product_or_map_is_kept_to_1e_10(name: str, form: Form, deficient: bool) -> None:
    for each, weights in sites_of(name):
        weights = broken(weights) if deficient else weights
        new, behind = factor_site(weights, each, form)
        ready = prepare(weights, qk=not each.rotary, vo=True)

        left, right = new.vo_factors()
        pairs = [(ready.vo_factors(), (left, behind_heads(right, behind["v"], shared=False)))]
        left, right = new.qk_factors()
        keys = behind_heads(right, behind["k"], shared=each.rotary)
        if each.rotary:  # every map for itself: RoPE mixes with no product
            assert torch.equal(left, ready.qk_factors()[0])
            eye = torch.eye(keys.shape[1], dtype=keys.dtype).expand(len(keys), -1, -1)
            pairs.append(((eye, ready.qk_factors()[1]), (eye, keys)))
        else:
            pairs.append((ready.qk_factors(), (left, keys)))
        for (a, b), (new_a, new_b) in pairs:
            dense, again = a.mT @ b, new_a.mT @ new_b
            norm = torch.linalg.matrix_norm(dense)
            error = torch.linalg.matrix_norm(again - dense)
            assert torch.all(error <= 1e-10 * norm + 1e-14)
            assert torch.all(torch.isfinite(new_a)) and torch.all(torch.isfinite(new_b))
        # What v's bias adds has moved into o's, where there is one.
        if weights.o_bias is not None and weights.v_bias is not None:
            assert new.v_bias is None
            assert ready.o_bias is not None and new.o_bias is not None
            torch.testing.assert_close(new.o_bias, ready.o_bias, rtol=1e-12, atol=1e-12)
        assert (behind["v"].defect or 0) <= 1e-12 and (behind["k"].defect or 0) <= 1e-12
        if form == "diagonal" and not each.rotary:
            values = torch.linalg.svdvals(ready.vo_factors()[0].mT @ ready.vo_factors()[1])
            found = torch.stack(behind["v"].pieces)
            torch.testing.assert_close(found, values[:, : found.shape[1]], rtol=1e-9, atol=1e-11)
