"""A tuned model learnt, only what was to move moved, and its adapter is what was trained."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import surgery
from surgery.choices.parts import PARTS
from surgery.micro.assets import DIRECTORY as MICRO
from surgery.micro.synthesis import SAMPLE_RATE, dial
from surgery.report.text.tuning import tuning_sentence
from surgery.runtime.linears import PartedLinear
from surgery.stored.adapter import read_adapter
from tests.engine.support import contents, run, tensors_of
from tests.models import model_class
from tests.runtime.naive import relative_error
from tests.training.runs import losses, save_model, trainers, tune, write_text

pytestmark = pytest.mark.usefixtures("quick")

D, KV, HEAD, MLP, LAYERS = 32, 16, 8, 40, 2  # of tests.models' LLaMA
ALL = ((D, D), (D, KV), (D, KV), (D, D), (D, MLP), (D, MLP), (MLP, D))  # q k v o gate up down
RANK = 8
COUNTS = {
    # A joint scale for every frequency pair of k, a singular value for every row of v.
    "diagonal": LAYERS * (KV // 2 + KV),
    # A block a head of k and v; up's 40 rows are one block, no wider than its 32 inputs.
    "core": LAYERS * (2 * KV * HEAD + 32**2 + 8**2),
    "sorsa": LAYERS * sum(RANK * (m + n + 1) for m, n in ALL),
    "pissa": LAYERS * sum(RANK * (m + n) for m, n in ALL),
    "lora": LAYERS * sum(RANK * (m + n) for m, n in ALL),
    "hra": LAYERS * 2 * RANK * D,  # q, v
    "goft": LAYERS * 4 * (D - 1),  # q, k, v, o
    "qgoft": LAYERS * 4 * 4 * (D - 1),
    "full": 48 * D * 2 + LAYERS * (sum(m * n for m, n in ALL) + 2 * D) + D,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny LLaMA and a text."""
    folder = tmp_path_factory.mktemp("made")
    save_model("llama", folder / "model")
    write_text(folder / "text.jsonl")
    return folder


@pytest.mark.parametrize("method", PARTS)
def test_the_adapter_is_the_model_that_was_trained(
    method: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, out = contents(made), tmp_path / "tuned"
    with trainers(monkeypatch) as seen:
        report = tune(made / "model", out, made / "text.jsonl", train=method)
    found = losses(report)
    assert len(found) == 3 and found[0] > found[1] > found[2]
    assert contents(made) == before

    model: Any = seen[0].model.eval()
    expected = run(model.get_base_model() if method == "lora" else model)
    start = run(surgery.load(made / "model"))
    assert relative_error(expected, start) > 1e-3
    assert torch.equal(run(surgery.load(out)), expected) or method == "lora"
    # PEFT adds its product in another order of operations: float32, some ten products deep.
    assert relative_error(run(surgery.load(out)), expected) < 1e-5
    merged = model_class("llama").from_pretrained(surgery.merge(out, tmp_path / "merged"))
    # Merged in float64 and rounded to float32 once; the blocks' products are short.
    assert relative_error(run(merged), expected) < 1e-5

    assert report.trainable is not None
    assert report.trainable.trainable == COUNTS[method]
    assert read_adapter(out).trained == {"method": method, "parameters": COUNTS[method]}
    assert sum(t.numel() for t in tensors_of(out).values()) == COUNTS[method]
    assert {path.name for path in out.iterdir()} - {"base"} == {
        *("adapter.json", "adapter.safetensors", "report.json", "report.html", "README.md")
    }
    assert (out / "base").is_dir() == (method not in ("lora", "full"))


@pytest.mark.parametrize("method", ["sorsa", "lora"])
def test_only_what_is_trained_moves(
    method: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trainers(monkeypatch) as seen:
        tune(made / "model", tmp_path / "tuned", made / "text.jsonl", train=method)
    model: Any = seen[0].model.get_base_model() if method == "lora" else seen[0].model
    base = tmp_path / "tuned" / "base" if method == "sorsa" else made / "model"
    start = {name.replace(".base_layer", ""): t for name, t in model.state_dict().items()}
    part = ("lora_", ".sorsa_")
    frozen = {name: t for name, t in start.items() if not any(each in name for each in part)}
    stored = {name: t for name, t in tensors_of(base).items() if ".sorsa_" not in name}
    assert frozen.keys() == stored.keys()
    for name, tensor in frozen.items():
        assert torch.equal(tensor, stored[name]), name


def test_biases_and_norms_move_where_they_are_asked_for(tmp_path: Path) -> None:
    model = save_model("llama-biased", tmp_path / "model")
    data = write_text(tmp_path / "text.jsonl")
    asked: dict[str, Any] = {"train": "diagonal", "also": ("biases", "norms")}
    report = tune(model, tmp_path / "tuned", data, **asked)
    names = ("q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias", "norm.weight")
    names = (*names, "input_layernorm.weight", "post_attention_layernorm.weight")
    base, tuned = tensors_of(tmp_path / "tuned" / "base"), tensors_of(tmp_path / "tuned")
    beside = {name for name in base if name.endswith(names)}
    assert tuned.keys() == beside | {name for name in base if name.endswith("singular_values")}
    for name in beside:
        # The keys' bias is before RoPE, so that it acts.
        assert not torch.equal(base[name], tuned[name]), name
    assert report.trainable is not None
    assert report.trainable.trainable == sum(tensor.numel() for tensor in tuned.values())


@pytest.mark.parametrize(
    "saving",
    [{"precision": "bf16"}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}],
    ids=["mixed precision", "16-bit weights", "activations computed anew"],
)
def test_saving_memory_changes_the_losses_by_rounding_only(
    saving: dict[str, Any], made: Path, tmp_path: Path
) -> None:
    usual, saved = (
        losses(tune(made / "model", tmp_path / name, made / "text.jsonl", train="sorsa", **options))
        for name, options in (("usual", {}), ("saved", saving))
    )
    # bfloat16 rounds to 2⁻⁹; the losses are means over hundreds of tokens near 4.
    tolerance = 1e-6 if "gradient_checkpointing" in saving else 2e-2
    assert saved == pytest.approx(usual, rel=tolerance)
    assert all(t.dtype == torch.float32 for t in tensors_of(tmp_path / "saved").values())


def test_the_last_step_is_told_however_seldom_steps_are_logged(made: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"train": "goft", "steps": 2, "log_every": 10}
    report = tune(made / "model", tmp_path / "out", made / "text.jsonl", **asked)
    assert report.tuning is not None
    assert [one.step for one in report.tuning.steps] == [1, 2]
    assert " for 2 steps on " in tuning_sentence(report, report.tuning)


def test_what_is_logged_is_kept_for_tensorboard(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str, int]] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            self.place = Path(log_dir).name
            Path(log_dir).mkdir(exist_ok=True)
            (Path(log_dir) / "events").touch()

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((self.place, name, step))

        def add_text(self, *_: object) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    for module in ("surgery.training.tensorboard", "transformers.integrations.integration_utils"):
        monkeypatch.setattr(f"{module}.is_tensorboard_available", lambda: True)
    asked: dict[str, Any] = {"train": "sorsa", "tensorboard": True}
    tune(made / "model", tmp_path / "out", made / "text.jsonl", **asked)
    for name in ("train/loss", "train/penalty", "train/defect"):
        assert [("tensorboard", name, step) in written for step in (1, 2, 3)] == [True] * 3
    assert (tmp_path / "out" / "tensorboard" / "events").exists()


