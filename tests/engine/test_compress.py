"""A narrower model is a stock model, and computes what was tried and priced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import surgery
from surgery.calibration import feed_forward
from surgery.checkpoint.resolve import resolve
from surgery.engine.compress import compress as engine
from surgery.engine.compress.in_place import compressed
from surgery.engine.compress.plan import make_plan
from surgery.errors import CheckpointError, UsageError
from surgery.report.model.report import Report
from tests.engine.spoken import OTHER_TEXT, TEXT, save_listener, save_spoken
from tests.engine.support import DTYPES, config_of, contents, run, tensors_of
from tests.runtime.naive import relative_error, tolerance

pytestmark = pytest.mark.usefixtures("no_pictures")
WIDTHS = {
    "llama": "intermediate_size",
    "mistral": "intermediate_size",
    "qwen2": "intermediate_size",
    "qwen3": "intermediate_size",
    "olmo2": "intermediate_size",
    "gpt2": "n_inner",
    "bert": "intermediate_size",
    "whisper": "encoder_ffn_dim",
}


def save(name: str, directory: Path, dtype: str = "fp32") -> Path:
    if name == "whisper":
        return save_listener(directory, dtype=dtype)
    return save_spoken(name, directory, dtype=dtype)


def text(directory: Path) -> Path:
    path = directory / "text.txt"
    path.write_text(TEXT * 30)
    return path


def options(place: Path, name: str, **more: Any) -> surgery.CompressOptions:
    data = "shipped" if name == "whisper" else str(text(place))
    samples = 8 if name == "whisper" else None
    given = {"remove": 0.3, "of": "ffn", "multiple": 4, "calibrate": data, "samples": samples}
    return surgery.CompressOptions(**{**given, **more})


def small(place: Path, name: str, dtype: str = "fp32", **more: Any) -> Report:
    source = save(name, place / "source", dtype)
    return surgery.compress(source, place / "out", options=options(place, name, **more))


def priced(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return a list that gets what the model says as it is when it is priced."""
    tried: list[torch.Tensor] = []
    real = engine.price_of

    def price_of(plan: Any, run_: Any, fitted: Any, cut: Any, *rest: Any) -> Any:
        with compressed(run_.model, plan, fitted.result, cut):
            tried.append(run(run_.model))
        return real(plan, run_, fitted, cut, *rest)

    monkeypatch.setattr(engine, "price_of", price_of)
    return tried


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "fp32") for name in WIDTHS), ("llama", "bf16"), ("gpt2", "bf16")]
)
def test_the_result_is_a_stock_checkpoint_and_computes_what_was_priced(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = priced(monkeypatch)
    report = small(tmp_path, name, dtype)
    assert 0.2 < report.savings[0].removed < 0.4
    config = config_of(tmp_path / "out")
    kept = {one.kept for one in report.feed_forward if one.scope != "decoder" or name != "whisper"}
    assert {config[WIDTHS[name]]} == kept and "auto_map" not in config
    stock = getattr(transformers, config["architectures"][0])
    model = stock.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert sum(each.numel() for each in tensors_of(tmp_path / "out").values()) < sum(
        each.numel() for each in tensors_of(tmp_path / "source").values()
    )
    error = relative_error(run(model), tried[0])
    assert error <= tolerance(torch.float32) + 64 * torch.finfo(DTYPES[dtype]).eps
    assert torch.equal(run(surgery.load(tmp_path / "out")), run(model))
    told = report.calibration
    assert told is not None and told.held_out is not None and told.held_out.error.value > 0
    for one in report.feed_forward:
        assert 0 <= one.fitted_error <= one.deleted_error * (1 + 1e-9)


@pytest.mark.parametrize("name", list(WIDTHS))
def test_deleting_by_magnitude_is_zeroing_columns_of_the_dense_model(
    name: str, tmp_path: Path
) -> None:
    report = small(tmp_path, name, order="magnitude", refit=False, sequential=False)
    with resolve(str(tmp_path / "source")) as source:
        sites = make_plan(source, options(tmp_path, name)).sites
    oracle = surgery.load(tmp_path / "source")
    state = oracle.state_dict()
    with torch.no_grad():
        for site, told in zip(sites, report.feed_forward, strict=True):
            weight = state[site.down.weight]
            columns = weight.T if not site.down.transposed else weight  # one neuron a row
            norms = [float(row.double().norm()) for row in columns]
            for neuron in sorted(range(len(norms)), key=norms.__getitem__)[
                : told.before - told.kept
            ]:
                columns[neuron] = 0.0
    assert relative_error(run(surgery.load(tmp_path / "out")), run(oracle)) <= 1e-5


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path, "llama")
    whole = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    real, seen = feed_forward.NeuronSums.moments, []

    def moments(self: Any, where: str) -> Any:
        seen.append(where)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self, where)

    monkeypatch.setattr(feed_forward.NeuronSums, "moments", moments)
    chosen = options(tmp_path, "llama")
    with pytest.raises(KeyboardInterrupt):
        surgery.compress(tmp_path / "source", tmp_path / "out", options=chosen)
    assert not (tmp_path / "out").exists()
    surgery.compress(tmp_path / "source", tmp_path / "out", options=chosen, resume=True)
    assert seen == [seen[0], seen[1], seen[1]]
    assert contents(tmp_path / "out") == whole


