"""Heads that keep no values: alone, in whole blocks, and in all of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.methods import Energy, Thresholds
from tests.engine.spoken import TEXT, save_spoken
from tests.engine.support import measured_rounding, run, save_tiny, tensors_of
from tests.models import TINY, model_class
from tests.runtime.naive import output_axis, outputs_of, relative_error, sites, tolerance

pytestmark = pytest.mark.usefixtures("no_pictures")
NONE = surgery.Options(rule=Thresholds(vo=1e9), scope="all", pairs=("vo",))
FAMILIES = [name for name in TINY if not name.endswith(("-unprefixed", "-wide-heads"))]
EXACT = torch.float64


def o_and_v(model: Any, site: Any) -> tuple[torch.Tensor, Any, torch.Tensor | None]:
    """A block's o as (outputs, contexts), o's bias, and v's bias a context."""
    module = model.get_submodule(site.path)
    groups = site.heads // site.kv_heads
    v, o = (module.get_submodule(name) for name in site.projections[2:])
    weight = o.weight.movedim(output_axis(o), 0)
    if v.bias is None:
        return weight, o.bias, None
    by_head = v.bias[outputs_of(site, 2)].view(site.kv_heads, -1).repeat_interleave(groups, 0)
    return weight, o.bias, by_head.flatten()


@torch.no_grad()
def without_values(model: Any) -> Any:
    """The model whose blocks say what is left where attention weights sum to one: a constant."""
    for site in sites(model):
        weight, bias, values = o_and_v(model, site)
        if bias is not None and values is not None:
            bias += weight @ values
        weight.zero_()
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_values_is_one_of_constants(name: str, tmp_path: Path) -> None:
    source, out = save_tiny(name, tmp_path / "source"), tmp_path / "out"
    report = surgery.absorb_decompose(source, out, options=NONE)
    assert all({*site.vo.ranks} == {0} for site in report.sites)
    assert report.savings[1].name == "vo" and report.savings[1].removed == 1
    assert any("keep no values" in note for note in report.notes)

    original = model_class(name).from_pretrained(source, dtype=EXACT)
    rounding = measured_rounding(original, torch.float32)
    expected = run(without_values(original))
    found = run(surgery.load(out, dtype=EXACT))
    assert relative_error(found, expected) <= 3 * rounding

    merged = surgery.merge(out, tmp_path / "merged")
    plain = run(model_class(name).from_pretrained(merged, dtype=EXACT))
    assert relative_error(found, plain) <= tolerance(EXACT)
    shapes = {key: one.shape for key, one in tensors_of(source).items()}
    assert {key: one.shape for key, one in tensors_of(merged).items()} == shapes
    assert surgery.verify(source, out, weights_only=True).sites


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2"])
def test_a_head_that_says_nothing_goes_whole_and_nothing_changes(name: str, tmp_path: Path) -> None:
    model: Any = surgery.load(save_tiny(name, tmp_path / "tiny"))
    with torch.no_grad():
        for site in sites(model):
            o_and_v(model, site)[0][:, -site.head_dim * site.heads // site.kv_heads :] = 0
    model.save_pretrained(tmp_path / "source")
    options = surgery.Options(rule=Energy(1.0), scope="all", pairs=("vo",), by_weights=True)
    report = surgery.absorb_decompose(tmp_path / "source", tmp_path / "out", options=options)
    assert all(site.vo.ranks[-1] == 0 < site.vo.ranks[0] for site in report.sites)
    original = surgery.load(tmp_path / "source", dtype=EXACT)
    found = run(surgery.load(tmp_path / "out", dtype=EXACT))
    assert relative_error(found, run(original)) <= 3 * measured_rounding(original, torch.float32)


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["sorsa", "hra", "core", "diagonal"])
def test_small_parts_go_where_there_is_something_to_stand_beside(
    name: str, method: str, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source")
    surgery.absorb_decompose(source, tmp_path / "cut", options=NONE)
    if method == "sorsa":
        report = surgery.split(tmp_path / "cut", tmp_path / "parts", rank=2)
    else:
        report = surgery.reparam(tmp_path / "cut", tmp_path / "parts", method=method)
    assert {one.role for one in report.linears} & {"q", "k", "q,k,v"}
    assert not {one.role for one in report.linears} & {"v", "o"}
    started = run(surgery.load(tmp_path / "parts", dtype=EXACT))
    bound = 10 * measured_rounding(surgery.load(source, dtype=EXACT), torch.float32)
    assert relative_error(started, run(surgery.load(tmp_path / "cut", dtype=EXACT))) <= bound
    merged = surgery.merge(tmp_path / "parts", tmp_path / "merged")
    assert relative_error(run(surgery.load(merged, dtype=EXACT)), started) <= bound


def test_a_model_with_a_block_of_constants_is_tuned(tmp_path: Path) -> None:
    source = save_spoken("llama", tmp_path / "source")
    surgery.absorb_decompose(source, tmp_path / "cut", options=NONE)
    (tmp_path / "text.txt").write_text(TEXT * 8)
    surgery.tune(
        tmp_path / "cut",
        tmp_path / "adapter",
        data=tmp_path / "text.txt",
        train="lora",
        preparation=surgery.Preparation(rank=2),
        options=surgery.TuneOptions(steps=2, batch=2, length=16, held_out=0.0),
    )
    before = run(surgery.load(tmp_path / "cut"))
    assert not torch.equal(run(surgery.load(tmp_path / "adapter")), before)
