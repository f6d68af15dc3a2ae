"""What every export does, whatever the target: check, write, run it there, then keep it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

import surgery
from surgery.checkpoint.transaction import Transaction
from surgery.errors import (
    CheckpointError,
    SurgeryError,
    TargetError,
    UnsupportedModelError,
    UsageError,
)
from surgery.events import Progress
from surgery.export.reference import Reference, difference
from surgery.export.sizes import Sizes
from surgery.export.target import Choice, Comparison, Fit, Target, fits, refused
from surgery.export.targets import HOMES
from surgery.methods import Remove
from surgery.report.wording import amount
from surgery.stored.stored import Stored
from surgery_cli.main import app
from surgery_cli.render_export import exported_view
from tests.engine.spoken import save_listener, save_spoken
from tests.engine.support import contents, save_tiny, tensors_of


class Notebook(Target):
    """Writes a model's name on a page, and reads it back."""

    name = "notebook"
    title = "A notebook"
    extra = "paper"
    quantizations = ("ink", "pencil")
    error = 0.0

    def fit(self, stored: Stored, choice: Choice) -> Fit:
        if stored.family.model_type == "bert":
            return refused("too long for a page", remedy="--to shelf")
        return fits("its name", kept=0.25, remedy="write smaller")

    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        transaction.record("a step")  # which a run that may be resumed would keep
        transaction.write_text("page.txt", f"{choice.quantization}: {stored.source.name}")
        return ["The page is thin."]

    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        text = (directory / "page.txt").read_text("utf-8")
        differing = None if text.endswith(reference.source.name) else (reference.source.name, text)
        return Comparison("Notebook 1.0", "a name", self.error, 1e-3, differing)

    def usage(self, place: str) -> str:
        return f"read({place!r})"


PRUNED = surgery.Options(rule=Remove(0.25), pairs=("vo",), by_weights=True)


@pytest.fixture(autouse=True)
def _notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOMES, "notebook", f"{__name__}:Notebook")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model")


def test_an_export_is_written_run_and_described(model: Path) -> None:
    made = surgery.export_model(model, "notebook")
    assert made.output == model.with_name("model-notebook")
    assert set(made.files) == {"page.txt", "README.md"}
    assert made.comparison == Comparison("Notebook 1.0", "a name", 0.0, 1e-3)
    assert (made.kept, made.notes) == (0.25, ["The page is thin."])
    card = (made.output / "README.md").read_text("utf-8")
    assert "read('model-notebook')" in card and "The page is thin." in card
    assert "Of the parameters that surgery removed, 25.0 % stay removed here." in card
    assert "Run in Notebook 1.0: a name, relative difference 0." in card


def test_where_it_comes_from_and_on_what_terms_is_written_beside_it(model: Path) -> None:
    (model / "LICENSE.txt").write_text("Do what you like.")
    surgery.split(model, model.with_name("split"), rank=2)
    made = surgery.export_model(
        model.with_name("split"), "notebook", quantization="ink", verify=False
    )
    assert (made.output / "LICENSE.txt").read_text() == "Do what you like."
    card = (made.output / "README.md").read_text("utf-8")
    digest = sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert f"from model, SHA-256 {digest}." in card and "Made by sorsa (surgery " in card
    assert "Weights: ink." in card and "not run and compared" in card


