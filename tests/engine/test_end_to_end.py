"""From a directory to a smaller one that computes what its dense form computes.

The oracle of a pruned result is stock transformers on the merged checkpoint; the oracle of a
lossless one is the original model, and how far rounding alone takes it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from typer.testing import CliRunner

import surgery
from surgery.errors import CheckpointError, UsageError
from surgery.report.model.report import Report
from surgery.report.serialise import from_json, to_json
from surgery_cli.main import app
from tests.engine.support import (
    DTYPES,
    TOKENIZER,
    config_of,
    contents,
    head_products,
    measured_rounding,
    run,
    save_tiny,
    tensors_of,
)
from tests.models import ROTARY, TINY, model_class, tiny_model
from tests.runtime.naive import relative_error, sites, tolerance

RULES: dict[str, dict[str, Any]] = {
    "lossless": {"rule": surgery.Lossless()},
    "remove": {"rule": surgery.Remove(0.25), "by_weights": True},
    "per-pair": {"rule": surgery.Remove(0.25, per_pair=True), "by_weights": True},
    "energy": {"rule": surgery.Energy(0.9), "by_weights": True},
    "thresholds": {"rule": surgery.Thresholds(qk=0.5, vo=0.5)},
    "magnitude": {"rule": surgery.Remove(0.3), "baseline": "magnitude"},
}
LAYOUTS = ("ragged", "block", "tied")


def cases() -> list[Any]:
    """Every model with four of the rules; layouts, dtypes, shards and multiples go around."""
    found = []
    for i, model in enumerate(TINY):
        for j, rule in enumerate(RULES):
            if (i + j) % 3 == 1:
                continue
            layout = LAYOUTS[(2 * i + j) % 3]
            # One rank for QK and VO needs both to be cut, each by the other's measure.
            if layout == "tied" and (model in ROTARY or rule == "per-pair"):
                layout = "block"
            dtype = list(DTYPES)[(i + 2 * j) % 3]
            sharded, multiple = (i + j // 2) % 2 == 0, (1, 2)[(i + j) % 2]
            name = f"{model}-{rule}-{layout}-{dtype}-{'shards' if sharded else 'single'}-{multiple}"
            found.append(pytest.param(model, rule, layout, dtype, sharded, multiple, id=name))
    return found


def options(rule: str, **others: Any) -> surgery.Options:
    return surgery.Options(**{"scope": "all", **RULES[rule], **others})


def stock(directory: Path, name: str) -> Any:
    """Load with plain transformers, in float64."""
    return model_class(name).from_pretrained(directory, dtype=torch.float64)


@pytest.fixture
def operate(tmp_path: Path) -> Callable[..., Report]:
    def make(name: str, chosen: surgery.Options | None = None, **saved: Any) -> Report:
        save_tiny(name, tmp_path / "source", **saved)
        return surgery.absorb_decompose(tmp_path / "source", tmp_path / "out", options=chosen)

    return make


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("name", "rule", "layout", "dtype", "sharded", "multiple"), cases())
def test_a_result_runs_as_its_dense_form_and_saves_what_it_says(
    operate: Callable[..., Report],
    tmp_path: Path,
    name: str,
    rule: str,
    layout: str,
    dtype: str,
    sharded: bool,
    multiple: int,
) -> None:
    chosen = options(rule, layout=layout, multiple=multiple)
    report = operate(name, chosen, dtype=dtype, sharded=sharded)
    source, out = tmp_path / "source", tmp_path / "out"
    merged = surgery.merge(out, tmp_path / "merged")

    # It runs as the stock model of its dense form does.
    expected = run(stock(merged, name))
    found = run(surgery.load(out, dtype=torch.float64))
    assert relative_error(found, expected) <= tolerance(torch.float64)

    # The dense form has the original's shapes, dtypes, shards and configuration.
    before, after, dense = tensors_of(source), tensors_of(out), tensors_of(merged)
    shapes = {key: (value.shape, value.dtype) for key, value in before.items()}
    assert {key: (value.shape, value.dtype) for key, value in dense.items()} == shapes
    assert config_of(merged) == config_of(source)
    weights = sorted(path.name for path in source.glob("model[.-]*"))
    assert sorted(path.name for path in out.glob("model[.-]*")) == weights
    assert sorted(path.name for path in merged.glob("model[.-]*")) == weights

    # Nothing but attention was touched.
    attention = ("attn", "attention")
    for key, value in before.items():
        if not any(word in key for word in attention) or "LayerNorm" in key or "_norm" in key:
            assert torch.equal(after[key], value), key
            assert torch.equal(dense[key], value), key

    # The report counts what is in the files.
    model = next(saving for saving in report.savings if saving.name == "model")
    disk = next(one for one in report.quantities if one.name == "disk_bytes")
    assert (model.before, model.stored) == (_numel(before), _numel(after))
    assert (disk.before, disk.after) == (_nbytes(before), _nbytes(after))
    attention_saving = next(saving for saving in report.savings if saving.name == "attention")
    if rule == "lossless":
        assert model.removed == 0
        assert shapes == {key: (value.shape, value.dtype) for key, value in after.items()}
    elif rule in ("remove", "magnitude"):
        assert attention_saving.removed >= chosen.rule.fraction  # type: ignore[union-attr]
    for site in report.sites:
        for ranks in (site.qk.ranks, site.vo.ranks):
            assert all(rank % multiple == 0 or rank == site.head_dim for rank in ranks)
            if layout != "ragged":
                assert len(set(ranks)) == 1
        if layout == "tied":
            assert site.qk.ranks == site.vo.ranks


def _numel(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _nbytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("name", list(TINY))
def test_lossless_is_the_original_within_three_times_its_rounding(
    operate: Callable[..., Report], tmp_path: Path, name: str, dtype: str
) -> None:
    report = operate(name, surgery.Options(rule=surgery.Lossless()), dtype=dtype)
    for site in report.sites:
        assert max([*site.qk.exact_error, *site.vo.exact_error]) <= 1e-13
        # Entries round by eps/2 each, twice in a product.
        bound = 2 * torch.finfo(DTYPES[dtype]).eps
        assert max([*site.qk.cast_error, *site.vo.cast_error]) <= bound
    original = stock(tmp_path / "source", name)
    error = relative_error(run(surgery.load(tmp_path / "out", dtype=torch.float64)), run(original))
    assert error <= 3 * measured_rounding(original, DTYPES[dtype])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["whisper", "llama", "qwen2", "bert", "gpt2"])
def test_writing_another_dtype_rounds_once_and_says_so(
    operate: Callable[..., Report], tmp_path: Path, name: str
) -> None:
    chosen = surgery.Options(rule=surgery.Lossless(), dtype="float32")
    report = operate(name, chosen, dtype="fp16")
    before, after = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    for key in before:
        if "norm" in key.lower() or "ln_" in key or "mlp" in key or "fc" in key:
            assert torch.equal(after[key], before[key].float())
    config = config_of(tmp_path / "out")
    assert config.get("dtype", config.get("torch_dtype")) == "float32"
    disk = next(one for one in report.quantities if one.name == "disk_bytes")
    assert disk.after == _nbytes(after) == 2 * disk.before

    # fp16 weights are exact in float32, so only what surgery adds is left.
    original = stock(tmp_path / "source", name)
    error = relative_error(run(surgery.load(tmp_path / "out", dtype=torch.float64)), run(original))
    assert error <= 3 * measured_rounding(original, torch.float32)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("scope", ["encoder", "decoder", "cross", "all"])
@pytest.mark.parametrize("pairs", [("qk",), ("vo",), ("qk", "vo")], ids="+".join)
def test_only_the_scope_and_the_pairs_asked_for_change(
    operate: Callable[..., Report], tmp_path: Path, scope: Any, pairs: Any
) -> None:
    chosen = surgery.Options(rule=surgery.Remove(0.25), scope=scope, pairs=pairs, by_weights=True)
    report = operate("whisper", chosen)
    before, after = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "out")
    places = {"encoder": "encoder.layers", "decoder": "decoder.layers", "cross": "encoder_attn"}
    for key, value in before.items():
        inside = "_attn." in key and (
            scope == "all"
            or (
                (scope == "cross") == (places["cross"] in key)
                and (scope == "cross" or places[scope] in key)
            )
        )
        role = next(
            (role for role in ("q_proj", "k_proj", "v_proj", "out_proj") if role in key), ""
        )
        pair = "qk" if role in ("q_proj", "k_proj") else "vo"
        unchanged = value.shape == after[key].shape and torch.equal(value, after[key])
        assert unchanged == (not inside or pair not in pairs), key
    assert {site.scope for site in report.sites} == (
        {"encoder", "decoder", "cross"} if scope == "all" else {scope}
    )
    attention = next(saving for saving in report.savings if saving.name == "attention")
    cut = [site.vo if pairs == ("vo",) else site.qk for site in report.sites]
    assert all(pair.untouched is None for pair in cut)
    assert attention.removed > 0
    merged = surgery.merge(tmp_path / "out", tmp_path / "merged")
    expected, found = (
        run(stock(merged, "whisper")),
        run(surgery.load(tmp_path / "out", dtype="float64")),
    )
    assert relative_error(found, expected) <= tolerance(torch.float64)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["whisper", "llama-biased", "gpt2"])
def test_pruned_heads_are_the_best_of_their_rank(
    operate: Callable[..., Report], tmp_path: Path, name: str
) -> None:
    report = operate(name, options("remove"))
    merged = surgery.merge(tmp_path / "out", tmp_path / "merged")
    original, pruned = stock(tmp_path / "source", name), stock(merged, name)
    told_of = {site.path: site for site in report.sites}
    for site in sites(original):
        told = told_of[site.path]
        groups = site.heads // site.kv_heads
        both = zip(head_products(original, site), head_products(pruned, site), strict=True)
        for pair, (before, after) in zip((told.qk, told.vo), both, strict=True):
            if pair.untouched is not None:
                assert all(map(torch.equal, before, after))
                continue
            for kv, rank in enumerate(pair.ranks):
                mine = slice(kv * groups, (kv + 1) * groups)
                axis = 0  # one basis serves a group: its products stacked
                whole, kept = torch.cat(before[mine], axis), torch.cat(after[mine], axis)
                u, s, vh = torch.linalg.svd(whole)
                best = u[:, :rank] * s[:rank] @ vh[:rank]
                assert relative_error(kept, best) < 1e-6  # float32's rounding
                assert relative_error(kept, whole) == pytest.approx(
                    pair.cast_error[kv], rel=2
                )  # eight probes
                assert relative_error(best, whole) == pytest.approx(pair.cut_error[kv], rel=1e-5)


def test_everything_that_is_needed_comes_along(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    report = operate("whisper", options("remove"), dtype="fp16")
    out = tmp_path / "out"
    assert sorted(contents(out)) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_surgery.py",
        "report.html",
        "report.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    for file, text in TOKENIZER.items():
        assert (out / file).read_text() == text
    block = config_of(out)["surgery"]
    (operation,) = block["operations"]
    assert operation["method"] == "absorb-decompose"
    assert operation["options"]["remove"] == 0.25
    provenance = operation["provenance"]
    assert provenance["source"] == "source"
    assert set(provenance["versions"]) >= {"surgery", "torch", "transformers"}
    digest = hashlib.sha256((tmp_path / "source" / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["sha256"] == {"model.safetensors": digest}
    assert set(operation["sites"]) == {site.path for site in report.sites}
    written = config_of(out)
    assert written.pop("auto_map")
    assert written == config_of(tmp_path / "source") | {"surgery": block}

    stored = from_json((out / "report.json").read_text())
    assert to_json(stored) == (out / "report.json").read_text()
    assert stored.output == out.name  # wherever the directory is moved
    assert report.output == str(out)
    assert stored.seconds == {}
    assert "<svg" in (out / "report.html").read_text()
    assert digest in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_the_command_in_the_report_makes_the_same_again(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    first = operate("whisper", options("thresholds", layout="tied", multiple=4, dtype="bfloat16"))
    words = shlex.split(first.command or "")
    assert words[:2] == ["surgery", "absorb-decompose"]
    was = contents(tmp_path / "out")
    again = CliRunner().invoke(app, [*words[1:], "--force"])
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "out") == was


def test_the_source_is_never_written_to(operate: Callable[..., Report], tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source", sharded=True)
    was = contents(source)
    surgery.absorb_decompose(source, tmp_path / "out", options=options("energy"))
    assert contents(source) == was
    with pytest.raises(UsageError, match="replace the checkpoint"):
        surgery.absorb_decompose(source, source, force=True)
    with pytest.raises(UsageError, match="replace the checkpoint"):
        surgery.merge(tmp_path / "out", tmp_path / "out", force=True)
    assert contents(source) == was


def test_a_restructured_checkpoint_is_not_restructured_twice(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    operate("gpt2", options("remove"))
    with pytest.raises(CheckpointError, match="already") as caught:
        surgery.absorb_decompose(tmp_path / "out", tmp_path / "twice")
    assert str(tmp_path / "out") in (caught.value.hint or "")
    with pytest.raises(UsageError, match="dense already"):
        surgery.merge(tmp_path / "source", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_merge_names_its_result_after_the_directory(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    operate("gpt2", options("remove"))
    assert surgery.merge(f"{tmp_path / 'out'}/") == tmp_path / "out-merged"
    assert "surgery" not in config_of(tmp_path / "out-merged")
    assert not (tmp_path / "out-merged" / "report.json").exists()
    for file, text in TOKENIZER.items():
        assert (tmp_path / "out-merged" / file).read_text() == text


def test_half_precision_that_cannot_hold_the_result_is_refused(tmp_path: Path) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.value.bias.fill_(1e5)
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match="does not fit float16") as caught:
        surgery.absorb_decompose(
            tmp_path / "source",
            tmp_path / "out",
            options=surgery.Options(rule=surgery.Lossless(), dtype="float16"),
        )
    assert "attention.output.dense.bias" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing_and_tells_the_same(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "dry")
    asked = surgery.Options(by_weights=True)
    dry = surgery.absorb_decompose(source, tmp_path / "nothing", options=asked, dry_run=True)
    wet = surgery.absorb_decompose(source, tmp_path / "out", options=asked)
    assert not (tmp_path / "nothing").exists()
    assert dry.output is None
    assert dry.savings == wet.savings
    assert dry.quantities == wet.quantities


def test_transformers_generates_with_the_merged_model(
    operate: Callable[..., Report], tmp_path: Path
) -> None:
    operate("llama", options("remove"))
    surgery.merge(tmp_path / "out", tmp_path / "merged")
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    pruned: Any = surgery.load(tmp_path / "out")
    prompt = torch.tensor([[5, 9, 11]])
    sentence = dense.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(pruned.generate(prompt, max_new_tokens=12, do_sample=False), sentence)
