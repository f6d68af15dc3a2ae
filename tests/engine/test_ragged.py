"""Blocks of different widths, from the command to every other command and runtime."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import surgery
from surgery.calibration import feed_forward
from surgery.errors import UsageError
from surgery.report.model.report import Report
from surgery.report.text.feed_forward import narrower_sentence
from surgery.report.text.feed_forward_tables import tower_rows
from tests.engine.support import config_of, contents, run, save_tiny, tensors_of
from tests.engine.test_compress import WIDTHS, options, priced, save
from tests.export.whispers import save_openai
from tests.ragged import make_ragged
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")


def ragged(place: Path, name: str, **more: Any) -> Report:
    source = save(name, place / "source")
    chosen = options(place, name, layout="ragged", **more)
    return surgery.compress(source, place / "out", options=chosen)


@pytest.mark.parametrize("name", list(WIDTHS))
def test_a_ragged_result_computes_what_was_priced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = priced(monkeypatch)
    multiple = 8 if name == "olmo2" else 2  # an odd number of steps: its two blocks are alike
    report = ragged(tmp_path, name, multiple=multiple)
    before, config = config_of(tmp_path / "source"), config_of(tmp_path / "out")
    told = config["surgery"]["operations"][0]["sites"]
    kept = {one.path: one.kept for one in report.feed_forward}
    assert len({*kept.values()}) > 1
    assert told.items() <= {path: {"neurons": width} for path, width in kept.items()}.items()
    towers: dict[str, set[int]] = {}
    for one in report.feed_forward:
        towers.setdefault(one.scope, set()).add(one.kept)
    uneven = {one.path for one in report.feed_forward if len(towers[one.scope]) > 1}
    assert {*told} == uneven
    if name != "whisper":
        assert config[WIDTHS[name]] == before[WIDTHS[name]]
    assert 0.2 < report.savings[0].removed < 0.4
    assert relative_error(run(surgery.load(tmp_path / "out")), tried[0]) <= 1e-5
    assert "auto_map" in config and (tmp_path / "out" / "modeling_surgery.py").is_file()
    for one in report.feed_forward:
        assert 0 <= one.fitted_error <= one.deleted_error * (1 + 1e-9)


def test_remote_code_runs_it_without_this_package(tmp_path: Path) -> None:
    report = ragged(tmp_path, "llama", remove=0.5)
    assert min(one.kept for one in report.feed_forward) < 20
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    assert torch.equal(run(model.eval()), run(surgery.load(tmp_path / "out")))


@pytest.mark.parametrize("stops", [1, 3], ids=["while pricing", "while fitting"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    stops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ragged(tmp_path, "llama")
    whole = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    real, seen = feed_forward.NeuronSums.moments, []

    def moments(self: Any, where: str) -> Any:
        seen.append(where)
        if len(seen) == stops + 1:
            raise KeyboardInterrupt
        return real(self, where)

    monkeypatch.setattr(feed_forward.NeuronSums, "moments", moments)
    chosen = options(tmp_path, "llama", layout="ragged")
    with pytest.raises(KeyboardInterrupt):
        surgery.compress(tmp_path / "source", tmp_path / "out", options=chosen)
    surgery.compress(tmp_path / "source", tmp_path / "out", options=chosen, resume=True)
    assert len(seen) == 5  # of two blocks priced and fitted, one twice
    assert contents(tmp_path / "out") == whole


def test_widths_that_come_out_equal_are_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("surgery.engine.compress.budget")

    def alike(blocks: Any, _: Any) -> Any:
        return [block.step(name, block.widths[0], 28) for name, block in blocks.items()]

    monkeypatch.setattr(module, "cheapest_steps", alike)
    ragged(tmp_path, "llama")
    config = config_of(tmp_path / "out")
    assert config["intermediate_size"] == 28 and "auto_map" not in config
    assert config["surgery"]["operations"][0]["sites"] == {}


def test_a_dry_run_says_that_widths_are_not_known(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "source")
    chosen = options(tmp_path, "llama", layout="ragged")
    report = surgery.compress(source, tmp_path / "out", options=chosen, dry_run=True)
    assert any("only how much goes is known" in note for note in report.notes)
    (saving,) = report.savings
    ffn = 2 * 3 * 40 * 32  # of two blocks
    assert saving.name == "model" and saving.before - saving.stored == pytest.approx(0.3 * ffn)
    text = narrower_sentence(report)
    assert "real input will say" in text and "neurons" not in text
    assert {row["kept"] for row in tower_rows(report)} == {"—"} and not report.quantities


@pytest.mark.slow
def test_what_was_narrowed_is_narrowed_again_cut_and_merged(tmp_path: Path) -> None:
    ragged(tmp_path, "llama")
    chosen = options(tmp_path, "llama")
    surgery.compress(tmp_path / "out", tmp_path / "more", options=chosen)
    sites = config_of(tmp_path / "more")["surgery"]["operations"][1]["sites"]
    last = {path: one["neurons"] for path, one in sites.items()}
    for path, width in last.items():
        assert tensors_of(tmp_path / "more")[f"{path}.up_proj.weight"].shape[0] == width
    quarter = surgery.Options(rule=surgery.Remove(0.25), by_weights=True, pairs=("vo",))
    surgery.absorb_decompose(tmp_path / "out", tmp_path / "cut", options=quarter)
    cut = run(surgery.load(tmp_path / "cut"))
    merged = surgery.merge(tmp_path / "cut", tmp_path / "merged")
    assert relative_error(run(surgery.load(merged)), cut) <= 1e-4
    block = config_of(merged)["surgery"]["operations"]
    assert [each["method"] for each in block] == ["compress"]
    assert "stay as narrow" in (merged / "README.md").read_text()
    with pytest.raises(UsageError, match="nothing to merge"):
        surgery.merge(merged, tmp_path / "no")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_it_is_verified_split_and_written_stock(name: str, tmp_path: Path) -> None:
    source = save(name, tmp_path / "source")
    directory = make_ragged(source, tmp_path / "out", (0, 17, 23), zeroed=tmp_path / "zeroed")
    found = surgery.verify(source, directory, weights_only=True)
    assert found.notes
    made = surgery.export_model(directory, "hf", tmp_path / "hf")
    assert made.comparison is not None and (made.comparison.error or 0) <= 1e-5
    assert config_of(tmp_path / "hf")[WIDTHS[name]] == 17
    assert made.kept is not None and 0 < made.kept < 1
    split = surgery.split(directory, tmp_path / "split", rank=2)
    assert split.linears
    narrow = json.loads((tmp_path / "split" / "config.json").read_text())["surgery"]["operations"]
    assert [each["method"] for each in narrow] == ["compress", "sorsa"]
    expected = run(surgery.load(tmp_path / "zeroed"))
    merged = surgery.merge(tmp_path / "split", tmp_path / "merged")
    for one in (tmp_path / "split", merged):
        assert relative_error(run(surgery.load(one)), expected) <= 1e-4


def test_every_runtime_says_what_it_does_with_it(tmp_path: Path) -> None:
    source = save("whisper", tmp_path / "source")
    make_ragged(source, tmp_path / "out", (0, 17, 23, 48))
    routes = {one.target: one.fit for one in surgery.export_routes(tmp_path / "out")}
    assert routes[""].kept == 1 and 0.9 < (routes["ct2"].kept or 0) < 1
    other = routes["openai-whisper"]
    assert other.kept == 0 and "filled up with zeros" in other.form
    assert other.remedy is not None and "--to ct2" in other.remedy
    assert 0 < (routes["hf"].kept or 0) < 1 and "as wide as the widest" in routes["hf"].form


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # openai-whisper's vocabulary file
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("target", "needs", "kept"),
    [("ct2", "ctranslate2", 0.99), ("openai-whisper", "whisper", 0), ("ggml", "pywhispercpp", 0)],
)
def test_a_ragged_whisper_runs_elsewhere(
    target: str, needs: str, kept: float, tmp_path: Path
) -> None:
    pytest.importorskip(needs)
    if target == "ggml":
        source = save_openai(tmp_path / "source")
    else:
        source = (save if target == "ct2" else save_tiny)("whisper", tmp_path / "source")
    make_ragged(source, tmp_path / "out", (0, 17, 23, 48))
    made = surgery.export_model(tmp_path / "out", target, tmp_path / "made")
    assert made.comparison is not None and (made.comparison.error or 0) <= 1e-4
    assert made.kept == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize(
    ("name", "arch"), [("llama", "deci"), ("qwen2", "deci"), ("qwen3", "qwen3")]
)
def test_a_ragged_decoder_runs_in_llama_cpp(name: str, arch: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    source = save(name, tmp_path / "source")
    make_ragged(source, tmp_path / "out", (0, 17))
    made = surgery.export_model(tmp_path / "out", "gguf", tmp_path / "made")
    assert f"architecture {arch}" in made.form
    assert made.comparison is not None and 0 < (made.comparison.error or 0) <= 1e-5
