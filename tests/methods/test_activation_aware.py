"""Activation-aware decomposition against dense float64 oracles that see scores and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.methods import (
    AttentionWeights,
    PairDecomposition,
    absorb_decompose,
    activation_aware,
    prepare,
)

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Seen:
    q: Tensor
    k: Tensor
    c: Tensor


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def block(
    seed: int,
    kv: int = 2,
    g: int = 1,
    d: int = 6,
    w: int = 16,
    *,
    biases: str = "",
    rank: int | None = None,
    fade: float = 0.0,
    zero_head: bool = False,
) -> AttentionWeights:
    """A block whose k and v have the given rank, whose vectors fade, and biases on some maps."""
    draw = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -fade, d, dtype=torch.float64)[:, None]
    inner = d if rank is None else rank

    def thin(*lead: int) -> Tensor:
        return normal(draw, kv, d, inner) @ normal(draw, *lead, inner, w)

    q, o = (scales * normal(draw, kv, g, d, w) for _ in range(2))
    k, v = (scales * thin(kv) for _ in range(2))
    if zero_head:
        q[0], v[-1] = 0.0, 0.0
    return AttentionWeights(
        q=q,
        k=k,
        v=v,
        o=o,
        q_bias=normal(draw, kv, g, d) if "q" in biases else None,
        k_bias=normal(draw, kv, d) if "k" in biases else None,
        v_bias=normal(draw, kv, d) if "v" in biases else None,
        o_bias=normal(draw, w) if "o" in biases else None,
    )


def second(rows: Tensor) -> Tensor:
    return rows.mT @ rows / max(rows.shape[-2], 1)


def samples(seed: int, kv: int, n: int, d: int, spread: float = 1.5) -> Tensor:
    """(kv, n, d): correlated, and of unequal size in different directions."""
    draw = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -spread, d, dtype=torch.float64)
    return normal(draw, kv, n, d) * scales @ normal(draw, kv, d, d)


def seen(seed: int, kv: int, d: int, n: int) -> Seen:
    return Seen(*(second(samples(3 * seed + i, kv, n, d)) for i in range(3)))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(3, 20)),
    biases=st.sampled_from(["", "q", "v", "qkv", "qkvo"]),
    rank=st.integers(0, 9),
    fade=st.floats(0, 10),
    zero_head=st.booleans(),
    shown=st.integers(0, 30),
    ridge=st.sampled_from([0.0, 1e-9, 1e-3, 0.05]),
)
def test_with_all_components_kept_every_product_is_what_it_was(
    seed: int,
    shape: tuple[int, int, int, int],
    biases: str,
    rank: int,
    fade: float,
    zero_head: bool,
    shown: int,
    ridge: float,
) -> None:
    """Also where the samples show few directions, or none, of the block's input."""
    kv, g, d, w = shape
    weights = block(
        seed, kv, g, d, w, biases=biases, rank=min(rank, d), fade=fade, zero_head=zero_head
    )
    found = activation_aware(weights, seen(seed, kv, d, shown), qk=True, vo=True, ridge=ridge)
    ready = prepare(weights, qk=True, vo=True)
    new = found.apply(ready)
    pairs = (
        (ready.qk_factors(), new.qk_factors(), found.qk),
        (ready.vo_factors(), new.vo_factors(), found.vo),
    )
    for (left, right), (new_left, new_right), pair in pairs:
        assert pair is not None
        assert torch.all(pair.spectrum[:, :-1] >= pair.spectrum[:, 1:])
        dense = left.mT @ right
        error = torch.linalg.matrix_norm(new_left.mT @ new_right - dense)
        # 1e-12 is promised; forming L and N of far larger norm than their product rounds too.
        scale = torch.linalg.matrix_norm(left) * torch.linalg.matrix_norm(right)
        norm = torch.linalg.matrix_norm(dense)
        assert torch.all(error <= 1e-12 * norm + 64 * d * EPS * scale)
        assert torch.all((pair.norm - norm).abs() <= 1e-12 * norm + 64 * d * EPS * scale)


