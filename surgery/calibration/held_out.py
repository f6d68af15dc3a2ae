"""What a cut costs on rows that nothing was fitted to, window by window.

The original and the cut model read every window one after the other, so no output is kept. From
windows drawn again with replacement come the intervals: they say how far the figures could be off
on other rows like these, and nothing of rows unlike them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.calibration.data import CalibrationData
from surgery.calibration.speech import SpeechBatch, decoder_tokens, speech_batches, teach
from surgery.calibration.text import TextBatch, text_batches, token_windows_of
from surgery.calibration.witness import (
    Output,
    Scoped,
    evenly,
    output_of_speech,
    output_of_text,
    some_windows,
)
from surgery.errors import UsageError
from surgery.evaluation.bootstrap import Bootstrap, Estimate
from surgery.evaluation.drift import divergence
from surgery.evaluation.perplexity import Windows, token_losses
from surgery.evaluation.transcribe import longest_text, room_after, transcribe
from surgery.evaluation.wer import WordErrors, word_errors_each
from surgery.events import Event, Progress

STAGE = "Measuring on held-out rows"
WINDOWS = 16  # of sound at most
TOKENS = 12_000  # at most

InPlace = Callable[[], AbstractContextManager[None]]
"""Runs the model as if it had been cut, inside."""


@dataclass(frozen=True)
class Change:
    """A figure of the original and of the cut model, and how far the difference could be off.

    ``words`` is how many were said, of a word error rate.
    """

    before: float
    after: float
    difference: Estimate
    words: int | None = None


@dataclass(frozen=True)
class Price:
    """What a cut costs on held-out rows.

    Attributes:
        rows: Windows that were read.
        output: Which output is compared.
        error: Relative error of that output, or its divergence in nats a token.
        agreement: Share of positions with the same most likely next token; ``None`` where no
            token is predicted.
        perplexity: Of a model that predicts text, on text; the difference is of its logarithm.
        word_errors: Word error rate, where the words of all recordings are known.
    """

    rows: int
    output: Output
    error: Estimate
    agreement: float | None = None
    perplexity: Change | None = None
    word_errors: Change | None = None


@dataclass
class _Sums:
    """Sums of each window, and what the mean over all of them needs."""

    errors: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    totals: list[Tensor] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    agreeing: int = 0
    predicted: int = 0
    losses: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    scored: list[int] = field(default_factory=list)

    def add_states(self, before: Tensor, after: Tensor) -> None:
        y, z = before.cpu().double(), after.cpu().double()
        self.errors.append(float((z - y).square().sum()))
        self.squares.append(float(y.square().sum()))
        self.totals.append(y.sum(dim=0))
        self.positions.append(y.shape[0])

    def add_logits(self, before: Tensor, after: Tensor, *, as_output: bool) -> None:
        self.agreeing += int((before.argmax(dim=-1) == after.argmax(dim=-1)).sum())
        self.predicted += before.shape[0]
        if as_output:
            self.nats.append(divergence(before, after))
            self.positions.append(before.shape[0])

    def add_losses(self, before: Tensor, after: Tensor, window: Windows) -> None:
        for losses, logits in zip(self.losses, (before, after), strict=True):
            losses.append(float(token_losses(logits, window).sum()))
        self.scored.append(window.tokens.numel() - max(window.first, 1))

    def error(self) -> Estimate:
        draws = Bootstrap()
        if self.nats:
            return draws.ratio(self.nats, self.positions).estimate
        mean = torch.stack(self.totals).sum(dim=0) / sum(self.positions)
        spreads = [
            square - float(2 * (mean @ total)) + count * float(mean @ mean)
            for square, total, count in zip(self.squares, self.totals, self.positions, strict=True)
        ]
        return draws.ratio(self.errors, spreads, then=np.sqrt).estimate

    def perplexity(self) -> Change | None:
        if not sum(self.scored):
            return None
        draws = Bootstrap()
        before, after = (draws.ratio(losses, self.scored) for losses in self.losses)
        figures = [float(np.exp(min(each.value, 700.0))) for each in (before, after)]
        return Change(figures[0], figures[1], after.minus(before))


class HeldOut:
    """Held-out rows of one model, and what it makes of them.

    Args:
        model: A stock transformers model, dense, in evaluation mode.
        sites: The blocks that are cut: they decide which output is compared.
        data: The rows.
        processor: Whisper's processor, or the tokenizer of a language model.
        language: What is spoken, for a multilingual Whisper's decoder.
        batch: Windows at once.
    """

    def __init__(
        self,
        model: Any,
        sites: Sequence[Scoped],
        data: CalibrationData,
        processor: Any,
        *,
        language: str = "en",
        batch: int = 4,
    ) -> None:
        self._model, self._processor, self._language = model, processor, language
        self._batch = batch
        self._said: list[str] | None = None
        self.output: Output
        if data.kind == "audio":
            self._recordings = evenly(data.recordings, WINDOWS)
            self.output = output_of_speech(sites)
            return
        self._recordings = []
        self.output = output_of_text(model)
        self._windows = some_windows(token_windows_of(model, processor, data.documents), TOKENS)

    @torch.no_grad()
    def price(self, in_place: InPlace, progress: Progress) -> Price:
        """Return what a cut costs here, word errors aside.

        Args:
            in_place: Puts the cut in place.
            progress: Called with :class:`surgery.events.Event`.
        """
        sums = _Sums()
        steps = self._hear(sums, in_place) if self._recordings else self._read(sums, in_place)
        total = len(self._recordings or self._windows)
        done = 0
        progress(Event(STAGE, done, total))
        for windows in steps:
            done += windows
            progress(Event(STAGE, min(done, total), total))
        progress(Event(STAGE, total, total))
        return Price(
            rows=len(sums.positions),
            output=self.output,
            error=sums.error(),
            agreement=sums.agreeing / sums.predicted if sums.predicted else None,
            perplexity=sums.perplexity(),
        )

    @property
    def _all_words(self) -> bool:
        known = [each.words for each in self._recordings]
        return bool(known) and all(known) and hasattr(self._model, "generate")

    def _hear(self, sums: _Sums, in_place: InPlace) -> Iterator[int]:
        model = self._model
        for batch in speech_batches(
            model, self._processor, self._recordings, padding_weight=0.0, batch=self._batch
        ):
            heard = [model.get_encoder()(batch.features).last_hidden_state]
            tokens = self._taught(batch, heard[0])
            with in_place():
                heard.append(model.get_encoder()(batch.features).last_hidden_state)
                after = None if tokens is None else self._predicted(tokens[0], heard[1])
            before = None if tokens is None else self._predicted(tokens[0], heard[0])
            for row in range(len(batch.words)):
                if self.output == "encoder output":
                    counted = (batch.frames[row] == 1).to(heard[0].device)
                    sums.add_states(heard[0][row][counted], heard[1][row][counted])
                if tokens is not None and before is not None and after is not None:
                    counted = (tokens[1][row] > 0).to(before.device)
                    as_output = self.output == "next token"
                    pair = before[row][counted], after[row][counted]
                    sums.add_logits(*pair, as_output=as_output)
            yield len(batch.words)

    def _taught(self, batch: SpeechBatch, heard: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what the decoder is fed; ``None`` where the model has none that writes."""
        if not hasattr(self._model, "generate"):
            return None
        return decoder_tokens(self._model, self._processor, batch, heard, self._language)

    def _predicted(self, tokens: Tensor, heard: Tensor) -> Tensor:
        logits: Tensor = teach(self._model, heard, tokens).logits
        return logits

    def _read(self, sums: _Sums, in_place: InPlace) -> Iterator[int]:
        # One window at a time: logits of a large vocabulary are what takes the memory.
        for window, batch in zip(self._windows, text_batches(self._windows, 1), strict=True):
            before = self._outputs(batch)
            with in_place():
                after = self._outputs(batch)
            new = slice(window.first, None)
            if self.output == "next token":
                sums.add_logits(before[new], after[new], as_output=True)
                if window.tokens.numel() > max(window.first, 1):
                    sums.add_losses(before, after, window)
                else:  # a document of one token has nothing to predict it from
                    sums.scored.append(0)
                    for losses in sums.losses:
                        losses.append(0.0)
            else:
                sums.add_states(before[new], after[new])
            yield 1

    def _outputs(self, batch: TextBatch) -> Tensor:
        if self.output == "next token":
            rows: Tensor = batch.run(self._model).logits[0]
        else:
            rows = batch.run(self._model.base_model).last_hidden_state[0]
        return rows.float()

    def word_errors(
        self, in_place: InPlace, told: Callable[[float], None] = lambda _: None
    ) -> Change | None:
        """Return word error rates; ``None`` where not all words are known, or none is written.

        Args:
            in_place: Puts the cut in place.
            told: Called with which share of the work is done.
        """
        if not self._all_words:
            return None
        words = [each.words or "" for each in self._recordings]
        audio = [each.audio() for each in self._recordings]

        def heard(longest: int, before: float) -> list[str]:
            return transcribe(
                self._model,
                self._processor,
                audio,
                language=self._language,
                batch=self._batch,
                max_new_tokens=longest,
                told=lambda share: told(before + share / 2),
            )

        if self._said is None:
            self._said = heard(longest_text(self._model), 0.0)
        said = [self._said]
        with in_place():
            said.append(heard(room_after(self._model, self._processor, said[0]), 0.5))
        try:
            errors = [word_errors_each(words, texts, language=self._language) for texts in said]
        except UsageError:  # transcripts without a word
            return None
        return _rates(*errors)


def _rates(before: Sequence[WordErrors], after: Sequence[WordErrors]) -> Change:
    draws = Bootstrap()
    rates = [
        draws.ratio([one.errors for one in some], [one.words for one in some])
        for some in (before, after)
    ]
    words = sum(one.words for one in before)
    return Change(rates[0].value, rates[1].value, rates[1].minus(rates[0]), words)
