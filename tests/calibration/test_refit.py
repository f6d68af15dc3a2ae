"""Outputs fitted to what is left of their heads, against least squares on whole forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.architectures import AttentionSite
from surgery.calibration.cut import OutputChange, SiteCut, cut_heads
from surgery.calibration.modules import AttentionModules
from surgery.calibration.refit import refit
from surgery.calibration.replay import Replay
from surgery.calibration.towers import Tower
from surgery.evaluation.layers import hidden_states, stack
from surgery.events import ignore
from tests.calibration.oracle import sites_of
from tests.calibration.test_cut import cuts, decompose, ragged
from tests.engine.support import inputs, run
from tests.models import TINY, tiny_model

RIDGE = 0.01


def towers(model: Any) -> list[Tower]:
    """Every tower, two batches, and weights of which some are nought."""
    batches = [inputs(model, length=9), inputs(model, batch=3, length=7)]
    draw = torch.Generator().manual_seed(0)

    def weights(positions: str | int) -> list[Tensor]:
        found = []
        for batch in batches:
            given = next(iter(batch.values()))
            columns = positions if isinstance(positions, int) else batch[positions].shape[1]
            found.append(torch.rand(len(given), columns, generator=draw, dtype=torch.float64))
            found[-1][0, 0] = 0.0
        return found

    def runs(tower: Any, *names: str) -> list[Any]:
        options = (
            {} if model.config.model_type == "bert" or tower is encoder else {"use_cache": False}
        )
        chosen = [{name: batch[name] for name in names or batch} for batch in batches]
        return [lambda batch=batch: tower(**batch, **options) for batch in chosen]

    encoder = None
    if model.config.model_type != "whisper":
        return [Tower("decoder", stack(model), runs(model.base_model), weights("input_ids"))]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    heard = weights(int(model.config.max_source_positions))
    return [
        Tower("encoder", stack(encoder), runs(encoder, "input_features"), heard),
        Tower("decoder", stack(decoder), runs(model.base_model), weights("decoder_input_ids")),
    ]


def projected(model: Any, site: AttentionSite, runs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """What o was given and what it made of that, in whole passes: (rows, n), (rows, w)."""
    given: list[Tensor] = []
    made: list[Tensor] = []

    def hear(_: Any, args: Any, output: Tensor) -> None:
        given.append(args[0].double().flatten(0, 1))
        made.append(output.double().flatten(0, 1))

    handle = AttentionModules(model, site).projections["o"].register_forward_hook(hear)
    with torch.no_grad():
        for each in runs:
            each()
    handle.remove()
    return torch.cat(given), torch.cat(made)


def held(model: Any, tower: Tower, sites: Sequence[AttentionSite]) -> list[AttentionSite]:
    """The blocks of a tower in the order in which they run."""
    speech = model.config.model_type == "whisper"
    own = [
        one for one in sites if not speech or (one.scope == "encoder") == (tower.name == "encoder")
    ]
    return sorted(own, key=lambda each: each.layer)


def naive(
    model: Any,
    stacks: Sequence[Tower],
    sites: Sequence[AttentionSite],
    chosen: Mapping[str, SiteCut],
    ridge: float,
) -> dict[str, OutputChange]:
    """Block by block, the model run anew for each; ridge as further rows of a least squares."""
    found: dict[str, OutputChange] = {}
    for tower in stacks:
        weight = torch.cat([each.flatten() for each in tower.weights]).sqrt()[:, None]
        for site in held(model, tower, sites):
            wanted = projected(model, site, tower.runs)[1]
            now = {path: SiteCut(cut.qk, cut.vo, found.get(path)) for path, cut in chosen.items()}
            with cut_heads(model, sites, now):
                rows, said = projected(model, site, tower.runs)
            product = chosen[site.path].vo
            assert product is not None
            kept = float(sum(each.trace() for each in product)) * site.groups
            columns = rows
            if site.o.bias is not None:
                columns = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
                mean = (rows * weight.square()).sum(0) / weight.square().sum()
                energy = float(((rows - mean) * weight).square().sum())
            else:
                energy = float((rows * weight).square().sum())
            n = rows.shape[1]
            damping = torch.zeros(n, columns.shape[1], dtype=rows.dtype)
            damping[:, :n] = torch.eye(n, dtype=rows.dtype) * (ridge * energy / kept) ** 0.5
            left = torch.cat([columns * weight, damping])
            right = torch.cat([(wanted - said) * weight, torch.zeros(n, said.shape[1]).double()])
            solved = torch.linalg.lstsq(left, right).solution.T
            bias = solved[:, n] if site.o.bias is not None else None
            found[site.path] = OutputChange(solved[:, :n], bias)
    return found


@pytest.mark.parametrize("name", sorted(TINY))
def test_replaying_layers_computes_what_the_model_computes(name: str) -> None:
    model = tiny_model(name)
    for tower in towers(model):
        wanted = []
        for each in tower.runs:
            with torch.no_grad(), hidden_states(tower.layers) as states:
                each()
            wanted.append(states)
        with torch.no_grad():
            replay = Replay.catch(tower.layers, tower.runs)
            for index in range(len(tower.layers)):
                replay.hidden = replay.step(index)
                for batch, hidden in enumerate(replay.hidden):
                    assert torch.equal(hidden, wanted[batch][index])


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_refit_is_least_squares_behind_the_blocks_fitted_before(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    chosen = cuts(decompose(model, sites), ragged(sites))
    stacks = towers(model)
    found = refit(model, stacks, sites, chosen, ignore, ridge=RIDGE)
    wanted = naive(model, stacks, sites, chosen, RIDGE)
    assert list(found) == [one.path for tower in stacks for one in held(model, tower, sites)]
    for path, change in found.items():
        # Normal equations square the condition, which the ridge bounds by kept / RIDGE.
        scale = float(wanted[path].weight.norm())
        assert float((change.weight - wanted[path].weight).norm()) <= 1e-8 * scale
        other = wanted[path].bias
        assert (change.bias is None) == (other is None)
        if change.bias is not None and other is not None:
            torch.testing.assert_close(change.bias, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(TINY))
def test_with_all_kept_nothing_is_changed(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    whole = {site.path: SiteCut() for site in sites}
    assert refit(model, towers(model), sites, whole, ignore) == {}
    before = run(model)
    full = {
        site.path: SiteCut(vo=torch.eye(site.head_dim).double().repeat(site.kv_heads, 1, 1))
        for site in sites
    }
    for change in refit(model, towers(model), sites, full, ignore).values():
        assert float(change.weight.abs().max()) < 1e-12
    assert torch.equal(run(model), before)


def test_what_another_head_knows_is_taken_from_it() -> None:
    """Two heads that attend alike and hold the same values: one can speak for both."""
    model = tiny_model("whisper", dtype=torch.float64)
    site = next(each for each in sites_of(model) if each.scope == "encoder")
    attention = model.get_submodule(site.path)
    d = site.head_dim
    with torch.no_grad():
        for role in ("q_proj", "k_proj", "v_proj"):
            module = getattr(attention, role)
            module.weight[d : 2 * d] = module.weight[:d]
            if module.bias is not None:
                module.bias[d : 2 * d] = module.bias[:d]
    product = torch.eye(d, dtype=torch.float64).repeat(site.kv_heads, 1, 1)
    product[1, -(d // 2) :] = 0.0
    chosen = {site.path: SiteCut(vo=product)}
    encoder = towers(model)[:1]
    features = inputs(model)["input_features"]
    with torch.no_grad():
        before = model.get_encoder()(features).last_hidden_state
        with cut_heads(model, [site], chosen):
            cut = model.get_encoder()(features).last_hidden_state
        found = refit(model, encoder, [site], chosen, ignore, ridge=1e-12)
        fitted = {site.path: SiteCut(vo=product, output=found[site.path])}
        with cut_heads(model, [site], fitted):
            after = model.get_encoder()(features).last_hidden_state
    assert float((cut - before).norm() / before.norm()) > 1e-3
    assert float((after - before).norm() / before.norm()) < 1e-8