def cut(pair: PairDecomposition | None, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The transforms' rows that stay."""
    assert pair is not None
    kept = (torch.arange(pair.spectrum.shape[1]) < ranks[:, None])[..., None]
    return kept * pair.left, kept * pair.right


def tails(matrix: Tensor, d: int) -> Tensor:
    """Squared error of the best approximations of rank 0 … d of a dense matrix: Eckart–Young."""
    squares = torch.linalg.svdvals(matrix).square()[..., :d]
    padded = torch.nn.functional.pad(squares, (0, d + 1 - squares.shape[-1]))
    return padded.flip(-1).cumsum(-1).flip(-1)


def assert_optimal(found: Tensor, predicted: Tensor, best: Tensor, whole: Tensor) -> None:
    """Mean-square errors of one head's rank: as measured, as the spectrum says, as is possible."""
    # Sums of squares of spectra whose heads' products, and moments' roots, have condition numbers
    # of some 1e3: what is small among them is off by as many roundings of the whole energy.
    noise = 1e4 * EPS * whole
    assert torch.all((found - predicted).abs() <= noise)
    assert torch.all((found - best).abs() <= noise)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    g=st.integers(1, 3),
    d=st.integers(2, 7),
    biases=st.sampled_from(["", "q", "qk", "qkvo"]),
)
def test_no_other_cut_of_query_and_key_errs_less_over_independent_pairs(
    seed: int, g: int, d: int, biases: str
) -> None:
    kv, w, n = 2, 12, 60
    weights = block(seed, kv, g, d, w, biases=biases)
    draw = torch.Generator().manual_seed(seed)
    x, y = (normal(draw, n, w) @ normal(draw, w, w) + 0.3 for _ in range(2))

    def queries(each: AttentionWeights) -> Tensor:
        heads = torch.einsum("nw,jgdw->jgnd", x, each.q)
        return (heads if each.q_bias is None else heads + each.q_bias[:, :, None]).flatten(1, 2)

    def keys(each: AttentionWeights) -> Tensor:
        heads = torch.einsum("nw,jdw->jnd", y, each.k)
        heads = heads if each.k_bias is None else heads + each.k_bias[:, None]
        return heads - heads.mean(dim=1, keepdim=True)  # what softmax sees of them

    moments = Seen(second(queries(weights)), second(keys(weights)), seen(seed, kv, d, 9).c)
    found = activation_aware(weights, moments, qk=True, vo=False, ridge=0.0)
    ready = prepare(weights, qk=True, vo=False)
    pairs = n * n * g
    scores = queries(weights) @ keys(weights).mT / pairs**0.5
    best = tails(scores, d)
    assert found.qk is not None
    for rank in range(d + 1):
        new = ready.transform_qk(*cut(found.qk, torch.full((kv,), rank)))
        again = queries(new) @ keys(new).mT / pairs**0.5
        measured = (again - scores).square().sum(dim=(1, 2))
        predicted = found.qk.spectrum[:, rank:].square().sum(dim=-1)
        assert_optimal(measured, predicted, best[:, rank], best[:, 0])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    d=st.integers(2, 7),
    biases=st.sampled_from(["", "v", "vo"]),
)
def test_no_other_cut_of_value_and_output_errs_less_in_what_the_head_adds(
    seed: int, d: int, biases: str
) -> None:
    kv, w, n = 3, 12, 60
    weights = block(seed, kv, 1, d, w, biases=biases)
    draw = torch.Generator().manual_seed(seed)
    y = normal(draw, 20, w) @ normal(draw, w, w)
    attention = normal(draw, kv, n, 20).mul(2).softmax(dim=-1)

    def contexts(each: AttentionWeights) -> Tensor:
        values = torch.einsum("nw,jdw->jnd", y, each.v)
        return attention @ (values if each.v_bias is None else values + each.v_bias[:, None])

    def added(each: AttentionWeights) -> Tensor:
        out = contexts(each) @ each.o[:, 0]
        # o's bias goes to one of the heads, which may as well be each: it is not cut.
        return out if each.o_bias is None else out + each.o_bias / kv

    ready = prepare(weights, qk=False, vo=True)
    # Absorbing v's bias moves it out of the contexts, and out of them alone.
    assert torch.allclose(added(ready).sum(0), added(weights).sum(0), rtol=1e-12, atol=1e-12)
    moments = Seen(*(seen(seed, kv, d, 9).q for _ in range(2)), second(contexts(ready)))
    found = activation_aware(weights, moments, qk=False, vo=True, ridge=0.0)
    best = tails(contexts(ready) @ ready.o[:, 0] / n**0.5, d)
    assert found.vo is not None
    for rank in range(d + 1):
        new = ready.transform_vo(*cut(found.vo, torch.full((kv,), rank)))
        measured = (added(new) - added(ready)).square().sum(dim=(1, 2)) / n
        predicted = found.vo.spectrum[:, rank:].square().sum(dim=-1)
        assert_optimal(measured, predicted, best[:, rank], best[:, 0])


