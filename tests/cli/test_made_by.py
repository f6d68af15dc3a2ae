"""The command that a result was made by makes it again, and tells no path of this machine."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import surgery
from surgery.choices.option import options_of, spelled
from surgery.choices.places import given_path, model_name
from surgery.choices.rules import MaxError, Remove, Rule, Thresholds, UpTo
from surgery.engine.compress.options import CompressOptions
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.options import Options
from surgery.engine.parts.factor_options import FactorOptions
from surgery.engine.parts.linear_options import LinearOptions, treatment_of
from surgery.errors import UsageError
from surgery.training.options import TuneOptions
from surgery.training.preparation import Preparation
from surgery_cli.main import app
from tests.engine.support import contents
from tests.training.runs import save_model


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reaches the library, which does nothing."""
    told: dict[str, Any] = {}

    def stand_in(*_: Any, **given: Any) -> None:
        told.update(given)
        raise UsageError("heard")

    for name in ("absorb_decompose", "compress", "split", "reparam", "tune"):
        monkeypatch.setitem(vars(surgery), name, stand_in)
    return told


def run(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    assert "heard" in done.output, done.output


CUTS: list[tuple[Rule | None, dict[str, Any]]] = [
    (Remove(0.25, per_pair=True), {"layout": "tied", "pairs": ("qk", "vo"), "multiple": 8}),
    (Remove(0.3, of="tower"), {"by_weights": True, "scope": "cross", "dtype": "float16"}),
    (Thresholds(1e-3, None), {}),
    (None, {"preset": "paper"}),
    (UpTo(0.464), {"calibrate": Calibrate("shipped", trials=False, refit=False, device="cpu")}),
    (MaxError(0.1), {"calibrate": Calibrate("clips", "kept", 0.0, 0.1, varied=False, samples=3)}),
    (Remove(0.5), {"calibrate": Calibrate("clips", trials=True, refit=True, language="de")}),
]


@pytest.mark.parametrize(("rule", "others"), CUTS)
def test_a_cut_is_asked_for_again(
    heard: dict[str, Any], rule: Rule | None, others: dict[str, Any]
) -> None:
    options = Options(rule=rule, **others)
    run(options.command, "model", *options.words())
    assert heard["options"] == options


@pytest.mark.parametrize(
    "options",
    [
        CompressOptions(),
        CompressOptions(remove=0.2, refit=False, sequential=False, calibrate="x/clips"),
        CompressOptions(of="ffn", layout="ragged", order="leverage", multiple=8, ridge=0.0),
        CompressOptions(samples=3, language="de", device="cpu"),
        CompressOptions(layers="encoder:1,decoder:2", layer_order="influence"),
        CompressOptions(drop_layers="3,7", remove=0.2),
    ],
)
def test_a_narrower_model_is_asked_for_again(
    heard: dict[str, Any], options: CompressOptions
) -> None:
    run(options.command, "model", *options.words())
    assert heard["options"] == options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            LinearOptions(
                treatment_of("pissa", rank=3, scale=2.0, solver="full"), ("q", "v"), "encoder", 7
            ),
            {"method": "pissa", "rank": 3, "scale": 2.0, "solver": "full", "targets": ("q", "v")},
        ),
        (LinearOptions(treatment_of("hra", reflections=4), dtype="float16"), {"reflections": 4}),
        (LinearOptions(treatment_of("goft")), {"method": "goft"}),
        (FactorOptions("core", ("vo",), up_block=0), {"pairs": ("vo",), "up_block": 0}),
    ],
)
def test_small_parts_are_asked_for_again(
    heard: dict[str, Any], options: LinearOptions | FactorOptions, said: dict[str, Any]
) -> None:
    run(options.command, "model", *options.words())
    own = {"scope", "seed", "dtype"} & {each.name for each in fields(options)}
    said = {**said, **{name: getattr(options, name) for name in own}}
    assert {name: heard.get(name) for name in said} == said


def test_a_training_is_asked_for_again(heard: dict[str, Any]) -> None:
    preparation = Preparation(rank=4, targets=("q", "v"), scope="decoder", layers=(0, 2))
    options = TuneOptions(
        steps=10, learning_rate=1e-5, also=("biases", "norms"), transcribe=False, tensorboard=True
    )
    run("tune", "model", "--data", "text", *spelled(preparation), *spelled(options))
    assert (heard["preparation"], heard["options"]) == (preparation, options)


@pytest.mark.parametrize("kind", [Options, Calibrate, CompressOptions, TuneOptions])
def test_what_is_on_by_default_can_be_written_as_off(kind: type) -> None:
    for each, told in options_of(kind):
        if "bool" in str(each.type) and each.default is not False and not told.inverted:
            assert "/--no-" in told.flags[0], each.name


def test_a_folder_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_name("whisper-base", "openai/whisper-base") == "openai/whisper-base"
    (tmp_path / "whisper-base").mkdir()
    (tmp_path / "x").mkdir()
    for asked in (
        "whisper-base",
        str(tmp_path / "whisper-base"),
        "x/../whisper-base",
        "./whisper-base/",
    ):
        assert model_name(asked, "whisper-base") == "./whisper-base"
    assert model_name(".") == f"./{tmp_path.name}"
    for asked in (str(tmp_path / "a" / "b"), "../a/b", tmp_path / "other" / "a" / "b"):
        assert given_path(asked) == "a/b"
    for asked in ("b", "./b", "c/a/b"):
        assert given_path(asked) == asked.removeprefix("./")


@pytest.mark.usefixtures("no_pictures")
def test_a_card_tells_a_command_that_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_model("llama", tmp_path / "mine" / "source")
    (tmp_path / "mine" / "text").mkdir()
    (tmp_path / "mine" / "text" / "test.txt").write_text("a b c d e f g h\n" * 40)
    out = tmp_path / "mine" / "cut"
    words = ["--by-weights", "--remove", "25%", "--seams", "vo"]
    words += ["--data", str(tmp_path / "mine" / "text" / "test.txt")]
    done = CliRunner().invoke(app, ["absorb-decompose", str(source), *words, "-o", str(out)])
    assert done.exit_code == 0, done.output
    card = (out / "README.md").read_text()
    assert str(tmp_path) not in card
    line = next(line for line in card.splitlines() if line.startswith("    surgery"))
    assert line.split()[2] == "./source" and "--data text/test.txt" in line
    monkeypatch.chdir(tmp_path / "mine")
    was = contents(out)
    shutil.rmtree(out)
    again = CliRunner().invoke(app, shlex.split(line)[1:])
    assert again.exit_code == 0, again.output
    assert contents(out) == was