def test_sequential_calibration_is_of_what_earlier_cuts_leave(tmp_path: Path) -> None:
    together = small(tmp_path / "a", "llama", sequential=False)
    one_by_one = small(tmp_path / "b", "llama", sequential=True)
    first, last = together.feed_forward[0], together.feed_forward[-1]
    assert one_by_one.feed_forward[0].fitted_error == pytest.approx(first.fitted_error)
    assert one_by_one.feed_forward[-1].fitted_error != pytest.approx(last.fitted_error, rel=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", pytest.param("whisper", marks=pytest.mark.slow)])
def test_anchored_blocks_come_nearer_to_what_the_original_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows that both are fitted to, where the least squares have the last word."""
    tried = priced(monkeypatch)
    free = small(tmp_path / "a", name)
    anchored = small(tmp_path / "b", name, anchor=True)
    assert relative_error(run(surgery.load(tmp_path / "b" / "out")), tried[-1]) <= 1e-5
    first = free.feed_forward[0].path
    for one, other in zip(free.feed_forward, anchored.feed_forward, strict=True):
        assert (one.fitted_error == other.fitted_error) == (one.path == first)


@pytest.mark.parametrize("against", ["sequential", "refit"])
def test_anchored_without_what_it_needs_is_refused(against: str) -> None:
    with pytest.raises(UsageError, match="one behind the other"):
        surgery.CompressOptions(anchor=True, **{against: False})


def test_what_is_there_is_not_made_again_and_what_is_dense_is_asked_for(tmp_path: Path) -> None:
    small(tmp_path, "llama")
    again = surgery.compress(
        tmp_path / "source", tmp_path / "out", options=options(tmp_path, "llama")
    )
    assert "Already done" in again.notes[0]


def test_what_was_narrowed_is_cut_and_narrowed_further(tmp_path: Path) -> None:
    small(tmp_path, "llama")
    narrower = surgery.compress(
        tmp_path / "out", tmp_path / "more", options=options(tmp_path, "llama")
    )
    assert narrower.feed_forward[0].before < 40
    quarter = surgery.Options(rule=surgery.Remove(0.25), by_weights=True, pairs=("vo",))
    report = surgery.absorb_decompose(tmp_path / "more", tmp_path / "cut", options=quarter)
    assert report.savings[0].removed >= 0.12  # of all attention: a quarter of VO
    block = config_of(tmp_path / "cut")["surgery"]["operations"]
    assert [each["method"] for each in block] == ["compress", "compress", "absorb-decompose"]
    merged = surgery.merge(tmp_path / "cut", tmp_path / "merged", steps=1)
    before = run(surgery.load(tmp_path / "cut"))
    assert relative_error(run(surgery.load(merged)), before) <= 1e-4
    with pytest.raises(CheckpointError, match="operated on already"):
        surgery.compress(tmp_path / "cut", tmp_path / "no", options=options(tmp_path, "llama"))


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    source = save("whisper", tmp_path / "source")
    report = surgery.compress(
        source, tmp_path / "out", options=options(tmp_path, "whisper"), dry_run=True
    )
    assert not (tmp_path / "out").exists() and report.calibration is None
    assert 0.2 < report.savings[0].removed < 0.4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"remove": 0.99, "of": "model"}, "at most"),
        ({"remove": 0.0}, "--remove is out of range"),
        ({"remove": 1.5}, "--remove is out of range"),
        ({"order": "best"}, "--order"),
        ({"of": "attention"}, "--of"),
        ({"layout": "tied"}, "--layout"),
        ({"multiple": 0}, "--multiple"),
        ({"ridge": float("nan")}, "--ridge"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_runs(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        small(tmp_path, "llama", **given)
    assert not (tmp_path / "out").exists()


def test_data_that_it_was_calibrated_on_measures_nothing(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "source")
    chosen = options(tmp_path, "llama")
    with pytest.raises(UsageError, match="calibrated on some of the data"):
        surgery.compress(source, tmp_path / "out", options=chosen, data=chosen.calibrate)
    other = tmp_path / "other.txt"
    other.write_text(OTHER_TEXT)
    report = surgery.compress(source, tmp_path / "out", options=chosen, data=other)
    assert report.measurements


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", pytest.param("whisper", marks=pytest.mark.slow)]
)
def test_it_is_verified_evaluated_exported_and_tuned_like_any_other(
    name: str, tmp_path: Path
) -> None:
    small(tmp_path, name)
    found = surgery.verify(tmp_path / "source", tmp_path / "out", weights_only=True)
    assert found is not None
    made = surgery.export_model(tmp_path / "out", "hf", tmp_path / "hf")
    assert made.comparison is not None and made.comparison.error is not None
    assert made.comparison.error <= 1e-5
    if name != "whisper":
        pytest.importorskip("gguf")
        pytest.importorskip("xllamacpp")
        other = surgery.export_model(tmp_path / "out", "gguf", tmp_path / "gguf")
        assert other.comparison is not None and (other.comparison.error or 0) <= 1e-5
    split = surgery.split(tmp_path / "out", tmp_path / "split", rank=2)
    assert split.linears
    merged = surgery.merge(tmp_path / "split", tmp_path / "merged")
    before = run(surgery.load(tmp_path / "out"))
    assert relative_error(run(surgery.load(merged)), before) <= 1e-4
    block = json.loads((tmp_path / "split" / "config.json").read_text())["surgery"]
    assert [each["method"] for each in block["operations"]] == ["compress", "sorsa"]
