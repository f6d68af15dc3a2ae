"""Every method on every architecture and dtype, against a naive dense oracle in float64.

The oracle never sees factors: it forms each head's full bilinear form and output map.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgery.architectures import AttentionSite, Config, architecture_of, claim
from surgery.methods import (
    AttentionWeights,
    SiteDecomposition,
    absorb_decompose,
    magnitude,
    prepare,
)
from surgery.stored.pack import read_site
from tests.models import TINY, tiny_model

METHODS = {"absorb-decompose": absorb_decompose, "magnitude": magnitude}


def blocks(name: str, dtype: torch.dtype) -> list[tuple[AttentionSite, AttentionWeights]]:
    model = tiny_model(name, dtype=dtype)
    state = model.state_dict()
    raw = model.config.to_dict()
    sites = claim(
        architecture_of(raw), Config(architecture_of(raw), raw, "config.json"), list(state)
    ).sites
    return [(site, read_site(state.__getitem__, site)) for site in sites]


def dense_scores(w: AttentionWeights, x: Tensor, y: Tensor) -> Tensor:
    """Pre-softmax scores of every query head, (kv, g, time, time), by the definition."""
    heads = []
    for j in range(w.k.shape[0]):
        keys = y @ w.k[j].T + (0 if w.k_bias is None else w.k_bias[j])
        for i in range(w.q.shape[1]):
            queries = x @ w.q[j, i].T + (0 if w.q_bias is None else w.q_bias[j, i])
            heads.append(queries @ keys.T)
    return torch.stack(heads)


def dense_output(w: AttentionWeights, x: Tensor, y: Tensor, *, rope: bool) -> Tensor:
    """The whole attention, softmax and biases included; scores left out across RoPE."""
    total = torch.zeros(x.shape[0], w.o.shape[-1], dtype=x.dtype)
    scores = dense_scores(w, x, y)
    head = 0
    for j in range(w.k.shape[0]):
        values = y @ w.v[j].T + (0 if w.v_bias is None else w.v_bias[j])
        for i in range(w.q.shape[1]):
            logits = torch.zeros_like(scores[head]) if rope else scores[head]
            total = total + logits.softmax(dim=-1) @ values @ w.o[j, i]
            head += 1
    return total + (0 if w.o_bias is None else w.o_bias)


def apply(
    method: str, site: AttentionSite, w: AttentionWeights
) -> tuple[SiteDecomposition, AttentionWeights]:
    qk = "rope" not in site.between
    decomposition = METHODS[method](w, qk=qk, vo=True)
    return decomposition, decomposition.apply(prepare(w, qk=qk, vo=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(TINY))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_attention_output_is_unchanged_when_nothing_is_cut(
    method: str, name: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    for site, weights in blocks(name, dtype):
        x = torch.randn(7, site.width, generator=generator, dtype=torch.float64)
        y = torch.randn(9, site.width, generator=generator, dtype=torch.float64)
        _, new = apply(method, site, weights)
        rope = "rope" in site.between
        before, after = (dense_output(w, x, y, rope=rope) for w in (weights, new))
        assert float((after - before).norm() / before.norm()) < 1e-10


@pytest.mark.parametrize("name", sorted(TINY))
def test_each_heads_product_is_kept_to_1e_10(name: str) -> None:
    for site, weights in blocks(name, torch.float32):
        qk = "rope" not in site.between
        ready = prepare(weights, qk=qk, vo=True)
        _, new = apply("absorb-decompose", site, weights)
        pairs = [(ready.vo_factors(), new.vo_factors())]
        if qk:
            pairs.append((ready.qk_factors(), new.qk_factors()))
        for (left, right), (new_left, new_right) in pairs:
            dense, again = left.mT @ right, new_left.mT @ new_right
            error = torch.linalg.matrix_norm(again - dense) / torch.linalg.matrix_norm(dense)
            assert float(error.max()) < 1e-10


@pytest.mark.parametrize("name", sorted(TINY))
def test_spectra_are_the_singular_values_of_the_dense_products(name: str) -> None:
    for site, weights in blocks(name, torch.float32):
        qk = "rope" not in site.between
        ready = prepare(weights, qk=qk, vo=True)
        decomposition = absorb_decompose(weights, qk=qk, vo=True)
        left, right = ready.vo_factors()
        oracle = torch.linalg.svdvals(left.mT @ right)[:, : site.head_dim]
        assert decomposition.vo is not None
        torch.testing.assert_close(decomposition.vo.spectrum, oracle, rtol=1e-9, atol=1e-12)
        assert (decomposition.qk is None) == (not qk)


def test_biases_move_where_that_is_exact_and_stay_where_it_is_not() -> None:
    by_name = {name: apply("absorb-decompose", *blocks(name, torch.float32)[0]) for name in TINY}
    for name in ("whisper", "bert", "gpt2"):
        new = by_name[name][1]
        assert new.v_bias is None and new.k_bias is None
        assert new.q_bias is not None and new.q_bias.any()
    qwen = by_name["qwen2"][1]
    assert qwen.v_bias is not None and qwen.v_bias.any(), "Qwen2's o has no bias to move it into"
    assert qwen.k_bias is not None and qwen.k_bias.any(), "RoPE turns k's bias with its position"


@pytest.mark.parametrize("name", ["whisper", "llama", "qwen2", "gpt2"])
def test_new_vectors_are_orthogonal_and_sorted(name: str) -> None:
    for _, weights in blocks(name, torch.float32):
        decomposition = absorb_decompose(weights, qk=False, vo=True)
        ready = prepare(weights, qk=False, vo=True)
        left, right = decomposition.apply(ready).vo_factors()
        assert decomposition.vo is not None
        values = decomposition.vo.spectrum
        assert torch.all(values[:, :-1] >= values[:, 1:])
        for factor in (left, right):
            expected = torch.diag_embed(values)
            torch.testing.assert_close(factor @ factor.mT, expected, rtol=1e-7, atol=1e-9)


def test_magnitude_keeps_the_vectors_of_largest_norm_product() -> None:
    _, weights = blocks("whisper", torch.float32)[0]
    decomposition = magnitude(weights, qk=True, vo=True)
    ready = prepare(weights, qk=True, vo=True)
    left, right = ready.vo_factors()
    worth = left.norm(dim=-1) * right.norm(dim=-1)
    kept = decomposition.apply(ready).v[:, :3]
    for head in range(worth.shape[0]):
        best = worth[head].topk(3).indices
        torch.testing.assert_close(kept[head], ready.v[head, best])
