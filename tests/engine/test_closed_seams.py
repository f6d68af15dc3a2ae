"""A seam that is closed stays as it was, says why, and stands in the way of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import surgery
from surgery.errors import UsageError
from surgery.methods import Energy, Remove
from tests import models
from tests.engine.spoken import TEXT, save_spoken
from tests.engine.support import config_of, measured_rounding, run, tensors_of
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")
NORMED = pytest.mark.parametrize("name", models.NORMED)
QUARTER = surgery.Options(rule=Remove(0.25), scope="all", by_weights=True)


@pytest.fixture
def source(name: str, tmp_path: Path) -> Path:
    return save_spoken(name, tmp_path / "source")


def dense_oracle(source: Path, pruned: Path) -> torch.Tensor:
    """Outputs of the original whose W_o W_v of every head is the truncated SVD, by plain loops."""
    model = surgery.load(source, dtype=torch.float64)
    sites = config_of(pruned)["surgery"]["operations"][0]["sites"]
    with torch.no_grad():
        for path, entry in sites.items():
            block = model.get_submodule(path)
            d, groups = entry["head_dim"], entry["heads"] // entry["kv_heads"]
            for kv, rank in enumerate(entry["v_ranks"]):
                heads = range(kv * groups, (kv + 1) * groups)
                value = block.v_proj.weight[kv * d : (kv + 1) * d]
                columns = [slice(h * d, (h + 1) * d) for h in heads]
                outs = torch.cat([block.o_proj.weight[:, each] for each in columns])
                u, s, vh = torch.linalg.svd(outs @ value, full_matrices=False)
                left = u[:, :d] * torch.where(torch.arange(d) < rank, s[:d], 0.0)
                value.copy_(vh[:d])
                for each, new in zip(columns, left.chunk(groups), strict=True):
                    block.o_proj.weight[:, each] = new
    return run(model)


@NORMED
def test_values_are_cut_as_the_dense_oracle_says_and_queries_stay(
    source: Path, tmp_path: Path
) -> None:
    report = surgery.absorb_decompose(source, tmp_path / "out", options=QUARTER)
    for site in report.sites:
        assert "QK-norm" in str(site.qk.untouched) and site.vo.untouched is None
        assert {*site.qk.ranks} == {site.qk.full_rank}
    assert report.savings[0].removed >= 0.25
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    for key in before:
        if "v_proj" not in key and "o_proj" not in key:
            assert torch.equal(after[key], before[key]), key
    pruned = surgery.load(tmp_path / "out", dtype=torch.float64)
    rounding = measured_rounding(surgery.load(source, dtype=torch.float64), torch.float32)
    assert relative_error(run(pruned), dense_oracle(source, tmp_path / "out")) <= 3 * rounding


@NORMED
def test_it_is_told_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    report = surgery.inspect(source)
    assert all("QK-norm" in str(site.qk.untouched) for site in report.sites)
    only = surgery.Options(rule=Energy(0.9), pairs=("qk",), by_weights=True)
    with pytest.raises(UsageError, match="vo, since qk is left exact here: QK-norm"):
        surgery.absorb_decompose(source, tmp_path / "out", options=only)
    assert not (tmp_path / "out").exists()


@NORMED
@pytest.mark.parametrize("method", ["sorsa", "pissa", "hra", "goft", "qgoft", "diagonal", "core"])
def test_small_parts_never_ask_and_merge_back(source: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "treated"
    if method in ("sorsa", "pissa"):
        surgery.split(source, out, method=method, rank=4)
    else:
        surgery.reparam(source, out, method=method)
    original = surgery.load(source, dtype=torch.float64)
    bound = 10 * measured_rounding(original, torch.float32)
    started = run(surgery.load(out, dtype=torch.float64))
    if method != "qgoft":
        assert relative_error(started, run(original)) <= bound
    merged = surgery.merge(out, tmp_path / "merged")
    assert relative_error(run(surgery.load(merged, dtype=torch.float64)), started) <= bound


@pytest.mark.parametrize(
    ("name", "to"),
    [
        (name, to)
        for name in models.NORMED
        for to in ("hf", "gguf")
        if to == "hf" or to in models.family_of(name).exports
    ],
)
def test_exports_hold_it_with_zeros_and_run(source: Path, tmp_path: Path, to: str) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
        pytest.importorskip("xllamacpp")
    surgery.absorb_decompose(source, tmp_path / "out", options=QUARTER)
    made = surgery.export_model(tmp_path / "out", to, tmp_path / "exported")
    assert made.kept == 0 and made.comparison is not None
    assert made.comparison.error is not None and made.comparison.error <= 1e-5
    assert "zeros" in (tmp_path / "exported" / "README.md").read_text()


@NORMED
def test_a_cut_is_tuned_verified_and_crosses_over_to_peft(source: Path, tmp_path: Path) -> None:
    surgery.absorb_decompose(source, tmp_path / "cut", options=QUARTER)
    assert surgery.verify(source, tmp_path / "cut").sites
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 8)
    surgery.tune(
        tmp_path / "cut",
        tmp_path / "adapter",
        data=text,
        train="sorsa",
        preparation=surgery.Preparation(rank=2),
        options=surgery.TuneOptions(steps=2, batch=2, length=16, held_out=0.0),
    )
    merged = surgery.merge(tmp_path / "adapter", tmp_path / "merged")
    trained = surgery.load(tmp_path / "adapter", dtype=torch.float64)
    found = relative_error(run(surgery.load(merged, dtype=torch.float64)), run(trained))
    rounding = measured_rounding(surgery.load(source, dtype=torch.float64), torch.float32)
    assert found <= 10 * rounding
