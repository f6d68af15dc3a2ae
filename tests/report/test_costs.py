"""Bytes and FLOPs agree with what tiny models hold and multiply."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from surgery.architectures import architecture_of
from surgery.architectures.base import Scope
from surgery.report.accounting import full_ranks, restructured
from surgery.report.costs import (
    attention_flops,
    beside_attention,
    executed_ranks,
    quantities,
    sequence_lengths,
)
from surgery.report.model.report import Quantity
from surgery.report.text.summary import quantity_named
from surgery.runtime.heads import SiteRanks
from tests.models import tiny_model
from tests.report.counted import counted, ragged
from tests.report.factory import make_report, sites_of

TOWERS = [
    ("whisper", "encoder"),
    ("whisper", "decoder"),
    ("bert", "encoder"),
    ("gpt2", "decoder"),
    ("llama", "decoder"),
    ("llama-wide-heads", "decoder"),
    ("qwen2", "decoder"),
]


def told(name: str, ranks: dict[str, SiteRanks]) -> dict[str, Quantity]:
    infos, claims = counted(name)
    config = tiny_model(name).config
    shapes = {key: shape for key, (shape, _) in infos.items()}
    beside = beside_attention(architecture_of(config.to_dict()), claims, shapes)
    after = restructured(infos, claims.sites, ranks)
    lengths = sequence_lengths(config)
    found = quantities(claims.sites, ranks, infos, after, lengths, beside)
    return {one.name: one for one in found}


def multiplied(model: PreTrainedModel, run: Callable[[], object]) -> int:
    """Count what runs in the layers, and in whatever else of an encoder multiplies."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    rotations = [key for key in counter.flop_counts if key.endswith("rotary_emb")]
    without = sum(sum(counter.flop_counts[key].values()) for key in rotations)
    return counter.get_total_flops() - without


def run_encoder(model: PreTrainedModel, length: int) -> Callable[[], object]:
    if model.config.model_type == "bert":
        states = torch.zeros(1, length, model.config.hidden_size)
        return lambda: model.base_model.encoder(states)
    features = torch.zeros(1, model.config.num_mel_bins, 2 * length)
    return lambda: model.get_encoder()(features)


def run_token(model: PreTrainedModel, length: int) -> Callable[[], object]:
    """Return one decoding step after all others of the context were read."""
    given: dict[str, Tensor] = {}
    base = model.base_model
    if model.config.is_encoder_decoder:
        frames = model.config.max_source_positions
        given = {"encoder_hidden_states": torch.zeros(1, frames, model.config.d_model)}
        base = model.get_decoder()
    read = torch.ones(1, length - 1, dtype=torch.long)
    with torch.no_grad():
        cache = base(input_ids=read, use_cache=True, **given).past_key_values
    new = torch.ones(1, 1, dtype=torch.long)
    return lambda: base(input_ids=new, past_key_values=cache, use_cache=True, **given)


@pytest.mark.parametrize(("name", "tower"), TOWERS)
def test_the_flops_of_a_whole_tower_are_those_that_run(name: str, tower: str) -> None:
    model = tiny_model(name)
    model.set_attn_implementation("eager")  # plain products, which can be counted
    whole = told(name, {})[f"flops_whole_{tower}"]
    lengths = sequence_lengths(model.config)
    scope: Scope = "encoder" if tower == "encoder" else "decoder"
    run = (run_encoder if tower == "encoder" else run_token)(model, lengths[scope])
    assert whole.before == multiplied(model, run)
    assert whole.after == whole.before
    assert whole.executed is None


@pytest.mark.parametrize("name", ["whisper", "llama", "bert", "gpt2"])
def test_a_tower_loses_what_its_attention_loses(name: str) -> None:
    _, claims = counted(name)
    found = told(name, {site.path: ragged(site) for site in claims.sites})
    scopes = {site.scope for site in claims.sites}
    for tower, members in (("encoder", ["encoder"]), ("decoder", ["decoder", "cross"])):
        parts = [found[f"flops_{scope}"] for scope in members if scope in scopes]
        if not parts:
            continue
        whole = found[f"flops_whole_{tower}"]
        assert whole.before - whole.after == sum(one.before - one.after for one in parts)
        ran = sum((one.executed or one.after) - one.after for one in parts)
        assert (whole.executed or whole.after) - whole.after == ran
        assert 0 < 1 - whole.after / whole.before < 1 - parts[0].after / parts[0].before


def test_attention_is_called_attention_where_a_tower_stands_beside_it() -> None:
    report = make_report("large")
    titles = [one.title for one in report.quantities if one.unit == "FLOPs"]
    assert titles == [
        "Encoder attention, 1,500 positions",
        "Whole encoder, 1,500 positions",
        "Decoder attention, a token that sees 448",
        "Cross-attention, a token that sees 1,500",
        "All decoder layers, a token",
    ]
    attention, whole = (
        quantity_named(report, name) for name in ("flops_encoder", "flops_whole_encoder")
    )
    assert attention is not None
    assert whole is not None
    assert attention.after / attention.before < whole.after / whole.before


def test_bytes_follow_the_stored_dtype() -> None:
    infos, claims = counted("llama")
    half = {name: (shape, 2) for name, (shape, _) in infos.items()}
    ranks = {site.path: ragged(site) for site in claims.sites}
    lengths = sequence_lengths(tiny_model("llama").config)
    found = {
        one.name: one
        for one in quantities(
            claims.sites, ranks, half, restructured(half, claims.sites, ranks), lengths, {}
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
    config = tiny_model("whisper").config
    lengths = sequence_lengths(config)
    assert lengths["encoder"] == lengths["cross"] == config.max_source_positions
    assert lengths["decoder"] == config.max_target_positions
