"""Runtimes that know a vocabulary by its size are given no other one of that size."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import UnsupportedModelError
from surgery.export.whisper.words import foreign
from surgery.stored.stored import read_stored
from tests.export.whispers import change, grow, save_openai, silence

pytest.importorskip("pywhispercpp")
pytestmark = [
    # openai-whisper leaves its vocabulary file to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json")


@pytest.fixture(scope="module", params=[51864, 51865, 51866])
def openai(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Whisper with each of OpenAI's vocabularies."""
    return save_openai(tmp_path_factory.mktemp("openai") / str(request.param), request.param)


def found(directory: Path) -> str | None:
    with resolve(str(directory)) as source:
        stored = read_stored(source)
        return foreign(stored, source.config["vocab_size"])


def test_openais_own_vocabularies_are_known_by_words_and_by_ids(
    openai: Path, tmp_path: Path
) -> None:
    assert found(openai) is None
    older = copytree(openai, tmp_path / "older")
    (older / "tokenizer.json").unlink()
    added = older / "added_tokens.json"
    added.write_text(added.read_text().replace("nospeech", "nocaptions"))
    assert found(older) is None
    for name in WORDS:
        (older / name).unlink(missing_ok=True)
    assert found(older) is None


@pytest.mark.parametrize(
    ("openai", "more"),
    [
        (51864, 1),
        pytest.param(51864, 2, marks=pytest.mark.slow),
        pytest.param(51865, 1, marks=pytest.mark.slow),
        (51866, 5),
    ],
    indirect=["openai"],
)
def test_a_vocabulary_that_grew_is_refused_where_its_size_decides(
    openai: Path, more: int, tmp_path: Path
) -> None:
    source = grow(copytree(openai, tmp_path / "grown"), more)
    before = sorted(tmp_path.iterdir())
    for target in ("openai-whisper", "ggml"):
        with pytest.raises(UnsupportedModelError, match="OpenAI's") as caught:
            surgery.export_model(source, target)
        assert caught.value.hint is not None and "--to ct2" in caught.value.hint
    with pytest.raises(UnsupportedModelError, match="OpenAI's"):
        surgery.load_openai_whisper(source)
    assert sorted(tmp_path.iterdir()) == before
    for name in WORDS:  # the ids of config.json and generation_config.json are left
        (source / name).unlink()
    assert found(source) is not None


@pytest.mark.parametrize("openai", [51864], indirect=True)
def test_other_words_in_the_place_of_openais_are_others(openai: Path, tmp_path: Path) -> None:
    source = copytree(openai, tmp_path / "other")
    path = source / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["model"]["vocab"]["Ġbonjour"] = raw["model"]["vocab"].pop("Ġof")
    path.write_text(json.dumps(raw))
    reason = found(source)
    assert reason is not None and "'Ġbonjour', and 'Ġof' there" in reason


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("absent", marks=pytest.mark.slow),
        pytest.param([], marks=pytest.mark.slow),
        None,
    ],
)
@pytest.mark.parametrize("target", ["openai-whisper", "ggml", "ct2"])
def test_a_text_without_a_word_is_compared_as_any_other(
    target: str, value: object, tmp_path: Path, silent: Path
) -> None:
    if target == "ct2":
        pytest.importorskip("ctranslate2")
    source = copytree(silent, tmp_path / "silent")
    path = source / "generation_config.json"
    generation = json.loads(path.read_text())
    del generation["begin_suppress_tokens"]
    if value != "absent":
        generation["begin_suppress_tokens"] = value
    path.write_text(json.dumps(generation))
    change(source, begin_suppress_tokens=None)
    made = surgery.export_model(source, target, tmp_path / "out")
    assert made.comparison is not None
    assert made.comparison.what.endswith("the same text of 2 embedded recordings")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"task_to_id": None}, "generate ends in TypeError"),
        ({"decoder_start_token_id": 0}, "generation_config.json"),
        ({"eos_token_id": None}, "recordings"),
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("openai-whisper", marks=pytest.mark.slow),
        pytest.param("ggml", marks=pytest.mark.slow),
        "ct2",
    ],
)
def test_what_transformers_cannot_say_is_told_as_not_compared(
    target: str, change: dict[str, object], told: str, tmp_path: Path, multilingual: Path
) -> None:
    if target == "ct2":
        pytest.importorskip("ctranslate2")
    source = copytree(multilingual, tmp_path / "odd")
    path = source / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    made = surgery.export_model(source, target, tmp_path / "out")
    assert made.comparison is not None and told in made.comparison.what
    assert ("no text: " in made.comparison.what) is (told != "recordings")


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Whisper of many languages that ends every text at once."""
    return silence(save_openai(tmp_path_factory.mktemp("many") / "source", 51865), 50257)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Whisper that ends every text at once."""
    return silence(save_openai(tmp_path_factory.mktemp("silent") / "source"))
