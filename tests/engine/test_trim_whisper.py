"""A Whisper with fewer languages: what left is refused, and what stays is found as before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperProcessor

import surgery
from surgery.engine.vocabulary.words import frequent_words
from surgery.errors import UsageError
from surgery.evaluation.transcribe import transcribe
from tests.engine.support import config_of, tensors_of
from tests.export.whispers import EMBEDDING, save_openai

LINES = "Der Kessel singt, and nothing more is said.\n"


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A multilingual Whisper, and the same with English and German."""
    place = tmp_path_factory.mktemp("trimmed")
    (place / "keep.txt").write_text(LINES)
    save_openai(place / "before", 51865)
    options = surgery.TrimOptions(
        keep_text=(str(place / "keep.txt"),), languages=("en", "de"), frequent=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")
        surgery.trim_vocabulary(place / "before", place / "after", options=options)
    return place / "before", place / "after"


def test_languages_tasks_and_timestamps_keep_their_places(trimmed: tuple[Path, Path]) -> None:
    processors = [WhisperProcessor.from_pretrained(each) for each in trimmed]
    old, new = (each.tokenizer for each in processors)
    generation = json.loads((trimmed[1] / "generation_config.json").read_text())
    rows = config_of(trimmed[1])["vocab_size"]
    assert generation["no_timestamps_token_id"] == rows - 1502  # and 1,501 timestamps behind it
    assert generation["lang_to_id"].keys() == {"<|en|>", "<|de|>"}
    for name, number in generation["lang_to_id"].items():
        assert new.convert_tokens_to_ids(name) == number
    for each in (old, new):
        each.set_prefix_tokens(language="de", task="transcribe")
    assert old.convert_ids_to_tokens(old.prefix_tokens) == new.convert_ids_to_tokens(
        new.prefix_tokens
    )
    assert old.tokenize(" Der Kessel singt") == new.tokenize(" Der Kessel singt")
    assert "<|fr|>" not in new.get_vocab() and "<|removed fr|>" in new.get_vocab()
    was, now = (tensors_of(each)[EMBEDDING] for each in trimmed)
    names = [name.replace("removed ", "") for name in new.convert_ids_to_tokens(range(len(new)))]
    assert len(new) <= rows
    assert torch.equal(was[old.convert_tokens_to_ids(names)], now[: len(names)])
    assert torch.equal(was[-1501:], now[-1501:])


def test_a_language_that_left_is_refused(trimmed: tuple[Path, Path]) -> None:
    model, processor = surgery.load(trimmed[1]), WhisperProcessor.from_pretrained(trimmed[1])
    silence = [np.zeros(1600, np.float32)]
    for language in ("fr", "French"):
        with pytest.raises(UsageError, match="does not know the language") as told:
            transcribe(model, processor, silence, language=language, max_new_tokens=2)
        assert told.value.expected == "de, en"
    transcribe(model, processor, silence, language="de", max_new_tokens=2)
    features = processor(silence[0], sampling_rate=16000, return_tensors="pt")
    with pytest.raises(ValueError, match="fr"):  # transformers alone
        model.generate(**features, language="fr", max_new_tokens=2)
    model.generate(**features, max_new_tokens=2)  # guesses among those that stay


def test_who_goes_by_the_number_of_tokens_refuses(trimmed: tuple[Path, Path]) -> None:
    routes = {one.target: one.fit for one in surgery.export_routes(trimmed[1])}
    for name in ("openai-whisper", "ggml"):
        assert not routes[name].possible
    assert routes["ct2"].possible


def test_faster_whisper_hears_which_of_the_languages_that_stay_is_spoken(
    trimmed: tuple[Path, Path], tmp_path: Path
) -> None:
    whisper = pytest.importorskip("faster_whisper")
    surgery.export_model(trimmed[1], "ct2", tmp_path / "ct2")
    model = whisper.WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32")
    assert model.model.is_multilingual  # by its token of no text
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    segments, told = model.transcribe(sound, beam_size=1, word_timestamps=True, max_new_tokens=9)
    assert {name for name, share in told.all_language_probs if share > 0} == {"en", "de"}
    list(segments)


def test_languages_that_the_model_lacks_are_refused(trimmed: tuple[Path, Path]) -> None:
    options = surgery.TrimOptions(languages=("xx",), frequent=0)
    with pytest.raises(UsageError, match="does not know this language"):
        surgery.trim_vocabulary(trimmed[0], options=options, dry_run=True)


def test_frequent_words_stay_in_all_spellings(trimmed: tuple[Path, Path]) -> None:
    pytest.importorskip("wordfreq")
    options = surgery.TrimOptions(languages=("en",), frequent=50)
    told = surgery.trim_vocabulary(trimmed[0], options=options, dry_run=True).vocabulary
    assert told is not None and told.languages == ["en"]
    assert told.uses[0].covered == 1.0
    assert told.kept < 51865 / 10


def test_words_are_spelled_as_the_language_does_and_not_as_folded_lists_do() -> None:
    pytest.importorskip("wordfreq")
    german, greek = (frequent_words(code) for code in ("de", "el"))
    assert german["groß"] == german["gross"] and "dass" in german
    assert "της" in greek and max(german.values()) == next(iter(german.values()))
