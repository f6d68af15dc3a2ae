"""Layers leave the stack: what is written is the stock class with fewer of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import surgery
from surgery.architectures.dropping import Layer
from surgery.calibration.without_layers import without_layers
from surgery.checkpoint.resolve import resolve
from surgery.engine.compress import compress as engine
from surgery.engine.compress.layers import choose_layers
from surgery.errors import CheckpointError, UsageError
from surgery.report.model.report import Report
from surgery.stored.shallower import ShallowerSource
from surgery.stored.stored import read_stored
from tests.engine.spoken import save_listener, save_spoken
from tests.engine.support import config_of, contents, run, save_tiny, tensors_of
from tests.engine.test_compress import text
from tests.export.whispers import save_openai

pytestmark = pytest.mark.usefixtures("no_pictures")


def deeper(directory: Path, times: int = 2) -> Path:
    """Give every layer of a saved model a scaled copy behind it: four layers in place of two."""
    tensors = tensors_of(directory)
    config = config_of(directory)
    grown = {}
    for name, tensor in tensors.items():
        words = name.split(".")
        at = next((at for at, word in enumerate(words) if word.isdigit()), None)
        if at is None:
            grown[name] = tensor
            continue
        for copy in range(times):
            words[at] = str(copy * config["num_hidden_layers"] + int(name.split(".")[at]))
            grown[".".join(words)] = tensor * (1 - 0.3 * copy)
    from safetensors.torch import save_file

    save_file(grown, directory / "model.safetensors", metadata={"format": "pt"})
    config["num_hidden_layers"] *= times
    if "layer_types" in config:
        config["layer_types"] *= times
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def llama(place: Path) -> Path:
    return deeper(save_spoken("llama", place / "source"))


def options(place: Path, **given: Any) -> surgery.CompressOptions:
    return surgery.CompressOptions(**{"calibrate": str(text(place)), "multiple": 4, **given})


def short(place: Path, **given: Any) -> Report:
    return surgery.compress(llama(place), place / "out", options=options(place, **given))


@pytest.mark.parametrize("name", ["gpt2", "bert", "qwen2", "llama"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_checkpoint_is_read_as_if_layers_were_not_there(
    name: str, sharded: bool, tmp_path: Path
) -> None:
    save_tiny(name, tmp_path / "source", sharded=sharded)
    with resolve(str(tmp_path / "source")) as source:
        stored = read_stored(source)
        scope: Any = "encoder" if name == "bert" else "decoder"
        view = ShallowerSource(stored, [Layer(scope, 0)])
        read_stored(view)  # every tensor has its role, and every shape is right
        new = {name: view.tensor(name) for name in view.infos}
        old = tensors_of(tmp_path / "source")
        assert len(new) < len(old)
        for given, tensor in new.items():
            there = given.replace(".0.", ".1.")
            assert torch.equal(tensor, old[there]) and view.raw(given) == source.raw(there)


def test_named_layers_leave_and_the_result_is_stock(tmp_path: Path) -> None:
    report = short(tmp_path, drop_layers="1,2")
    config = config_of(tmp_path / "out")
    assert config["num_hidden_layers"] == 2 and "auto_map" not in config
    source = surgery.load(tmp_path / "source")
    with without_layers(source, [Layer("decoder", 1), Layer("decoder", 2)]):
        expected = run(source)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(run(stock.eval()), expected)
    ffn = report.savings[0]
    assert ffn.stored == ffn.before // 2
    cache = next(one for one in report.quantities if "kv_bytes" in one.name)
    assert cache.after == cache.before / 2
    flops = next(one for one in report.quantities if one.name == "flops_whole_decoder")
    assert flops.after == flops.before / 2
    told = report.layers
    assert told is not None and told.order == "given" and told.towers[0].gone == [1, 2]
    held_out = None if report.calibration is None else report.calibration.held_out
    assert held_out is not None and held_out.error.value > 0
    operation = config["surgery"]["operations"][0]
    assert operation["provenance"]["dropped_layers"] == {"decoder": [1, 2]}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1–2; 2 of 4 stay" in card and "layers 1–2 of 4 left the stack" in card
    again = surgery.compress(
        tmp_path / "source", tmp_path / "out", options=options(tmp_path, drop_layers="1,2")
    )
    assert "Already done" in again.notes[0]


def test_a_whispers_towers_lose_layers_and_alignment_heads_follow(tmp_path: Path) -> None:
    source = save_listener(tmp_path / "source")
    path = source / "generation_config.json"
    generation = json.loads(path.read_text())
    path.write_text(json.dumps({**generation, "alignment_heads": [[0, 1], [1, 0]]}))
    chosen = surgery.CompressOptions(drop_layers="encoder:0,decoder:0", samples=4)
    surgery.compress(source, tmp_path / "out", options=chosen)
    made = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert made == {**generation, "alignment_heads": [[0, 0]]}
    config = config_of(tmp_path / "out")
    assert [config[key] for key in ("encoder_layers", "decoder_layers")] == [1, 1]
    whole = surgery.load(source)
    with without_layers(whole, [Layer("encoder", 0), Layer("decoder", 0)]):
        expected = run(whole)
    stock = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    assert torch.equal(run(stock.eval()), expected)
    last = surgery.CompressOptions(drop_layers="decoder:1", samples=4)
    report = surgery.compress(source, tmp_path / "last", options=last)
    assert json.loads((tmp_path / "last" / "generation_config.json").read_text())[
        "alignment_heads"
    ] == [[0, 1]]
    path.write_text(json.dumps({**generation, "alignment_heads": [[1, 0]]}))
    report = surgery.compress(source, tmp_path / "none", options=last)
    assert "alignment_heads" not in (tmp_path / "none" / "generation_config.json").read_text()
    assert any("words cannot be timed" in note for note in report.notes)


@pytest.mark.parametrize("sequential", [True, False])
def test_layers_count_towards_the_share_and_widths_make_up_the_rest(
    sequential: bool, tmp_path: Path
) -> None:
    given = {"drop_layers": "3", "remove": 0.4, "of": "ffn", "sequential": sequential}
    report = short(tmp_path, **given)
    ffn = report.savings[0]
    assert 0.35 <= ffn.removed <= 0.45
    assert len(report.feed_forward) == 3 and all(one.kept < 40 for one in report.feed_forward)
    assert config_of(tmp_path / "out")["intermediate_size"] == report.feed_forward[0].kept
    assert run(surgery.load(tmp_path / "out")).isfinite().all()
    enough = options(tmp_path, drop_layers="3", remove=0.2, of="ffn")
    report = surgery.compress(tmp_path / "source", tmp_path / "wide", options=enough)
    assert all(one.kept == 40 for one in report.feed_forward)
    found = surgery.verify(tmp_path / "source", tmp_path / "wide", weights_only=True)
    assert found.worst <= 1e-12 and not found.changed and len(found.sites) == 3


def test_trials_choose_and_an_interrupted_run_tries_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = short(tmp_path, layers="2")
    told = report.layers
    assert told is not None and len(told.steps) == 2 and len(told.steps[0].tried) == 4
    for step in told.steps:
        assert step.value == min(step.tried.values()) == step.tried[step.layer]
    whole = contents(tmp_path / "out")
    real = engine.price_of

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "price_of", interrupted)
    chosen = options(tmp_path, layers="2")
    with pytest.raises(KeyboardInterrupt):
        surgery.compress(tmp_path / "source", tmp_path / "more", options=chosen)
    monkeypatch.setattr(engine, "price_of", real)

    def choose(plan: Any, run_: Any, transaction: Any, progress: Any) -> Any:
        with monkeypatch.context() as nothing:
            nothing.setattr("surgery.calibration.witness.Witness.damage", interrupted)
            return choose_layers(plan, run_, transaction, progress)

    monkeypatch.setattr(engine, "choose_layers", choose)
    surgery.compress(tmp_path / "source", tmp_path / "more", options=chosen, resume=True)
    names = ("model.safetensors", "config.json")
    assert all((tmp_path / "more" / name).read_bytes() == whole[name] for name in names)


def test_influence_is_a_baseline(tmp_path: Path) -> None:
    told = short(tmp_path, layers="1", layer_order="influence").layers
    assert told is not None and told.order == "influence" and told.unit == ""
    assert told.steps[0].value == min(told.steps[0].tried.values())


def test_what_lost_layers_loses_more_and_is_compared_with_its_original(tmp_path: Path) -> None:
    short(tmp_path, drop_layers="1")
    chosen = options(tmp_path, drop_layers="1")
    surgery.compress(tmp_path / "out", tmp_path / "more", options=chosen)
    assert config_of(tmp_path / "more")["num_hidden_layers"] == 2
    found = surgery.verify(tmp_path / "source", tmp_path / "more", weights_only=True)
    assert found.worst <= 1e-12 and not found.changed  # without 1, then what was 2
    assert any("decoder: 1–2" in note for note in found.notes)
    nearer = surgery.verify(tmp_path / "out", tmp_path / "more", weights_only=True)
    assert nearer.worst <= 1e-12
    with pytest.raises(UsageError, match="nothing to merge"):
        surgery.merge(tmp_path / "more")
    cut = surgery.Options(rule=surgery.Remove(0.25), by_weights=True, pairs=("vo",))
    surgery.absorb_decompose(tmp_path / "more", tmp_path / "cut", options=cut)
    with pytest.raises(CheckpointError, match="not two forms of one model"):
        surgery.verify(tmp_path / "more", tmp_path / "source", weights_only=True)


def test_a_dry_run_counts_layers(tmp_path: Path) -> None:
    chosen = options(tmp_path, layers="2")
    report = surgery.compress(llama(tmp_path), tmp_path / "out", options=chosen, dry_run=True)
    assert report.savings[0].removed == 0.5 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"drop_layers": "4"}, "no such layer"),
        ({"drop_layers": "encoder:0"}, "no such layer"),
        ({"drop_layers": "0-3"}, "Nothing would stay"),
        ({"drop_layers": "first"}, "cannot be read"),
        ({"drop_layers": "1,1"}, "cannot be read"),
        ({"drop_layers": "cross:1"}, "cannot be read"),
        ({"layers": "4"}, "not so many layers"),
        ({"layers": "0"}, "cannot be read"),
        ({"layers": "1", "drop_layers": "1"}, "give one"),
        ({"layers": "1", "layer_order": "random"}, "--layer-order"),
    ],
)
def test_what_cannot_leave_is_refused(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        short(tmp_path, **given)
    assert not (tmp_path / "out").exists()


def test_a_tower_must_be_said_where_there_are_two(tmp_path: Path) -> None:
    source = save_listener(tmp_path / "source")
    with pytest.raises(UsageError, match="of which tower"):
        surgery.compress(source, options=surgery.CompressOptions(drop_layers="1"), dry_run=True)


def test_a_shallower_whisper_runs_in_ctranslate2_and_whisper_cpp(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    pytest.importorskip("pywhispercpp")
    chosen = surgery.CompressOptions(drop_layers="encoder:0,decoder:0", samples=2)
    surgery.compress(save_openai(tmp_path / "source", layers=2), tmp_path / "out", options=chosen)
    for target in ("ct2", "ggml"):  # whisper.cpp is compared by the text alone
        made = surgery.export_model(tmp_path / "out", target, tmp_path / target)
        assert made.comparison is not None and (made.comparison.error or 0) <= 1e-3


def test_a_shallower_llama_runs_in_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    short(tmp_path, drop_layers="1")
    made = surgery.export_model(tmp_path / "out", "gguf", tmp_path / "gguf")
    assert made.comparison is not None and (made.comparison.error or 0) <= 1e-5


def test_blocks_of_own_widths_keep_them_as_layers_leave(tmp_path: Path) -> None:
    ragged = {"layout": "ragged", "remove": 0.4, "of": "ffn"}
    report = short(tmp_path, **ragged, drop_layers="3")  # in one run
    widths = [block.kept for block in report.feed_forward]
    assert len(widths) == 3 and len(set(widths)) > 1
    chosen = options(tmp_path, drop_layers="0")  # and in two
    surgery.compress(tmp_path / "out", tmp_path / "more", options=chosen)
    first = surgery.load(tmp_path / "out")
    with without_layers(first, [Layer("decoder", 0)]):
        expected = run(first)
    assert torch.equal(run(surgery.load(tmp_path / "more")), expected)
    found = surgery.verify(tmp_path / "source", tmp_path / "more", weights_only=True)
    assert len(found.sites) == 2 and found.worst <= 1e-12