def test_a_group_counts_what_all_its_heads_add_of_a_context_that_any_of_them_sees() -> None:
    weights = block(5, 2, 3, 6, 16)
    contexts = samples(6, 2, 50, 6)
    moments = Seen(*(seen(1, 2, 6, 9).q for _ in range(2)), second(contexts))
    found = activation_aware(weights, moments, qk=False, vo=True, ridge=0.0).vo
    together = weights.o.transpose(1, 2).flatten(2)
    best = tails(contexts @ together / 50**0.5, 6)
    assert found is not None
    for rank in range(6):
        predicted = found.spectrum[:, rank:].square().sum(dim=-1)
        assert_optimal(predicted, predicted, best[:, rank], best[:, 0])


def test_samples_err_less_than_under_the_weights_own_decomposition() -> None:
    weights, moments = block(7, d=8, w=24), seen(3, 2, 8, 200)
    aware = activation_aware(weights, moments, qk=True, vo=True)
    plain = absorb_decompose(weights, qk=True, vo=True)
    for rank in range(1, 8):
        errors = []
        for pair in (aware.qk, plain.qk):
            left, right = cut(pair, torch.full((2,), rank))
            missing = torch.eye(8).double() - left.mT @ right
            lost = missing.mT @ moments.q @ missing @ moments.k
            errors.append(lost.diagonal(dim1=1, dim2=2).sum(dim=1))
        assert torch.all(errors[0] < 0.8 * errors[1])


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("biases", ["", "qkvo", "qkv"])
def test_spectra_do_not_depend_on_how_a_heads_vectors_are_mixed(ridge: float, biases: str) -> None:
    weights, moments = block(11, 2, 2, 6, 16, biases=biases), seen(4, 2, 6, 60)
    x, z = (normal(torch.Generator().manual_seed(i), 2, 6, 6) for i in range(2))
    back_x, back_z = torch.linalg.inv(x).mT, torch.linalg.inv(z).mT
    mixed = weights.transform_qk(x, back_x).transform_vo(back_z, z)
    there = Seen(
        x @ moments.q @ x.mT,
        back_x @ moments.k @ back_x.mT,
        z @ moments.c @ z.mT,
    )
    before, after = (
        activation_aware(each, both, qk=True, vo=True, ridge=ridge)
        for each, both in ((weights, moments), (mixed, there))
    )
    # cond(x)² of each mixing may be some 1e4, and eats as many of 16 digits; of what is left, the
    # square root of a small eigenvalue of a moment is known to a fraction only.
    for one, other in ((before.qk, after.qk), (before.vo, after.vo)):
        assert one is not None and other is not None
        atol = 1e-8 * float(one.spectrum.max())
        torch.testing.assert_close(one.spectrum, other.spectrum, rtol=0, atol=atol)


def test_white_input_leaves_the_decomposition_to_the_weights() -> None:
    weights, moments = block(13, 2, 2, 6, 16), seen(5, 2, 6, 60)
    aware = activation_aware(weights, moments, qk=True, vo=True, ridge=1.0)
    plain = absorb_decompose(weights, qk=True, vo=True)
    for one, other in ((aware.qk, plain.qk), (aware.vo, plain.vo)):
        assert one is not None and other is not None
        ratio = one.spectrum / other.spectrum
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-9, atol=0)
        gap = float((other.spectrum[:, :-1] / other.spectrum[:, 1:]).min())
        assert gap > 1.01, "subspaces are unique"
        for rank in range(7):
            (left, right), (to_left, to_right) = (
                cut(pair, torch.full((2,), rank)) for pair in (one, other)
            )
            torch.testing.assert_close(left.mT @ right, to_left.mT @ to_right, rtol=0, atol=1e-8)


