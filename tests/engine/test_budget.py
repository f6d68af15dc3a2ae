"""Layers, attention and neurons in one budget: what is tried, what is chosen, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import surgery
from surgery.architectures.dropping import Layer
from surgery.calibration.without_layers import without_layers
from surgery.checkpoint.resolve import resolve
from surgery.engine.compress import compress as engine
from surgery.engine.compress import fit
from surgery.engine.compress.budget import Budget
from surgery.report.model.report import Report
from surgery.stored.stored import read_stored
from tests.engine.support import config_of, contents, run, tensors_of
from tests.engine.test_compress import options, priced, save
from tests.engine.test_layers import deeper
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")
ALL = ("qk", "vo", "ffn", "layers")


def source(place: Path, name: str) -> Path:
    directory = place / "source"
    if directory.exists():
        return directory
    made = save(name, directory)
    return deeper(made) if name in ("llama", "qwen2", "mistral", "olmo2", "qwen3") else made


def spend(place: Path, name: str = "llama", out: str = "out", **more: Any) -> Report:
    given = {"remove": 0.25, "of": "model", "multiple": 2, "layout": "ragged", "seams": ALL}
    resume = more.pop("resume", False)
    chosen = options(place, name, **{**given, **more})
    return surgery.compress(source(place, name), place / out, options=chosen, resume=resume)


def removed(place: Path, out: str = "out") -> float:
    before, after = (
        sum(each.numel() for each in tensors_of(place / one).values()) for one in ("source", out)
    )
    return 1 - after / before


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "gpt2",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("qwen2", "olmo2", "bert", "whisper")
        ),
    ],
)
def test_layers_and_attention_go_in_one_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = priced(monkeypatch)
    seams = ("vo", "ffn") if name == "olmo2" else ("qk", "vo", "ffn")
    layers = {"whisper": "encoder:0,decoder:1", "gpt2": "0", "bert": "1"}.get(name, "1")
    more = {"of": "ffn", "remove": 0.7} if name in ("gpt2", "bert") else {"remove": 0.4}
    report = spend(tmp_path, name, seams=seams, drop_layers=layers, **more)
    found = run(surgery.load(tmp_path / "out"))
    assert relative_error(found, tried[0]) <= 1e-5
    operations = config_of(tmp_path / "out")["surgery"]["operations"]
    assert [each["method"] for each in operations] == ["compress", "absorb-decompose"]
    assert operations[0]["provenance"]["dropped_layers"]
    attention = report.savings[0]
    with resolve(str(tmp_path / "source")) as whole:
        sites = read_stored(whole).claims.sites
        own = {name for site in sites for name in site.tensors()}
    assert attention.before == sum(tensors_of(tmp_path / "source")[each].numel() for each in own)
    assert len(report.sites) < len(sites)
    compared = surgery.verify(tmp_path / "source", tmp_path / "out", weights_only=True)
    assert len(compared.sites) >= len(report.sites)
    merged = surgery.merge(tmp_path / "out", tmp_path / "merged")
    assert relative_error(run(surgery.load(merged)), found) <= 1e-5


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("llama", "ragged"),
        ("qwen2", "model"),
        pytest.param("llama", "model", marks=pytest.mark.slow),
        pytest.param("qwen2", "ragged", marks=pytest.mark.slow),
        pytest.param("whisper", "model", marks=pytest.mark.slow),
        pytest.param("whisper", "ragged", marks=pytest.mark.slow),
    ],
)
def test_the_budget_finds_how_many_layers_leave(
    name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = priced(monkeypatch)
    seams = ("ffn", "layers") if layout == "model" else ALL
    choices: list[Any] = []
    real = engine.budget_report

    def budget_report(budget: Any, found: Any, output: Any) -> Any:
        choices.extend(found)
        return real(budget, found, output)

    monkeypatch.setattr(engine, "budget_report", budget_report)
    share = 0.15 if name == "whisper" else 0.25
    report = spend(tmp_path, name, layout=layout, seams=seams, remove=share)
    found = run(surgery.load(tmp_path / "out"))
    assert relative_error(found, tried[0]) <= 1e-5
    assert removed(tmp_path) == pytest.approx(share, abs=0.03)
    assert len({len(one.layers) for one in choices}) == len(choices) > 1
    measured = [one.measured for one in choices if one.measured is not None]
    assert len(measured) == 2 and measured[0] == min(measured)
    config = config_of(tmp_path / "out")
    gone = [layer for layer, _ in choices[0].layers]
    told = config["surgery"]["operations"][0]["provenance"].get("dropped_layers", {})
    assert sum(map(len, told.values())) >= len(gone)
    if layout == "model":
        assert "auto_map" not in config
        stock = getattr(transformers, config["architectures"][0])
        model = stock.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        assert torch.equal(run(model), found)
    assert report.calibration is not None and report.calibration.predicted is not None


@pytest.mark.slow
def test_an_interrupted_run_tries_and_fits_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(tmp_path)
    expected = contents(tmp_path / "out")

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "price_of", broken)
        with pytest.raises(KeyboardInterrupt):
            spend(tmp_path, out="resumed")
    with monkeypatch.context() as patch:
        patch.setattr("surgery.calibration.witness.Witness.damage", broken)
        patch.setattr(fit, "eliminate", broken)
        spend(tmp_path, out="resumed", resume=True)
    found = contents(tmp_path / "resumed")
    assert all(found[each] == expected[each] for each in ("model.safetensors", "config.json"))


def test_what_a_block_is_worth_is_tried_on_the_running_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, tuple[float, float]] = {}
    real = Budget._try_without

    def tried(self: Budget, name: str) -> None:
        real(self, name)
        heads, before = name.endswith("attn"), run(self.run.model)
        module = self.run.model.get_submodule(f"{name}.{'o_proj' if heads else 'down_proj'}")
        kept = module.weight.detach().clone()
        with torch.no_grad():
            module.weight.zero_()
            told[name] = self._blocks[name].costs[-1], self.heard.damage()
            module.weight.copy_(kept)
        assert torch.equal(run(self.run.model), before)

    monkeypatch.setattr(Budget, "_try_without", tried)
    spend(tmp_path, remove=0.45, seams=("qk", "vo", "ffn"))
    assert any("mlp" in name for name in told) and any("attn" in name for name in told)
    for found, naive in told.values():
        assert found == pytest.approx(naive, rel=1e-4, abs=1e-9)


def test_a_layer_of_which_nothing_stays_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = source(tmp_path, "llama")
    tensors = tensors_of(directory)
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.2.{part}.weight"].zero_()  # as it is, it adds nothing
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    report = spend(tmp_path, seams=("qk", "vo", "ffn"))
    assert config_of(tmp_path / "out")["num_hidden_layers"] == 3
    assert report.layers is not None and report.layers.towers[0].gone == [2]
    original = surgery.load(directory)
    with without_layers(original, [Layer("decoder", 2)]):
        shorter = run(original)
    assert relative_error(run(original), shorter) == 0
    assert removed(tmp_path) >= 0.24


def test_blocks_that_keep_their_moments_are_eliminated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    real = fit.eliminate

    def eliminate(*args: Any, **named: Any) -> Any:
        calls.append(args)
        return real(*args, **named)

    monkeypatch.setattr(fit, "eliminate", eliminate)
    report = spend(tmp_path, seams=("ffn",), sequential=False, remove=0.2)
    assert len(calls) == len(report.feed_forward)
