"""No export names a head that the model does not have, whatever its teacher had."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import surgery
from surgery.errors import SurgeryWarning
from surgery.export.whisper.alignment import Alignment, read_alignment
from surgery_cli.main import app
from tests.engine.spoken import save_listener
from tests.engine.support import config_of
from tests.export.whispers import change

TEACHERS = [[7, 0], [10, 17], [12, 18]]
"""Some of large-v3's, which distil-large-v3 lists beside two layers."""
pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def student(directory: Path, heads: object) -> Path:
    """A Whisper of two layers and two heads with a generation configuration from elsewhere."""
    save_listener(directory)
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alignment_heads": heads}))
    return directory


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, Alignment()),
        ([], Alignment()),
        ([[1, 1], [0, 1], [1, 1]], Alignment([(0, 1), (1, 1)])),
        *((wrong, Alignment(foreign=True)) for wrong in (TEACHERS, [[0, 0], [2, 0]], [[0, 2]])),
        *((wrong, Alignment(foreign=True)) for wrong in ([[-1, 0]], [[0]], [0], "0", [["0", 1]])),
    ],
)
def test_heads_are_those_of_the_model_or_none(listed: object, expected: Alignment) -> None:
    assert read_alignment({"alignment_heads": listed}, 2, 2) == expected


def test_ctranslate2_is_given_its_own_default(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    made = surgery.export_model(student(tmp_path / "student", TEACHERS), "ct2")
    config = json.loads((made.output / "config.json").read_text())
    assert config["alignment_heads"] == [[1, 0], [1, 1]]
    assert any("alignment heads of layers or heads that the model does not have" in note
               for note in made.notes)  # fmt: skip
    right = surgery.export_model(student(tmp_path / "right", [[0, 1]]), "ct2", verify=False)
    assert json.loads((right.output / "config.json").read_text())["alignment_heads"] == [[0, 1]]
    assert not any("alignment" in note for note in right.notes)


def test_transformers_is_given_none(tmp_path: Path) -> None:
    source = student(tmp_path / "student", TEACHERS)
    change(source, alignment_heads=TEACHERS)
    surgery.split(source, tmp_path / "split", rank=2)
    made = surgery.export_model(tmp_path / "split", "hf", tmp_path / "out")
    left = json.loads((made.output / "generation_config.json").read_text())
    expected: dict[str, Any] = json.loads((source / "generation_config.json").read_text())
    del expected["alignment_heads"]
    assert "alignment_heads" not in config_of(made.output)
    assert left == expected and any("were left out" in note for note in made.notes)


def test_openai_whisper_keeps_its_default(tmp_path: Path) -> None:
    source = student(tmp_path / "student", TEACHERS)
    result = CliRunner().invoke(
        app, ["export", str(source), "--to", "openai-whisper", "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "all heads of the decoder's upper half" in told and "set_alignment_heads" not in told
    with pytest.warns(SurgeryWarning, match="alignment heads"):
        model = surgery.load_openai_whisper(source, device="cpu")
    assert model.alignment_heads.indices().T.tolist() == [[1, 0], [1, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SurgeryWarning)
        model = surgery.load_openai_whisper(student(tmp_path / "right", [[0, 1]]), device="cpu")
    assert model.alignment_heads.indices().T.tolist() == [[0, 1]]
