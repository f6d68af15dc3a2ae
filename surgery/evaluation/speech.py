"""Several Whisper models on the same recordings: texts, drift and times, in one pass.

The first model is the reference. Batch by batch every model hears the same windows, one model
after another, so that whatever slows the machine for a while slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from surgery.errors import UsageError
from surgery.evaluation.audio import SAMPLE_RATE, Audio, split, window
from surgery.evaluation.drift import (
    EncoderDrift,
    EncoderErrors,
    OutputDrift,
    OutputErrors,
    filled_frames,
)
from surgery.evaluation.layers import LayerErrors, hidden_states, stack
from surgery.evaluation.timing import at_once, timed
from surgery.evaluation.transcribe import (
    AUTO,
    extract_features,
    generation_options,
    is_multilingual,
    joined,
    most_tokens,
    transcribe_windows,
)
from surgery.evaluation.vocabulary import check_tokens, rows_of


class Recording(Protocol):
    """A recording that is read when it is heard."""

    @property
    def words(self) -> str | None:
        """What is said, where that is known."""

    def audio(self) -> Audio:
        """Read it."""


@dataclass(frozen=True)
class SpeechRun:
    """What one model made of the recordings.

    Attributes:
        texts: One a recording.
        encoder: Drift of the encoder's output; ``None`` for the reference itself, and where the
            two outputs have different shapes.
        decoder: Drift of the logits while both models are told the reference's text, each on its
            own encoder's output; ``None`` likewise.
        layers: Relative error after each layer of ``encoder`` (frames that hold sound) and
            ``decoder``; empty likewise.
        transcribing: Seconds of every batch, encoder included.
        encoding: Seconds of every batch in the encoder alone.
    """

    texts: list[str]
    encoder: EncoderDrift | None
    decoder: OutputDrift | None
    layers: dict[str, list[float]]
    transcribing: list[float]
    encoding: list[float]


@dataclass
class _Running:
    """One model while the batches go by."""

    model: Any
    options: dict[str, Any]
    longest: int
    texts: list[str] = field(default_factory=list)  # of the batch that is being heard
    pieces: list[list[str]] = field(default_factory=list)  # of every recording, window by window
    transcribing: list[float] = field(default_factory=list)
    encoding: list[float] = field(default_factory=list)
    comparable: bool = True

    def __post_init__(self) -> None:
        self.encoder, self.decoder = EncoderErrors(self.longest), OutputErrors()
        self.layers = {"encoder": LayerErrors(), "decoder": LayerErrors()}

    def result(self, *, reference: bool) -> SpeechRun:
        texts = [joined(pieces) for pieces in self.pieces]
        if reference or not self.comparable:
            return SpeechRun(texts, None, None, {}, self.transcribing, self.encoding)
        layers = {name: errors.values for name, errors in self.layers.items() if errors.values}
        drifts = self.encoder.drift, self.decoder.drift
        return SpeechRun(texts, *drifts, layers, self.transcribing, self.encoding)


@dataclass(frozen=True)
class _States:
    """What one model computes of some windows."""

    output: Tensor
    logits: Tensor
    encoder: list[Tensor]
    decoder: list[Tensor]


def compare_speech(
    models: Sequence[Any],
    processor: Any,
    recordings: Sequence[Recording],
    *,
    language: str = "en",
    batch: int = 8,
    max_new_tokens: int | None = None,
    warm_up: bool = False,
    told: Callable[[float], None] | None = None,
) -> tuple[list[SpeechRun], list[float]]:
    """Let every model hear every recording.

    Args:
        models: ``WhisperForConditionalGeneration``, the reference first; all of one window.
        processor: Feature extractor and tokenizer of all of them.
        recordings: Read one by one; long ones are cut to windows at quiet moments.
        language: What is spoken; see :func:`surgery.evaluation.transcribe.transcribe`.
        batch: Windows at once.
        max_new_tokens: Longest text of one window; its sound and the model bound it as well.
        warm_up: Run the first batch once before it counts: for times that are to be compared.
        told: Called with how many recordings were heard before the newest window, with parts.

    Returns:
        One run a model, and the seconds of sound in every batch.

    Raises:
        UsageError: If an English-only model is asked for another language, or no language is named.
    """
    if language == AUTO and is_multilingual(models[0]):
        raise UsageError(
            "Models that are compared are told what is spoken: one may hear another language",
            found=f"--language {AUTO}",
            expected="a language, such as en",
        )
    longest = window(processor)
    running = [
        _Running(model, generation_options(model, language, max_new_tokens), longest)
        for model in models
    ]
    if is_multilingual(models[0]):
        processor.tokenizer.set_prefix_tokens(language=language, task="transcribe")
    for one in running:
        one.pieces += [[] for _ in recordings]
    windows = _windows(recordings, longest)
    heard = [0] * len(recordings)  # windows of each recording
    sound: list[float] = []
    while taken := list(islice(windows, batch)):
        owners, clips = [owner for owner, *_ in taken], [clip for _, clip, _ in taken]
        features, most = extract_features(processor, clips), most_tokens(clips)
        if warm_up and not sound:
            for one in running:
                transcribe_windows(one.model, processor, features, one.options, most)
        turn = len(sound) % len(running)  # who is first changes, should that be of advantage
        for one in (*running[turn:], *running[:turn]):
            one.texts, seconds = timed(
                one.model.device,
                transcribe_windows,
                one.model,
                processor,
                features,
                one.options,
                most,
            )
            one.transcribing.append(seconds)
            for owner, text in zip(owners, one.texts, strict=True):
                one.pieces[owner].append(text)
        _compare(running, processor, clips, features)
        sound.append(sum(clip.size for clip in clips) / SAMPLE_RATE)
        for owner in owners:
            heard[owner] += 1
        if told is not None:
            told(owner + (heard[owner] - 1) / taken[-1][2])
    runs = [one.result(reference=one is running[0]) for one in running]
    return runs, sound


def _windows(recordings: Sequence[Recording], longest: int) -> Iterator[tuple[int, Audio, int]]:
    """Yield every window: of which recording, what is heard, of how many."""
    for owner, recording in enumerate(recordings):
        pieces = split(recording.audio(), longest)
        yield from ((owner, piece, len(pieces)) for piece in pieces)


def _compare(
    running: Sequence[_Running],
    processor: Any,
    clips: Sequence[Audio],
    features: Tensor,
) -> None:
    """Run encoders and, told the reference's words, decoders; add up where they differ."""
    config = running[0].model.config
    width = config.max_source_positions * config.d_model * 4  # bytes a layer, float32
    step = at_once(width * (config.encoder_layers + 1), len(clips))
    seconds = [0.0] * len(running)
    for start in range(0, len(clips), step):
        chosen = slice(start, start + step)
        told = processor, running[0].texts[chosen], config.max_target_positions
        tokens, rows = _told(*told, rows_of(running[0].model))
        reference: _States | None = None
        for index, one in enumerate(running):
            states, spent = _states(one.model, features[chosen], tokens)
            seconds[index] += spent
            if reference is None:
                reference = states
            elif reference.output.shape != states.output.shape:
                one.comparable = False
            else:
                _add(one, clips[chosen], reference, states, rows)
    for one, spent in zip(running, seconds, strict=True):
        one.encoding.append(spent)