def test_sizes_say_what_they_are_the_sizes_of(model: Path) -> None:
    dense = surgery.export_model(model, "notebook").sizes
    full = sum(tensor.nbytes for tensor in tensors_of(model).values())
    assert (dense.checkpoint, dense.original) == (full, None)
    surgery.absorb_decompose(model, model.with_name("cut"), options=PRUNED)
    surgery.split(model.with_name("cut"), model.with_name("both"), rank=2)
    both = model.with_name("both")
    made = surgery.export_model(both, "hf")
    stored = sum(tensor.nbytes for tensor in tensors_of(both).values())
    written = (made.output / "model.safetensors").stat().st_size
    assert made.sizes == Sizes(written, stored, full)
    told = f"in the checkpoint {amount(stored, 'bytes')}, in the original {amount(full, 'bytes')}"
    assert told in (made.output / "README.md").read_text("utf-8")
    again = ["export", str(both), "--to", "hf", "--force"]
    shown = CliRunner().invoke(app, again, env={"COLUMNS": "300"})
    assert told in shown.output and "before" not in shown.output
    path = both / "config.json"
    config = json.loads(path.read_text())
    config["surgery"]["operations"][0]["options"]["dtype"] = "float16"  # once it was larger
    path.write_text(json.dumps(config))
    assert surgery.export_model(both, "notebook").sizes.original is None


def test_what_was_not_compared_is_not_told_as_the_same(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notebook, "compare", lambda *_: Comparison("A reader", "that it opens"))
    page = Console(width=100, record=True, file=StringIO())
    page.print(exported_view(surgery.export_model(model, "notebook")))
    (line,) = [line for line in page.export_text().splitlines() if "A reader" in line]
    assert line.strip() == "Run in A reader: that it opens"


def test_an_original_of_nonsense_is_written_beside_it_as_well_as_may_be(model: Path) -> None:
    surgery.split(model, model.with_name("split"), rank=2)
    path = model.with_name("split") / "config.json"
    config = json.loads(path.read_text())
    config["surgery"]["operations"][0]["provenance"] = {"source": "a\nb", "sha256": [1]}
    path.write_text(json.dumps(config))
    made = surgery.export_model(path.parent, "notebook")
    assert "- Made by sorsa from a b.\n" in (made.output / "README.md").read_text("utf-8")


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_what_computes_something_else_is_not_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setattr(Notebook, "error", error)
    before = contents(model.parent)
    with pytest.raises(SurgeryError, match="does not compute what the checkpoint computes"):
        surgery.export_model(model, "notebook")
    assert contents(model.parent) == before
    made = surgery.export_model(model, "notebook", verify=False)
    assert made.comparison is None and (made.output / "page.txt").exists()


def test_what_says_something_else_is_not_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Notebook, "compare", lambda *_: Comparison("Notebook", "a text", differing=("one", "two"))
    )
    with pytest.raises(SurgeryError, match="does not say") as caught:
        surgery.export_model(model, "notebook")
    assert (caught.value.expected, caught.value.found) == ("'one'", "'two'")


def test_a_checkpoint_that_does_not_fit_is_refused_with_what_does(tmp_path: Path) -> None:
    bert = save_tiny("bert", tmp_path / "bert")
    with pytest.raises(UnsupportedModelError, match="cannot hold") as caught:
        surgery.export_model(bert, "notebook")
    assert (caught.value.found, caught.value.hint) == ("too long for a page", "--to shelf")
    assert sorted(tmp_path.iterdir()) == [bert]


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notebook, "runs_with", ("no_such_reader",))
    made = surgery.export_model(model, "notebook", quantization="pencil")
    assert made.comparison is None and made.output.name == "model-notebook-pencil"
    assert "no_such_reader is not installed (pip install 'model-surgery[paper]')" in made.notes[-1]
    monkeypatch.setattr(Notebook, "writes_with", ("no_such_writer",))
    with pytest.raises(UsageError, match="not installed") as caught:
        surgery.export_model(model, "notebook", force=True)
    assert caught.value.hint == "pip install 'model-surgery[paper]'"


