"""Checkpoints of rotary models that lost whole frequency pairs, from the engine's own functions.

The oracle is the dense model with the rows of those pairs, and their biases, set to zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import surgery
from surgery.architectures import AttentionSite
from surgery.checkpoint.resolve import resolve
from surgery.errors import CheckpointError
from surgery.report.accounting import full_ranks, restructured, savings
from surgery.report.costs import quantities, sequence_lengths
from surgery.runtime.heads import SiteRanks
from surgery.stored.block import site_entry, surgery_block
from surgery.stored.pack import read_site, write_site
from surgery.stored.stored import read_stored
from tests.engine.support import DTYPES, config_of, inputs, run, save_tiny, tensors_of
from tests.models import tiny_model
from tests.runtime.naive import (
    choose_ranks,
    cut,
    kept_pairs,
    outputs,
    relative_error,
    sites,
    tolerance,
)

FAMILIES = ("llama", "llama-biased", "mistral", "qwen2")
MADE = [
    pytest.param(name, layout, dtype, id=f"{name}-{layout}-{dtype}")
    for i, name in enumerate(FAMILIES)
    for layout, dtype in zip(("ragged", "block"), ("fp32", "bf16")[:: 1 - 2 * (i % 2)], strict=True)
]


@dataclass(frozen=True)
class Made:
    """A checkpoint, its source, the ranks it is stored at, and the zeroed dense checkpoint."""

    source: Path
    path: Path
    ranks: dict[str, SiteRanks]
    packed: dict[str, Tensor]
    zeroed: Path

    def stock(self, dtype: torch.dtype = torch.float64) -> Any:
        """The zeroed dense model, as transformers alone loads it."""
        return transformers.AutoModelForCausalLM.from_pretrained(self.zeroed, dtype=dtype)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    monkeypatch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")

    def build(name: str = "qwen2", layout: str = "ragged", dtype: str = "fp32") -> Made:
        source = save_tiny(name, tmp_path / "source", dtype=dtype)
        model = tiny_model(name, dtype=DTYPES[dtype])
        chosen = choose_ranks(model, layout)
        ranks = {
            site.path: SiteRanks(
                qk=tuple(chosen[site.path][0]),
                vo=tuple(chosen[site.path][1]),
                pairs=tuple(map(tuple, kept_pairs(site, chosen[site.path][0]))),
            )
            for site in sites(model)
        }
        packed = cut(model, chosen)
        model.save_pretrained(tmp_path / "zeroed")
        path = write(source, tmp_path / "pruned", ranks)
        return Made(source, path, ranks, packed, tmp_path / "zeroed")

    return build


def write(source: Path, path: Path, ranks: dict[str, SiteRanks]) -> Path:
    """Cut a dense checkpoint at these ranks by what the engine reads and writes blocks with."""
    tensors = tensors_of(source)
    with resolve(str(source)) as opened:
        stored = read_stored(opened)
        for site in stored.claims.sites:
            weights = read_site(stored.tensor, site)
            for name, tensor in write_site(weights, site, ranks[site.path]).items():
                tensors[name] = tensor.to(tensors[name].dtype).contiguous()
        entries = {site.path: site_entry(site, ranks[site.path]) for site in stored.claims.sites}
        config = opened.config
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    operation = {"method": "absorb-decompose", "options": {}, "provenance": {}, "sites": entries}
    write_config(path, config | {"surgery": surgery_block([operation])})
    return path


def write_config(path: Path, config: dict[str, Any]) -> None:
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("name", "layout", "dtype"), MADE)
def test_a_checkpoint_runs_reloads_and_merges_as_its_zeroed_dense_model(
    make: Callable[..., Made], tmp_path: Path, name: str, layout: str, dtype: str
) -> None:
    made = make(name, layout, dtype)
    stored, zeroed = tensors_of(made.path), tensors_of(made.zeroed)
    for key, tensor in made.packed.items():
        assert torch.equal(stored[key], tensor), key

    surgery.merge(made.path, tmp_path / "merged")
    merged = tensors_of(tmp_path / "merged")
    assert merged.keys() == tensors_of(made.source).keys()
    for key, tensor in merged.items():
        assert torch.equal(tensor, zeroed[key]), key
    assert config_of(tmp_path / "merged") == config_of(made.source)

    expected = run(made.stock())
    pruned: Any = surgery.load(made.path, dtype=torch.float64)
    assert relative_error(run(pruned), expected) <= tolerance(torch.float64)
    assert relative_error(run(tiny_model(name).double()), expected) > 1e-2
    surgery.load(made.path, dtype="auto").save_pretrained(tmp_path / "saved")
    assert all(map(torch.equal, tensors_of(tmp_path / "saved").values(), stored.values()))
    again = surgery.load(tmp_path / "saved", dtype=torch.float64)
    assert torch.equal(run(again), run(pruned))


@pytest.mark.parametrize(("name", "layout", "dtype"), MADE)
def test_cached_decoding_is_as_good_as_the_zeroed_dense_models(
    make: Callable[..., Made], name: str, layout: str, dtype: str
) -> None:
    made = make(name, layout, dtype)
    kind = DTYPES[dtype]
    pruned = surgery.load(made.path, dtype=kind)
    given = inputs(pruned)
    truth = outputs(made.stock(), given)
    errors = {}
    for each, model in (("stock", made.stock(kind)), ("ours", pruned)):
        logits, cache = [], None
        for start, end in ((0, 4), (4, 5), (5, 9)):
            with torch.no_grad():
                out = model(given["input_ids"][:, start:end], past_key_values=cache, use_cache=True)
            logits.append(out.logits)
            cache = out.past_key_values
        errors[each] = relative_error(torch.cat(logits, 1), truth)
    if dtype == "fp32":
        assert errors["ours"] <= tolerance(torch.float32)
    else:  # both round every intermediate result once
        assert errors["ours"] <= 2 * errors["stock"] + torch.finfo(kind).eps


@pytest.mark.parametrize(("name", "layout"), [("qwen2", "ragged"), ("mistral", "block")])
def test_verify_finds_exactly_what_was_cut(
    make: Callable[..., Made], tmp_path: Path, name: str, layout: str
) -> None:
    made = make(name, layout)
    found = surgery.verify(made.source, made.path, weights_only=True)
    whole, left = tiny_model(name, dtype=torch.float64), made.stock()
    for site, verified in zip(sites(whole), found.sites, strict=True):
        errors = []
        for role, heads in (("q_proj", site.heads), ("k_proj", site.kv_heads)):
            before, after = (
                torch.cat(
                    [
                        projection.weight,
                        torch.zeros(heads * site.head_dim, 1)
                        if projection.bias is None
                        else projection.bias[:, None],
                    ],
                    dim=1,
                ).view(site.kv_heads, -1)
                for projection in (
                    model.get_submodule(f"{site.path}.{role}") for model in (whole, left)
                )
            )
            errors.append((after - before).norm(dim=1) / before.norm(dim=1))
        assert verified.qk == pytest.approx(torch.maximum(*errors).tolist())
    assert found.changed == []
    assert found.linears == {}

    surgery.merge(made.path, tmp_path / "merged")
    assert surgery.verify(made.path, tmp_path / "merged", weights_only=True).worst < 1e-14


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_accounts_predict_the_files_and_the_block_reads_back(
    make: Callable[..., Made], name: str
) -> None:
    made = make(name)
    with resolve(str(made.source)) as opened:
        dense = read_stored(opened)
    with resolve(str(made.path)) as opened:
        stored = read_stored(opened)
    assert stored.ranks == made.ranks
    table, after = (
        {key: (info.shape, info.dtype.itemsize) for key, info in each.source.infos.items()}
        for each in (dense, stored)
    )
    every = dense.claims.sites
    assert restructured(table, every, made.ranks) == after
    model = savings(every, table, after, dense.claims.towers)[-1]
    assert model.stored == sum(tensor.numel() for tensor in tensors_of(made.path).values())
    told = {
        one.name: one
        for one in quantities(every, made.ranks, table, after, sequence_lengths(dense.config), {})
    }
    with torch.no_grad():
        cache = surgery.load(made.path)(torch.tensor([[3, 4]]), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert told["kv_bytes_per_1000_tokens"].after == held / 2 * 1000


@pytest.mark.parametrize("method", ["sorsa", "hra"])
def test_small_parts_stand_beside_narrow_queries_and_keys(
    make: Callable[..., Made], tmp_path: Path, method: str
) -> None:
    made = make()
    options: dict[str, Any] = {"targets": ["q", "k", "v", "o"]}
    if method == "sorsa":
        surgery.split(made.path, tmp_path / "out", rank=2, **options)
    else:
        surgery.reparam(made.path, tmp_path / "out", method="hra", reflections=2, **options)
    found = run(surgery.load(tmp_path / "out", dtype=torch.float64))
    assert relative_error(found, run(made.stock())) < 1e-5

    surgery.merge(tmp_path / "out", tmp_path / "back", steps=1)
    back = config_of(tmp_path / "back")
    assert back.pop("auto_map")  # which the one written by hand has not
    assert back == config_of(made.path)
    surgery.merge(tmp_path / "out", tmp_path / "dense")
    zeroed = tensors_of(made.zeroed)
    for key, tensor in tensors_of(tmp_path / "dense").items():
        assert (tensor - zeroed[key]).abs().max() < 1e-6
        if "q_proj" in key or "k_proj" in key:
            assert not tensor[zeroed[key] == 0].any()
    assert surgery.verify(made.path, tmp_path / "out", weights_only=True).worst < 1e-6


def test_an_adapter_of_a_narrow_checkpoint_fits_it_in_peft(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    made = make()
    surgery.split(made.path, tmp_path / "out", rank=2, targets=["q", "k"])
    tuned: Any = surgery.load(tmp_path / "out")
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if name.endswith("sorsa_s"):
                parameter.mul_(1.5)
    tuned.save_pretrained(tmp_path / "tuned")
    surgery.export_model(tmp_path / "tuned", "peft", tmp_path / "adapter", original=made.path)
    adapted = peft.PeftModel.from_pretrained(surgery.load(made.path), tmp_path / "adapter").eval()
    assert relative_error(run(adapted), run(tuned)) < 1e-5
    assert relative_error(run(surgery.load(made.path)), run(tuned)) > 1e-3


def without_pairs(site: dict[str, Any]) -> None:
    del site["rope_pairs"]


def other_ranks(site: dict[str, Any]) -> None:
    site["rope_pairs"][0] = [0, 1, 2]


def unsorted(site: dict[str, Any]) -> None:
    site["qk_ranks"][0], site["rope_pairs"][0] = 4, [3, 1]


def not_a_list(site: dict[str, Any]) -> None:
    site["rope_pairs"] = {"0": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_pairs, "lose whole frequency pairs"),
        (other_ranks, "rope_pairs and qk_ranks contradict each other"),
        (unsorted, "cannot be the frequencies of a head"),
        (not_a_list, "malformed"),
    ],
)
def test_a_block_that_does_not_say_which_pairs_is_refused(
    make: Callable[..., Made], tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    made = make()
    config = config_of(made.path)
    change(config["surgery"]["operations"][0]["sites"]["model.layers.0.self_attn"])
    write_config(made.path, config)
    with pytest.raises(CheckpointError, match=message):
        surgery.merge(made.path, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_pairs_without_rotation_are_refused(tmp_path: Path) -> None:
    path = save_tiny("gpt2", tmp_path / "source")
    site = {"heads": 4, "kv_heads": 4, "head_dim": 8, "qk_ranks": [8] * 4, "v_ranks": [8] * 4}
    entry = site | {"rope_pairs": [[0, 1, 2, 3]] * 4}
    operation = {"method": "absorb-decompose", "sites": {"transformer.h.0.attn": entry}}
    write_config(path, config_of(path) | {"surgery": surgery_block([operation])})
    with pytest.raises(CheckpointError, match="without rotary positions"):
        surgery.merge(path, tmp_path / "merged")


def test_kept_pairs_must_be_named(make: Callable[..., Made]) -> None:
    made = make("llama")
    with resolve(str(made.source)) as opened:
        stored = read_stored(opened)
        site: AttentionSite = stored.claims.sites[0]
        weights = read_site(stored.tensor, site)
    with pytest.raises(ValueError, match="whole RoPE pairs"):
        write_site(weights, site, SiteRanks(qk=(4, 4), vo=full_ranks(site).vo))
