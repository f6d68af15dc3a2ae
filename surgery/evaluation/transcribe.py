"""Recordings to text with any Whisper that transformers runs, restructured or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from surgery.errors import CheckpointError, UsageError
from surgery.evaluation.audio import SAMPLE_RATE, Audio, split, window

ENGLISH = ("en", "english")

TOKENS_PER_SECOND, SPARE = 12, 16
"""No speech has more: a damaged model repeats itself without end, and all would wait for it."""

BESIDE = 8
"""Tokens that a damaged model's text may be longer than twice the original's."""

PROMPT = 4
"""Tokens before the words at most: start, language, task, no timestamps."""

AUTO = "auto"
"""For a language: the one that the model hears, recording by recording."""


def transcribe(
    model: Any,
    processor: Any,
    audio: Sequence[Audio],
    *,
    language: str = "en",
    batch: int = 8,
    max_new_tokens: int | None = None,
    told: Callable[[float], None] | None = None,
) -> list[str]:
    """Return one text a recording: greedy, without timestamps, stripped.

    A recording longer than the model's window is cut at quiet moments and its texts are
    joined: no context is carried from piece to piece, so that a repetition cannot spread.

    Args:
        model: A ``WhisperForConditionalGeneration``, on any device, in any float dtype.
        processor: Its processor: feature extractor and tokenizer.
        audio: Mono float32 at 16 kHz, shape (samples,) each.
        language: What is spoken, as Whisper's code or English name. A multilingual model is
            told (its own guess, with :data:`AUTO`, would make two runs hard to compare); an
            English-only model knows one language and takes no token for it.
        batch: Windows at once.
        max_new_tokens: Longest text of one window; never more than its sound can hold, see
            :func:`most_tokens`, or than the model's own limit.
        told: Called with which share of all windows was heard.

    Raises:
        UsageError: If the model is asked for a language that it does not know.
    """
    options = generation_options(model, language, max_new_tokens)
    pieces = [split(recording, window(processor)) for recording in audio]
    flat = [piece for recording in pieces for piece in recording]
    texts: list[str] = []
    for start in range(0, len(flat), batch):
        clips = flat[start : start + batch]
        features = extract_features(processor, clips)
        texts += transcribe_windows(model, processor, features, options, most_tokens(clips))
        if told is not None:
            told(min(start + batch, len(flat)) / len(flat))
    rest = iter(texts)
    return [joined(next(rest) for _ in recording) for recording in pieces]


def generation_options(
    model: Any, language: str = "en", max_new_tokens: int | None = None
) -> dict[str, Any]:
    """Return what ``generate`` is told for greedy texts; see :func:`transcribe`.

    Raises:
        UsageError: If the model is asked for a language that it does not know.
    """
    options: dict[str, Any] = {"num_beams": 1, "do_sample": False, "return_timestamps": False}
    if is_multilingual(model):
        _check_known(model, language)
        options |= {"language": None if language == AUTO else language, "task": "transcribe"}
    elif language.lower() not in (*ENGLISH, AUTO):
        raise UsageError("This model knows English only.", found=language, expected="en")
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    return options


def _check_known(model: Any, language: str) -> None:
    """Refuse a language that left with its vocabulary: nothing may be written as another.

    Raises:
        UsageError: Says which there are.
    """
    known = getattr(model.generation_config, "lang_to_id", None)
    if language == AUTO or not known:
        return
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if f"<|{code}|>" not in known and code in TO_LANGUAGE_CODE.values():
        raise UsageError(
            "This model does not know the language",
            found=language,
            expected=", ".join(sorted(name.strip("<|>") for name in known)),
            hint="use the model that its vocabulary was trimmed from",
        )


def start_token(config: Any) -> int:
    """Return the token that a Whisper's decoder is told first.

    Args:
        config: The model's configuration.

    Raises:
        CheckpointError: There is none, or it is no row of the embedding.
    """
    token = config.decoder_start_token_id
    if not isinstance(token, int) or not 0 <= token < config.vocab_size:
        raise CheckpointError(
            "config.json does not say which token a text begins with",
            where="config.json: decoder_start_token_id",
            found=token,
            expected=f"one of the {config.vocab_size} tokens that the model has",
            hint="compare the file with that of the original model",
        )
    return token


def longest_text(model: Any) -> int:
    """Return how many tokens openai-whisper lets a window have."""
    return int(model.config.max_target_positions) // 2


def room_after(model: Any, processor: Any, texts: Sequence[str]) -> int:
    """Return how many tokens a damaged model's text of a window may take: twice the original's.

    Args:
        model: The model.
        processor: Its processor.
        texts: What the original said.
    """
    tokens = processor.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return min(longest_text(model), 2 * max(map(len, tokens)) + BESIDE)


def most_tokens(clips: Sequence[Audio]) -> list[int]:
    """Return how many tokens the words of each clip take at most, by its length."""
    return [math.ceil(TOKENS_PER_SECOND * clip.size / SAMPLE_RATE) + SPARE for clip in clips]


def transcribe_windows(
    model: Any, processor: Any, features: Tensor, options: dict[str, Any], most: Sequence[int]
) -> list[str]:
    """Return the text of every window, stripped.

    Args:
        model: A ``WhisperForConditionalGeneration``.
        processor: Its processor.
        features: From :func:`extract_features`.
        options: From :func:`generation_options`.
        most: From :func:`most_tokens`; a text that is longer is cut there, so that it does not
            depend on what else is in the batch.
    """
    own = min(
        int(model.config.max_target_positions),
        int(model.generation_config.max_length or model.config.max_target_positions),
    )
    limit = min(max(most), max(1, own - PROMPT))
    options = {**options, "max_new_tokens": min(limit, options.get("max_new_tokens", limit))}
    inputs = features.to(device=model.device, dtype=model.dtype)
    # The encoder hears the padding as silence, as in Whisper's own code; the mask of ones
    # only tells `generate` that nothing is to be guessed from the padding token.
    mask = torch.ones(inputs.shape[0], inputs.shape[-1], device=inputs.device)
    with torch.inference_mode(), _settled_by("generation_config.json"):
        tokens = model.generate(input_features=inputs, attention_mask=mask, **options)
    specials = set(processor.tokenizer.all_special_ids)
    words = [
        [token for token in row if token not in specials][:longest]
        for row, longest in zip(tokens.tolist(), most, strict=True)
    ]
    return [text.strip() for text in processor.batch_decode(words, skip_special_tokens=True)]


def joined(texts: Iterable[str]) -> str:
    """Return the text of a recording from those of its windows."""
    return " ".join(text for text in texts if text)


def is_multilingual(model: Any) -> bool:
    """Whether a Whisper model expects language and task tokens."""
    generation = model.generation_config
    known = bool(getattr(generation, "lang_to_id", None))
    return bool(getattr(generation, "is_multilingual", known))


def log_mel(model: Any, processor: Any, audio: Sequence[Audio]) -> Tensor:
    """Return log-mel features, shape (clips, mel bins, frames), on the model's device and dtype.

    Every clip is padded with silence to the model's window; ``audio`` must fit into it.
    """
    return extract_features(processor, audio).to(device=model.device, dtype=model.dtype)


def extract_features(processor: Any, audio: Sequence[Audio]) -> Tensor:
    """Return log-mel features as :func:`log_mel`, in float32 on the CPU, for any model."""
    with _settled_by("preprocessor_config.json"):
        extracted = processor.feature_extractor(
            list(audio), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        )
        features: Tensor = extracted.input_features
    return features


@contextmanager
def _settled_by(file: str) -> Iterator[None]:
    """Tell what transformers refuses to do as the fault of the file that settles how it is done.

    Raises:
        CheckpointError: It refused.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"Recordings cannot be transcribed as {file} and config.json say",
            found=" ".join(f"{type(error).__name__}: {error}".split()),
            hint="compare the files with those of the original model",
        ) from error