def _told(
    processor: Any, texts: Sequence[str], longest: int, rows: int | None
) -> tuple[Tensor, list[slice]]:
    """Return tokens for the decoder, (clips, length), and the positions that predict the text."""
    tokenizer = processor.tokenizer
    encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
    for ids in encoded["input_ids"].tolist():
        check_tokens(ids, rows, tokenizer)
    lengths = encoded["attention_mask"].sum(dim=-1).clamp(max=longest).tolist()
    first = len(tokenizer.prefix_tokens) - 1
    return encoded["input_ids"][:, :longest], [slice(first, length - 1) for length in lengths]


def _states(model: Any, features: Tensor, tokens: Tensor) -> tuple[_States, float]:
    inputs = features.to(device=model.device, dtype=model.dtype)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    with torch.inference_mode():
        with hidden_states(stack(encoder)) as encoded:
            heard, seconds = timed(model.device, encoder, inputs)
        with hidden_states(stack(decoder)) as decoded:
            logits = model(
                encoder_outputs=heard,
                decoder_input_ids=tokens.to(model.device),
                use_cache=False,
            ).logits
    return _States(heard.last_hidden_state, logits, encoded, decoded), seconds


def _add(
    one: _Running, clips: Sequence[Audio], ours: _States, theirs: _States, rows: Sequence[slice]
) -> None:
    one.encoder.add(clips, ours.output, theirs.output)
    for index, (clip, told) in enumerate(zip(clips, rows, strict=True)):
        filled = slice(filled_frames(clip, ours.output.shape[1], one.longest))
        one.decoder.add(ours.logits[index, told], theirs.logits[index, told], vocabulary=True)
        for tower, positions in (("encoder", filled), ("decoder", told)):
            pair = [
                [state[index, positions] for state in getattr(each, tower)]
                for each in (ours, theirs)
            ]
            one.layers[tower].add(*pair)