def recordings(folder: Path, count: int) -> Path:
    """Digits that whisper-micro was not trained on, and is not tested on."""
    folder.mkdir()
    lines = []
    for number in range(count):
        clip = dial(3_000_000 + number)
        soundfile.write(folder / f"{number:02}.wav", clip.audio, SAMPLE_RATE)
        lines.append(f"{number:02}.wav\t{clip.text}\n")
    (folder / "transcripts.tsv").write_text("".join(lines))
    return folder


def test_a_pruned_whisper_heals(tmp_path: Path) -> None:
    half = surgery.Options(rule=surgery.Remove(0.5), by_weights=True)
    surgery.absorb_decompose(MICRO, tmp_path / "pruned", options=half)
    clips = recordings(tmp_path / "clips", 10)
    report = tune(
        tmp_path / "pruned",
        tmp_path / "healed",
        clips,
        batch=8,
        held_out=0.2,
        evaluate_every=3,
        length=None,
    )
    tuning = report.tuning
    assert tuning is not None and (tuning.method, tuning.recipe) == ("core", "clover")
    assert tuning.steps[-1].loss < tuning.steps[0].loss
    assert [look.step for look in tuning.held_out] == [0, 3]
    assert tuning.held_out[-1].loss < tuning.held_out[0].loss
    assert all(look.wer is not None and math.isfinite(look.wer) for look in tuning.held_out)
    assert {row.metric for row in report.measurements} == {"wer", "held_out_loss"}
    # Back to a pruned checkpoint of the same shapes: no inference cost.
    surgery.merge(tmp_path / "healed", tmp_path / "final", steps=1)
    assert {name: tensor.shape for name, tensor in tensors_of(tmp_path / "final").items()} == {
        name: tensor.shape for name, tensor in tensors_of(tmp_path / "pruned").items()
    }
    model = surgery.load(tmp_path / "final")
    assert not any(isinstance(module, PartedLinear) for module in model.modules())
    # What it learnt from does not measure it.
    with pytest.raises(surgery.errors.UsageError, match="some of the data"):
        surgery.evaluate(tmp_path / "healed", clips, limit=1)