def test_where_nothing_was_done_nothing_is_exported_and_no_advice_leads_there(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nothing to export") as caught:
        surgery.export_model(model, "hf")
    assert caught.value.hint == "use it as it is"
    monkeypatch.setattr(Notebook, "fit", lambda *_: refused("too long", remedy="--to hf, or less"))
    with pytest.raises(UnsupportedModelError) as refusal:
        surgery.export_model(model, "notebook")
    assert refusal.value.hint == "nothing was done to it: it loads in transformers as it is"
    surgery.split(model, model.with_name("split"), rank=2)
    with pytest.raises(UnsupportedModelError) as refusal:
        surgery.export_model(model.with_name("split"), "notebook")
    assert refusal.value.hint == "--to hf, or less"


def test_what_is_in_the_way_stays(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(TargetError, match="not empty"):
        surgery.export_model(model, "notebook", target)
    with pytest.raises(SurgeryError):
        surgery.export_model(model, "notebook", model, force=True)
    assert contents(target) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "hf", "--list"], "ask what fits"),
        ([], "ask what fits"),
        (["--to", "ct2", "--quantization", "int3"], "quantization"),
        (["--list", "-q", "int8", "--force"], "--quantization, --force"),
    ],
)
def test_a_wrong_turn_on_the_command_line_is_told(
    model: Path, arguments: list[str], told: str
) -> None:
    result = CliRunner().invoke(app, ["export", str(model), *arguments, "--json"])
    assert result.exit_code == 2
    assert told in json.dumps(json.loads(result.stdout))


def test_every_target_says_whether_it_fits(model: Path) -> None:
    before = contents(model)
    result = CliRunner().invoke(app, ["export", str(model), "--list", "--json"])
    assert result.exit_code == 0, result.output
    routes = {route["target"]: route for route in json.loads(result.stdout)}
    assert list(routes) == ["", *HOMES]
    assert routes["notebook"]["fit"]["remedy"] == "write smaller"
    assert not routes["ct2"]["fit"]["possible"]
    shown = CliRunner().invoke(app, ["export", str(model), "--list"], env={"COLUMNS": "100"})
    assert "does not fit" in shown.output and "write smaller" in shown.output
    assert "not needed" in shown.output and "(as it is)" in shown.output
    assert contents(model) == before


def test_the_checkpoint_itself_is_the_first_route(model: Path) -> None:
    surgery.absorb_decompose(model, model.with_name("cut"), options=PRUNED)
    own = surgery.export_routes(model.with_name("cut"))[0]
    assert (own.target, own.fit.kept) == ("", 1.0) and "trust_remote_code" in own.title
    (model.with_name("cut") / "modeling_surgery.py").unlink()
    assert surgery.export_routes(model.with_name("cut"))[0].target == "hf"


def test_what_is_not_installed_matters_where_it_would_be_used(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notebook, "runs_with", ("no_such_reader",))
    words = ["export", str(model), "--list"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "120"}).output
    assert "written, not run: no_such_reader is not installed" in shown
    monkeypatch.setattr(Notebook, "fit", lambda *_: refused("too long"))
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "120"}).output
    assert "no_such_reader" not in shown


def test_a_target_is_known_by_its_name_in_any_case(model: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(model), "--to", "HF"])
    assert result.exit_code == 2 and "nothing to export" in result.output


def test_a_difference_is_relative_and_never_a_pass_by_accident() -> None:
    ours = torch.tensor([3.0, 4.0])
    assert difference(ours, torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert difference(ours, torch.tensor([3.0, float("nan")])) == float("inf")
    assert difference(ours, torch.tensor([3.0])) == float("inf")


@pytest.mark.parametrize(
    ("to", "package", "norm"),
    [
        ("gguf", "gguf", "model.norm.weight"),
        ("ct2", "ctranslate2", "model.encoder.layer_norm.weight"),
        ("openai-whisper", "torch", "model.decoder.layers.1.final_layer_norm.bias"),
    ],
)
def test_a_weight_that_is_no_number_is_written_nowhere(
    to: str, package: str, norm: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    model = tmp_path / "model"
    save_spoken("llama", model) if to == "gguf" else save_listener(model)
    tensors = tensors_of(model)
    tensors[norm][3] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite") as caught:
        surgery.export_model(model, to, tmp_path / "out", verify=False)
    assert norm in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
