"""What is shipped as whisper-micro is small, hears what it should, and can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, WhisperForConditionalGeneration

from surgery.evaluation.audio import SpeechFolder
from surgery.micro import assets, synthesis, train
from surgery.micro.check import check
from surgery.micro.synthesis import SAMPLE_RATE, WINDOW_SECONDS, WORDS, dial
from surgery.micro.vocabulary import build_tokenizer


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    model = WhisperForConditionalGeneration.from_pretrained(assets.DIRECTORY, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(assets.DIRECTORY)


def test_the_weights_are_small_and_half_precision() -> None:
    path = assets.DIRECTORY / "model.safetensors"
    assert path.stat().st_size <= 3_000_000
    with safe_open(path, framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors) <= 1_500_000


def test_everything_shipped_is_small() -> None:
    files = [file for file in assets.DIRECTORY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4_000_000
    assert sum(file.stat().st_size for file in files if file.parent.name == "test") < 1_000_000


def test_held_out_word_error_rate_is_at_most_two_percent() -> None:
    parameters, errors = check(assets.DIRECTORY)
    assert parameters <= 1_500_000
    assert errors.words > 150
    assert errors.rate <= 0.02


def test_texts_come_out_as_plain_words(shipped: tuple[Any, Any]) -> None:
    model, processor = shipped
    clip = dial(1)
    features = processor(clip.audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    assert processor.batch_decode(model.generate(features), skip_special_tokens=True) == [clip.text]


def test_the_shipped_test_set_is_what_its_seeds_make(tmp_path: Path) -> None:
    assets.write_test_set(tmp_path)
    for file in (assets.DIRECTORY / "test").iterdir():
        if file.suffix == ".flac":
            (ours,) = SpeechFolder.open(tmp_path / file.name).audio()
            (theirs,) = SpeechFolder.open(file).audio()
            # Another processor's sines may differ in the last bit, and be rounded otherwise.
            np.testing.assert_allclose(ours, theirs, atol=2.0 ** -(synthesis.BITS - 1))
        else:
            assert file.read_text() == (tmp_path / file.name).read_text()


def test_training_never_hears_the_test_set() -> None:
    assert max(assets.TEST_SEEDS) < train.VALIDATION_SEEDS
    assert train.VALIDATION_SEEDS + train.VALIDATION_CLIPS <= train.TRAINING_SEEDS


def test_a_seed_always_makes_the_same_clip() -> None:
    one, again, other = dial(7), dial(7), dial(8)
    np.testing.assert_array_equal(one.audio, again.audio)
    assert (one.digits, one.spans) == (again.digits, again.spans)
    assert one.audio.shape != other.audio.shape or not np.array_equal(one.audio, other.audio)


def test_clips_hold_what_they_say() -> None:
    for seed in range(50):
        clip = dial(seed)
        assert 2 <= len(clip.digits) <= 6
        assert clip.audio.dtype == np.float32
        assert clip.audio.size <= WINDOW_SECONDS * SAMPLE_RATE
        assert np.abs(clip.audio).max() <= 1.0
        assert clip.text.split() == [WORDS[digit] for digit in clip.digits]
        for digit, (begin, end) in zip(clip.digits, clip.spans, strict=True):
            # The strongest frequency below and above 1,075 Hz give row and column away.
            tone = clip.audio[begin:end] * np.hanning(end - begin)
            spectrum = np.abs(np.fft.rfft(tone, 16_000))  # bin k is k Hz
            low, high = (int(np.argmax(spectrum[a:b])) + a for a, b in ((600, 1075), (1075, 1600)))
            row, column = synthesis.KEYS[digit]
            assert low == pytest.approx(synthesis.ROWS[row], rel=0.03)
            assert high == pytest.approx(synthesis.COLUMNS[column], rel=0.03)


@pytest.mark.parametrize("lengths", [(3, 2), (-1, 2), (2, 7)])
def test_lengths_that_do_not_fit_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="need 0 <= shortest"):
        dial(0, shortest=lengths[0], longest=lengths[1])


def test_the_tokenizer_gives_every_word_back(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    for text in (" ".join(WORDS), " ".join(reversed(WORDS)), "one one", ""):
        tokens = tokenizer(text).input_ids
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert len(tokens) == len(text.split()) + 3  # start, no timestamps, end


def test_training_is_repeatable_and_the_loss_falls() -> None:
    recipe = train.Recipe(steps=12, batch=4, warmup=2)
    processor = train.build_processor()
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = train.build_model(processor.tokenizer)
        runs.append(list(train.train(model, processor, recipe)))
    assert runs[0] == runs[1]
    losses = [loss for loss, _ in runs[0]]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
