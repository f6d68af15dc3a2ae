"""Whisper is taught the words and where they end, and what cannot be taught is named."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.transcribe import extract_features
from surgery.micro.assets import DIRECTORY
from surgery.training.examples import IGNORED
from surgery.training.speech_data import SpeechExamples, collate_speech, text_start
from surgery.training.tasks import check_training_data

START, NO_TIMESTAMPS, END = 57, 63, 56


@pytest.fixture(scope="module")
def micro() -> tuple[Any, Any]:
    model = WhisperForConditionalGeneration.from_pretrained(DIRECTORY, dtype=torch.float32)
    return model.eval(), WhisperProcessor.from_pretrained(DIRECTORY)


@pytest.fixture(scope="module")
def clips() -> SpeechFolder:
    return SpeechFolder.open(DIRECTORY / "test", limit=4)


def recordings(folder: Path, **words: str) -> SpeechFolder:
    """Noise of one second each, with these words."""
    random = np.random.default_rng(0)
    for name in words:
        soundfile.write(folder / f"{name}.wav", 0.1 * random.standard_normal(16_000), 16_000)
    lines = [f"{name}.wav\t{text}" for name, text in words.items()]
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return SpeechFolder.open(folder)


def test_the_loss_is_that_of_the_words_and_their_end(
    micro: tuple[Any, Any], clips: SpeechFolder
) -> None:
    model, processor = micro
    examples = SpeechExamples(clips, processor, model)
    batch = collate_speech([examples[index] for index in range(len(examples))])
    assert len({len(text.split()) for text in clips.references()}) > 1  # some are padded

    total, count = 0.0, 0
    for audio, text in zip(clips.audio(), clips.references(), strict=True):
        said = [START, NO_TIMESTAMPS, *processor.tokenizer(text).input_ids[2:]]
        features = extract_features(processor, [audio])
        with torch.no_grad():
            logits = model(input_features=features, decoder_input_ids=torch.tensor([said])).logits
        scores = logits[0].double().log_softmax(-1)
        for at in range(2, len(said)):
            total, count = total - float(scores[at - 1, said[at]]), count + 1

    model.zero_grad()
    found = model(**batch)
    found.loss.backward()
    assert examples.targets == count == int((batch["labels"] != IGNORED).sum())
    # float32 sums in another order, through logits that padding moves by a few roundings
    assert float(found.loss.detach()) == pytest.approx(total / count, rel=1e-3, abs=1e-6)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_model_is_taught_what_it_says_when_it_is_right(
    micro: tuple[Any, Any], clips: SpeechFolder
) -> None:
    model, processor = micro
    item = SpeechExamples(clips, processor, model)[0]
    assert item["input_features"].dtype == torch.float32
    assert item["decoder_input_ids"][:2].tolist() == [START, NO_TIMESTAMPS]
    assert item["labels"][0] == IGNORED and item["labels"][-1] == END
    assert item["labels"][1:-1].tolist() == item["decoder_input_ids"][2:].tolist()

    features = item["input_features"][None]
    with torch.no_grad():
        predicted = (
            model(input_features=features, decoder_input_ids=item["decoder_input_ids"][None])
            .logits[0]
            .argmax(-1)
        )
    counted = item["labels"] != IGNORED
    assert torch.equal(predicted[counted], item["labels"][counted])


def test_texts_begin_as_the_models_own(micro: tuple[Any, Any], clips: SpeechFolder) -> None:
    model, processor = micro
    assert text_start(model, processor, clips) == ""
    words = clips.references()[0]
    for start in (" ", ""):
        item = SpeechExamples(clips, processor, model, start=start)[0]
        tokens = [token for token in item["labels"].tolist() if token != IGNORED]
        assert processor.tokenizer.decode(tokens[:-1]) == start + words


def test_openais_models_begin_with_a_space(shared: Path) -> None:
    path = shared / "checkpoints" / "whisper-tiny.en-digits"
    model = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    processor = WhisperProcessor.from_pretrained(path)
    folder = SpeechFolder.open(shared / "audio" / "digits" / "train", limit=2)
    model.train()
    assert text_start(model, processor, folder) == " "
    assert model.training


def test_a_multilingual_model_is_told_language_and_task(
    micro: tuple[Any, Any], clips: SpeechFolder
) -> None:
    model, processor = micro
    generation = copy.deepcopy(model.generation_config)
    generation.is_multilingual = True
    generation.lang_to_id, generation.task_to_id = {"<|de|>": 58}, {"transcribe": 59}
    german = SimpleNamespace(config=model.config, generation_config=generation)
    item = SpeechExamples(clips, processor, german, "german", start="")[0]
    assert item["decoder_input_ids"][:4].tolist()[:3] == [START, 58, 59]
    told = 3 + (item["decoder_input_ids"][3] == generation.no_timestamps_token_id).long().item()
    assert item["labels"][: told - 1].tolist() == [IGNORED] * (told - 1)
    assert item["labels"][told - 1 : -1].tolist() == item["decoder_input_ids"][told:].tolist()
    with pytest.raises(UsageError, match="language"):
        SpeechExamples(clips, processor, german, "fr", start="")


@pytest.mark.parametrize("blank", ["", " ", "\u00a0 "])
def test_a_recording_without_words_is_named_with_its_line(
    micro: tuple[Any, Any], tmp_path: Path, blank: str
) -> None:
    folder = recordings(tmp_path, a="one", b=blank)
    with pytest.raises(SurgeryError, match=r"(?s)transcripts\.tsv, line 2.*no words for b\.wav"):
        SpeechExamples(folder, micro[1], micro[0])
    with pytest.raises(SurgeryError, match="no words for"):  # before anything is prepared
        check_training_data(tmp_path, "audio")


def test_short_texts_are_padded_with_what_is_not_learnt(
    micro: tuple[Any, Any], tmp_path: Path
) -> None:
    model, processor = micro
    examples = SpeechExamples(recordings(tmp_path, a="one", b="one two"), processor, model)
    batch = collate_speech([examples[0], examples[1]])
    short, long = batch["labels"].tolist()
    assert short == [IGNORED, long[1], END, IGNORED]
    assert batch["decoder_input_ids"].tolist()[0] == [START, NO_TIMESTAMPS, long[1], START]


def test_what_cannot_be_taught_is_named(micro: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = micro
    longest = model.config.max_target_positions - 2
    fits = recordings(tmp_path, a="one", b="two " * longest)
    assert len(SpeechExamples(fits, processor, model, start="")) == 2
    text = recordings(tmp_path, a="one", b="two " * (longest + 1))
    with pytest.raises(SurgeryError, match=rf"(?s)b\.wav.*{longest + 1} tokens.*most {longest}"):
        SpeechExamples(text, processor, model, start="")

    soundfile.write(tmp_path / "a.wav", np.zeros(int(8_000 * 3.5)), 8_000)
    with pytest.raises(SurgeryError, match=r"(?s)a\.wav.*3\.5 s.*at most 3 s.*pieces"):
        SpeechExamples(fits, processor, model, start="")
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(SurgeryError, match=r"(?s)cannot be read.*a\.wav"):
        SpeechExamples(fits, processor, model, start="")

    (tmp_path / "transcripts.tsv").unlink()
    with pytest.raises(SurgeryError, match=r"transcripts\.tsv"):
        SpeechExamples(SpeechFolder.open(tmp_path), processor, model)
    with pytest.raises(UsageError, match="English only"):
        SpeechExamples(SpeechFolder.open(DIRECTORY / "test"), processor, model, "de")
