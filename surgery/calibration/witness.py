"""A few inputs on which a model's output is known: what a cut does to it, as one number.

*Damage* is the squared relative error of an encoder's output (over frames of sound, or tokens),
or, of a model that predicts tokens, the KL divergence of the original's next-token distribution
from the cut model's, in nats a position. Both are zero where nothing changed, and both grow as
the square of a small change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from surgery.architectures.base import Scope
from surgery.architectures.known import predicts_next
from surgery.calibration.data import CalibrationData
from surgery.calibration.speech import SpeechBatch, decoder_tokens, speech_batches, teach
from surgery.calibration.text import TextBatch, text_batches, token_windows_of
from surgery.evaluation.drift import RelativeError, divergence
from surgery.evaluation.perplexity import Windows

Output = Literal["encoder output", "last hidden state", "next token"]
OUTPUTS: tuple[Output, ...] = ("encoder output", "last hidden state", "next token")

_T = TypeVar("_T")

RECORDINGS = 8
TOKENS = 4096
REMEMBERED = 1 << 26  # numbers of the original's outputs that are kept (256 MB)


def error_of(output: Output, damage: float) -> float:
    """Return what people are told of a damage: a relative error, or the divergence itself."""
    return damage if output == "next token" else sqrt(max(damage, 0.0))


class Scoped(Protocol):
    """A block of any kind."""

    @property
    def scope(self) -> Scope:
        """Its tower; cross-attention is in the decoder."""


def output_of_speech(sites: Sequence[Scoped]) -> Output:
    """Return which output of a Whisper shows what cutting these blocks does."""
    encoder = all(site.scope == "encoder" for site in sites)
    return "encoder output" if encoder else "next token"


def output_of_text(model: Any) -> Output:
    """Return which output of a text model shows what cutting it does."""
    predicts = predicts_next(model.config.model_type)
    return (
        "next token"
        if predicts and model.get_output_embeddings() is not None
        else "last hidden state"
    )


def unit_of(output: Output) -> str:
    """Return the unit of the error."""
    return "nat/token" if output == "next token" else "relative"


class Inputs(ABC):
    """A few inputs of a model.

    Args:
        model: It, on its device, in evaluation mode.

    Attributes:
        output: Which output is compared.
    """

    output: Output

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def __len__(self) -> int:
        """How many batches there are."""

    @abstractmethod
    def rows(self) -> Iterator[Tensor]:
        """Yield outputs, (positions, columns), batch by batch; only positions that count."""


class SpeechInputs(Inputs):
    """Windows of sound: what a Whisper's encoder says of them, or which token it writes next."""

    def __init__(self, model: Any, batches: Sequence[SpeechBatch], tokens: Any) -> None:
        super().__init__(model)
        self._batches, self._tokens = batches, tokens
        self.output = "encoder output" if tokens is None else "next token"

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def rows(self) -> Iterator[Tensor]:
        """Run the model on every batch."""
        for number, batch in enumerate(self._batches):
            heard = self.model.get_encoder()(batch.features).last_hidden_state
            if self._tokens is None:
                yield heard[(batch.frames == 1).to(heard.device)]
                continue
            tokens, weights = self._tokens[number]
            logits = teach(self.model, heard, tokens).logits
            yield logits[(weights > 0).to(logits.device)]


class TextInputs(Inputs):
    """Windows of text."""

    def __init__(self, model: Any, batches: Sequence[TextBatch]) -> None:
        super().__init__(model)
        self._batches = batches
        self.output = output_of_text(model)

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def rows(self) -> Iterator[Tensor]:
        """Run the model on every batch."""
        for batch in self._batches:
            counted = batch.weights.queries > 0
            if self.output == "next token":
                rows = batch.run(self.model).logits
            else:
                rows = batch.run(self.model.base_model).last_hidden_state
            yield rows[counted.to(rows.device)]


class Witness:
    """Inputs, and what the original makes of them.

    Args:
        inputs: Of the original, as it is.

    Attributes:
        model: The original.
        output: Which output is compared.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.model, self.output, self._inputs = inputs.model, inputs.output, inputs
        with torch.no_grad():
            self._original = [rows.float() for rows in inputs.rows()]

    def damage(self) -> float:
        """Run the model as it is now, hooks and all, and return the damage."""
        relative, nats, positions = RelativeError(), 0.0, 0
        with torch.no_grad():
            for before, after in zip(self._original, self._inputs.rows(), strict=True):
                if self.output == "next token":
                    nats += divergence(before, after)
                    positions += before.shape[0]
                else:
                    relative.add(before, after)
        if self.output == "next token":
            # In this order NaN stays NaN: a model that breaks is not unharmed.
            return max(nats / max(1, positions), 0.0)
        return relative.value**2


def inputs_of(
    model: Any,
    sites: Sequence[Scoped],
    data: CalibrationData,
    processor: Any,
    *,
    batch: int = 4,
    language: str = "en",
    share: int = 1,
) -> Inputs:
    """Choose a few of the calibration's samples, evenly.

    Args:
        model: A stock transformers model, dense, in evaluation mode.
        sites: The blocks that will be cut: they decide which output is compared.
        data: The calibration data.
        processor: Whisper's processor, or the tokenizer of a language model.
        batch: Windows at once.
        language: What is spoken, for a multilingual Whisper's decoder.
        share: How many times as many as a witness remembers.
    """
    if data.kind == "audio":
        chosen = evenly(data.recordings, share * RECORDINGS)
        batches = list(speech_batches(model, processor, chosen, padding_weight=0.0, batch=batch))
        tokens = None
        if output_of_speech(sites) == "next token":
            tokens = []
            for each in batches:
                with torch.no_grad():
                    heard = model.get_encoder()(each.features).last_hidden_state
                    tokens.append(decoder_tokens(model, processor, each, heard, language))
        return SpeechInputs(model, batches, tokens)
    windows = token_windows_of(model, processor, data.documents)
    columns = max(int(getattr(model.config, "vocab_size", 1)), 1)
    most = share * max(1, min(TOKENS, REMEMBERED // columns))
    return TextInputs(model, list(text_batches(some_windows(windows, most), batch)))


def some_windows(windows: Sequence[Windows], tokens: int) -> list[Windows]:
    """Return windows of about so many tokens together, at least one, spread over all of them."""
    mean = max(1, sum(each.tokens.numel() for each in windows) // max(1, len(windows)))
    return evenly(windows, max(1, tokens // mean))


def evenly(items: Sequence[_T], most: int) -> list[_T]:
    """Return at most so many items, spread over all of them."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * most)] for number in range(most)]
