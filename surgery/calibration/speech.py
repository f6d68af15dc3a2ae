"""Recordings to batches of Whisper windows: what the encoder hears, what the decoder writes.

The decoder is taught the words where they are known; where they are not (no transcripts, or a
recording cut to several windows), it follows the text that the model itself writes, greedily.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.calibration.hooks import Recorder, Weights
from surgery.calibration.own_text import own_texts
from surgery.calibration.variations import vary
from surgery.errors import UsageError
from surgery.evaluation.audio import SAMPLE_RATE, Audio, Utterance, split, window
from surgery.evaluation.drift import filled_frames
from surgery.evaluation.transcribe import (
    AUTO,
    ENGLISH,
    is_multilingual,
    log_mel,
    start_token,
)
from surgery.evaluation.vocabulary import check_tokens, rows_of


@dataclass(frozen=True, eq=False)
class SpeechBatch:
    """Some windows.

    Attributes:
        features: Log-mel, ``(windows, mel bins, frames)``, on the model's device.
        frames: Weight of each of the encoder's positions, float64, ``(windows, positions)``.
        words: What is said in each window, or nothing where that is not known.
        seconds: How much of each window is recording.
    """

    features: Tensor
    frames: Tensor
    words: tuple[str | None, ...]
    seconds: tuple[float, ...]


def count_windows(recordings: Sequence[Utterance], processor: Any) -> int:
    """Return about how many windows recordings fill, from their headers alone."""
    seconds = window(processor) / processor.feature_extractor.sampling_rate
    total = 0
    for recording in recordings:
        total += max(1, math.ceil(recording.seconds() / seconds))
    return total


def speech_batches(
    model: Any,
    processor: Any,
    recordings: Sequence[Utterance],
    *,
    padding_weight: float,
    batch: int,
    varied: bool = False,
) -> Iterator[SpeechBatch]:
    """Read recordings one by one and yield their windows, ``batch`` at once.

    Args:
        model: A Whisper.
        processor: Its processor.
        recordings: The recordings; long ones are cut at quiet moments.
        padding_weight: Weight of a frame of the silence that fills up a window.
        batch: Windows at once.
        varied: Vary the recordings in turn (see :mod:`surgery.calibration.variations`).
    """
    pending: list[tuple[Audio, str | None]] = []
    for turn, recording in enumerate(recordings):
        audio = vary(recording.audio(), turn) if varied else recording.audio()
        pieces = split(audio, window(processor))
        words = recording.words if len(pieces) == 1 else None
        pending += [(piece, words) for piece in pieces]
        while len(pending) >= batch:
            yield _batch(model, processor, pending[:batch], padding_weight)
            del pending[:batch]
    if pending:
        yield _batch(model, processor, pending, padding_weight)


def _batch(
    model: Any, processor: Any, pieces: Sequence[tuple[Audio, str | None]], padding_weight: float
) -> SpeechBatch:
    clips = [audio for audio, _ in pieces]
    positions = int(model.config.max_source_positions)
    frames = torch.full((len(clips), positions), padding_weight, dtype=torch.float64)
    for row, clip in enumerate(clips):
        frames[row, : filled_frames(clip, positions, window(processor))] = 1.0
    return SpeechBatch(
        log_mel(model, processor, clips),
        frames,
        words=tuple(words for _, words in pieces),
        seconds=tuple(clip.size / SAMPLE_RATE for clip in clips),
    )


def hear(
    recorder: Recorder,
    model: Any,
    processor: Any,
    batches: Iterable[SpeechBatch],
    *,
    decoder: bool,
    language: str,
) -> Iterator[int]:
    """Run the encoder on every batch while ``recorder`` listens, and the decoder where wanted.

    Yields how many windows were heard at a time.
    """
    for batch in batches:
        frames = batch.frames
        with recorder.listening({"encoder": Weights(frames, frames)}):
            heard = model.get_encoder()(batch.features).last_hidden_state
        if decoder:
            tokens, counted = decoder_tokens(model, processor, batch, heard, language)
            taught = Weights(counted, counted)
            with recorder.listening({"decoder": taught, "cross": Weights(counted, frames)}):
                teach(model.base_model, heard, tokens)
        yield len(batch.words)


def teach(model: Any, heard: Tensor, tokens: Tensor) -> Any:
    """Run a decoder on words that it is told, over encoder outputs; return what the model does."""
    return model(
        encoder_outputs=(heard,), decoder_input_ids=tokens.to(heard.device), use_cache=False
    )


def languages_of(model: Any, language: str, heard: Tensor) -> list[str]:
    """Return the code of the language of every window, or the one that was named.

    Args:
        model: A Whisper.
        language: What is spoken, or :data:`surgery.evaluation.transcribe.AUTO`.
        heard: Encoder outputs, ``(windows, positions, width)``.
    """
    if not is_multilingual(model):
        return [ENGLISH[0] if language == AUTO else language] * len(heard)
    if language != AUTO:
        return [language] * len(heard)
    codes = {token: word for word, token in model.generation_config.lang_to_id.items()}
    begun = torch.full((len(heard), 1), start_token(model.config))
    likely = teach(model, heard, begun).logits[:, -1, list(codes)].argmax(dim=-1).tolist()
    return [list(codes.values())[each].strip("<|>") for each in likely]


def prompt(model: Any, language: str) -> list[int]:
    """Return the tokens that come before the words: start, language, task, no timestamps.

    Raises:
        UsageError: An English-only model is asked for another language, or a multilingual one
            for a language it does not know.
    """
    generation = model.generation_config
    tokens = [start_token(model.config)]
    if is_multilingual(model):
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if f"<|{code}|>" not in generation.lang_to_id:
            raise UsageError("The model does not know this language.", found=language)
        tokens.append(int(generation.lang_to_id[f"<|{code}|>"]))
        tokens.append(int(generation.task_to_id["transcribe"]))
    elif language.lower() not in ENGLISH:
        raise UsageError("This model knows English only.", found=language, expected="en")
    no_timestamps = getattr(generation, "no_timestamps_token_id", None)
    return tokens if no_timestamps is None else [*tokens, int(no_timestamps)]


def decoder_tokens(
    model: Any, processor: Any, batch: SpeechBatch, heard: Tensor, language: str
) -> tuple[Tensor, Tensor]:
    """Return what the decoder is fed, ``(windows, tokens)``, and the weights of its positions."""
    languages = languages_of(model, language, heard)
    starts = [prompt(model, each) for each in languages]
    longest = int(model.config.max_target_positions)
    unknown = {
        row: (batch.features[row], batch.seconds[row], languages[row])
        for row, words in enumerate(batch.words)
        if words is None
    }
    written = own_texts(model, processor, unknown, heard, longest - len(starts[0]))
    for row, words in enumerate(batch.words):
        if words is not None:
            # Whisper's words begin with a space, the first one too.
            text = f" {words}" if words else ""
            written[row] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = [[*start, *written[row]][:longest] for row, start in enumerate(starts)]
    for own in rows:
        check_tokens(own, rows_of(model), processor.tokenizer)
    tokens = torch.full((len(rows), max(map(len, rows))), rows[0][0], dtype=torch.int64)
    weights = torch.zeros(tokens.shape, dtype=torch.float64)
    for row, own in enumerate(rows):
        tokens[row, : len(own)] = torch.tensor(own)
        weights[row, : len(own)] = 1.0
    return tokens, weights
