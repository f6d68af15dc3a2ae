"""Rules and layouts against brute force on small spectra."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import UsageError
from surgery.methods import (
    LAYOUTS,
    Energy,
    Layout,
    Lossless,
    PairSpectrum,
    Remove,
    Rule,
    SiteSpectra,
    Thresholds,
    choose_ranks,
)
from surgery.methods.units import energy_share

SITES = ("a", "b")


def spectra(seed: int, heads: int = 2, d: int = 4, qk: bool = True) -> dict[str, SiteSpectra]:
    generator = torch.Generator().manual_seed(seed)

    def one(cost: int) -> PairSpectrum:
        values = torch.rand(heads, d, generator=generator, dtype=torch.float64)
        return PairSpectrum(values.sort(dim=-1, descending=True).values, cost)

    return {site: ({"qk": one(10), "vo": one(7)} if qk else {"vo": one(7)}) for site in SITES}


def removed(given_spectra: dict[str, SiteSpectra], ranks: dict[str, dict[str, list[int]]]) -> int:
    return sum(
        (spectrum.values.shape[1] - rank) * spectrum.cost
        for site, pairs in given_spectra.items()
        for pair, spectrum in pairs.items()
        for rank in ranks[site][pair]
    )


def whole(given_spectra: dict[str, SiteSpectra]) -> int:
    return sum(
        s.values.numel() * s.cost for pairs in given_spectra.values() for s in pairs.values()
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lossless_keeps_everything(layout: Layout) -> None:
    ranks = choose_ranks(spectra(0), Lossless(), layout=layout)
    assert ranks == {site: {"qk": [4, 4], "vo": [4, 4]} for site in SITES}


def test_thresholds_cut_values_at_or_below_them() -> None:
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0], [9.0, 2.0, 0.5, 0.1]], dtype=torch.float64)
    given_spectra: dict[str, SiteSpectra] = {
        "a": {"qk": PairSpectrum(values, 1), "vo": PairSpectrum(values, 1)}
    }
    assert choose_ranks(given_spectra, Thresholds(qk=2.0, vo=0.5))["a"] == {
        "qk": [2, 1],
        "vo": [4, 2],
    }
    assert choose_ranks(given_spectra, Thresholds(qk=100.0))["a"] == {"qk": [1, 1], "vo": [4, 4]}


def test_what_may_go_whole_does_and_the_rest_says_what_it_keeps() -> None:
    values = torch.tensor([[4.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    both: dict[str, SiteSpectra] = {
        "a": {"qk": PairSpectrum(values, 1), "vo": PairSpectrum(values, 1, least=0)}
    }
    rules = Remove(0.75), Thresholds(qk=9.0, vo=9.0), Energy(0.0), Energy(1.0)
    wanted = [([1, 1], [0, 0])] * 2 + [([1, 1], [1, 0]), ([2, 1], [2, 0])]
    for rule, (qk, vo) in zip(rules, wanted, strict=True):
        assert choose_ranks(both, rule)["a"] == {"qk": qk, "vo": vo}
    assert choose_ranks(both, Thresholds(qk=9.0, vo=9.0), layout="tied")["a"]["vo"] == [1, 1]
    with pytest.raises(UsageError, match=r"at most 75\.00%: heads keep 1 in QK"):
        choose_ranks(both, Remove(0.8))
    only: dict[str, SiteSpectra] = {"a": {"vo": both["a"]["vo"]}}
    assert choose_ranks(only, Remove(1.0), multiple=2)["a"]["vo"] == [0, 0]


def test_energy_keeps_the_smallest_rank_that_holds_the_fraction() -> None:
    values = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    given_spectra: dict[str, SiteSpectra] = {"a": {"vo": PairSpectrum(values, 1)}}
    shares = energy_share(values)[0].cumsum(0)
    for fraction, rank in ((0.0, 1), (float(shares[0]), 1), (0.7, 2), (0.95, 3), (1.0, 3)):
        assert choose_ranks(given_spectra, Energy(fraction))["a"]["vo"] == [rank]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    fraction=st.floats(0, 0.7),
    layout=st.sampled_from(LAYOUTS),
    multiple=st.integers(1, 3),
)
def test_a_budget_is_met_within_one_step_and_the_layout_holds(
    seed: int, fraction: float, layout: Layout, multiple: int
) -> None:
    given_spectra = spectra(seed, d=6)
    try:
        ranks = choose_ranks(given_spectra, Remove(fraction), layout=layout, multiple=multiple)
    except UsageError as error:
        assert multiple / 6 > 1 - fraction - 1e-9, error
        return
    gone = removed(given_spectra, ranks)  # type: ignore[arg-type]
    step = multiple * {"ragged": 10, "block": 20, "tied": 34, "model": 20 * len(SITES)}[layout]
    wanted = fraction * whole(given_spectra)
    assert wanted - 1e-6 <= gone <= wanted + step + 1e-6
    for site in SITES:
        qk, vo = ranks[site]["qk"], ranks[site]["vo"]
        assert all(r == 6 or r % multiple == 0 for r in qk + vo)
        assert min(qk + vo) >= multiple
        if layout != "ragged":
            assert len(set(qk)) == len(set(vo)) == 1
        if layout == "tied":
            assert qk == vo
        if layout == "model":
            assert ranks[site] == ranks[SITES[0]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.integers(0, 9))
def test_with_equal_costs_the_budget_keeps_the_most_energy_possible(seed: int, cuts: int) -> None:
    given_spectra: dict[str, SiteSpectra] = {
        site: {"vo": pairs["vo"]} for site, pairs in spectra(seed).items()
    }
    fraction = cuts * 7 / whole(given_spectra)
    ranks = choose_ranks(given_spectra, Remove(fraction))

    def lost(choice: dict[tuple[str, int], int]) -> float:
        return sum(
            float(energy_share(given_spectra[s]["vo"].values[h])[r:].sum())
            for (s, h), r in choice.items()
        )

    keys = [(site, head) for site in SITES for head in range(2)]
    mine = {(s, h): ranks[s]["vo"][h] for s, h in keys}
    kept = sum(mine.values())
    best = min(
        lost(dict(zip(keys, option, strict=True)))
        for option in itertools.product(range(1, 5), repeat=4)
        if sum(option) == kept
    )
    assert lost(mine) <= best + 1e-12


def test_per_pair_cuts_both_pairs_by_the_fraction_in_the_order_of_singular_values() -> None:
    given_spectra = spectra(3)
    ranks = choose_ranks(given_spectra, Remove(0.25, per_pair=True))
    for pair in ("qk", "vo"):
        kept = sum(sum(ranks[site][pair]) for site in SITES)  # type: ignore[index]
        assert kept == 12, "a quarter of 16 vectors goes"
        smallest_kept = min(
            float(given_spectra[s][pair].values[h, r - 1])  # type: ignore[index]
            for s in SITES
            for h, r in enumerate(ranks[s][pair])  # type: ignore[index]
            if r > 1
        )
        largest_cut = max(
            float(given_spectra[s][pair].values[h, r])  # type: ignore[index]
            for s in SITES
            for h, r in enumerate(ranks[s][pair])  # type: ignore[index]
            if r < 4
        )
        assert smallest_kept >= largest_cut


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (Remove(0.9), {}, "at most 75.00%"),
        (Remove(1.5), {}, "out of range"),
        (Energy(-0.1), {}, "out of range"),
        (Thresholds(qk=-1.0), {}, "out of range"),
        (Energy(0.9), {"multiple": 5}, "larger than a head"),
        (Energy(0.9), {"multiple": 0}, "at least 1"),
        (Remove(0.2, per_pair=True), {"layout": "tied"}, "per-pair"),
    ],
)
def test_what_cannot_be_had_is_refused(
    rule: Rule, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_ranks(spectra(0), rule, **arguments)  # type: ignore[arg-type]


def test_tied_needs_both_pairs() -> None:
    with pytest.raises(UsageError, match="tied"):
        choose_ranks(spectra(0, qk=False), Energy(0.9), layout="tied")


def test_zero_spectra_are_ordinary_inputs() -> None:
    zeros = PairSpectrum(torch.zeros(2, 4, dtype=torch.float64), 1)
    for rule in (Energy(0.9), Remove(0.5), Thresholds(vo=0.1)):
        ranks = choose_ranks({"a": {"vo": zeros}}, rule)["a"]["vo"]
        assert all(1 <= rank <= 4 for rank in ranks)