def test_a_bias_of_v_that_nothing_can_take_stays_part_of_the_product() -> None:
    """Qwen2: its o has no bias."""
    weights = block(17, 2, 2, 4, 12, biases="qkv")
    contexts = samples(18, 2, 40, 4) + weights.v_bias[:, None]  # type: ignore[index]
    moments = Seen(seen(6, 2, 4, 9).q, seen(6, 2, 4, 9).k, second(contexts))
    found = activation_aware(weights, moments, qk=False, vo=True, ridge=0.0)
    new = found.apply(prepare(weights, qk=False, vo=True))
    assert new.v_bias is not None and new.o_bias is None
    left, right = weights.vo_factors()
    assert right.shape[-1] == 13
    new_left, new_right = new.vo_factors()
    torch.testing.assert_close(new_left.mT @ new_right, left.mT @ right, rtol=1e-11, atol=1e-12)
    assert found.vo is not None
    best = tails(contexts @ weights.o.transpose(1, 2).flatten(2) / 40**0.5, 4)
    for rank in range(4):
        predicted = found.vo.spectrum[:, rank:].square().sum(dim=-1)
        assert_optimal(predicted, predicted, best[:, rank], best[:, 0])


@pytest.mark.parametrize("shown", [0, 1, 3])
def test_what_no_sample_shows_goes_first_and_costs_nothing(shown: int) -> None:
    """With a single token a sequence, keys have no covariance at all."""
    weights = block(19, 2, 1, 6, 16)
    x = samples(20, 2, shown, 6, spread=0.0)
    moments = Seen(second(x), seen(7, 2, 6, 60).k, second(x))
    found = activation_aware(weights, moments, qk=True, vo=True, ridge=0.0)
    for pair in (found.qk, found.vo):
        assert pair is not None
        assert torch.all(pair.spectrum[:, :shown] > 0) and not pair.spectrum[:, shown:].any()
    left, right = cut(found.vo, torch.full((2,), max(shown, 1)))
    lost = x - x @ (left.mT @ right).mT
    assert float(lost.norm()) <= 1e-11 * float(x.norm())


def test_under_a_metric_a_cut_errs_least_as_the_output_minds_it() -> None:
    weights, kv, d, w = block(11, biases="vo"), 2, 6, 16
    contexts = samples(5, kv, 50, d)
    shown = seen(5, kv, d, 50)
    shown = Seen(shown.q, shown.k, second(contexts))
    draw = torch.Generator().manual_seed(1)
    root = normal(draw, w, w) * torch.logspace(0, -2, w, dtype=torch.float64)
    metric = root @ root.mT
    found = activation_aware(weights, shown, qk=False, vo=True, ridge=0.0, metric=metric).vo
    plain = activation_aware(weights, shown, qk=False, vo=True, ridge=0.0).vo
    assert found is not None and plain is not None
    torch.testing.assert_close(found.norm, plain.norm)
    whole = found.left.mT @ found.right
    torch.testing.assert_close(whole, torch.eye(d, dtype=whole.dtype).expand(kv, d, d))
    rank = 3

    def damage(pair: PairDecomposition) -> Tensor:
        lost = torch.eye(d, dtype=torch.float64) - pair.left[:, :rank].mT @ pair.right[:, :rank]
        ready = prepare(weights, qk=False, vo=True)
        # o[j]ᵀ takes the context that v and attention made: what is lost of it is (I − P) c.
        added = torch.einsum("jnd,jed,jew->jnw", contexts, lost, ready.o[:, 0])
        return torch.einsum("jnw,wx,jnx->j", added, metric, added) / contexts.shape[1]

    torch.testing.assert_close(damage(found), found.spectrum[:, rank:].square().sum(-1))
    assert bool((damage(found) < 0.9 * damage(plain)).all())
