"""How far a restructured model's outputs lie from the original's, on the same real input.

Every figure has the form ``‖y' − y‖_F / ‖y − mean(y)‖_F``: zero where nothing changed, about
one where the output says nothing of the original's. The mean is taken out of the denominator
because a large constant part, which any model keeps, would make every error look small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from surgery.evaluation.audio import Audio, split, window
from surgery.evaluation.perplexity import Windows
from surgery.evaluation.transcribe import extract_features

AT_ONCE = 1 << 18
"""Numbers in float64 at once (2 MB): more do not fit a cache, and take four times as long."""


@dataclass(frozen=True)
class EncoderDrift:
    """Relative error of a Whisper encoder's output.

    Attributes:
        speech: Over the frames a recording fills: what the figure is usually about.
        window: Over all frames, the silence that fills up the window included.
        frames: Frames behind ``speech``.
    """

    speech: float
    window: float
    frames: int


@dataclass(frozen=True)
class OutputDrift:
    """Error of a text model's output over all positions of a text.

    Attributes:
        relative: Relative error of the logits, or of the last hidden states of a model
            without a vocabulary.
        divergence: KL divergence of the original's next-token distribution from the other's,
            nats a position; ``None`` without logits.
        agreement: Share of positions with the same most likely token; ``None`` without logits.
        positions: Token positions compared.
    """

    relative: float
    divergence: float | None
    agreement: float | None
    positions: int


class RelativeError:
    """Running sums of ``‖y' − y‖² / ‖y − mean(y)‖²`` over rows, in float64.

    The mean is that of each column over all rows ever added, so rows can come in any pieces.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._error = 0.0
        self._square = 0.0
        self._sum: Tensor | None = None

    def add(self, reference: Tensor, other: Tensor) -> None:
        """Add rows: two tensors of one shape, (rows, columns)."""
        y = reference.detach().double().cpu()
        self.rows += y.shape[0]
        self._error += float((other.detach().double().cpu() - y).square().sum())
        self._square += float(y.square().sum())
        total = y.sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total

    @property
    def spread(self) -> float:
        """``‖y − mean(y)‖²`` of everything added."""
        if self._sum is None:
            return 0.0
        return self._square - float(self._sum.square().sum()) / self.rows

    @property
    def value(self) -> float:
        """The relative error of everything added; infinite where the reference is constant."""
        if self._sum is None:
            return 0.0
        spread = self.spread
        if spread <= 1e-12 * self._square:
            return 0.0 if self._error == 0.0 else float("inf")
        return float((self._error / spread) ** 0.5)


def encoder_drift(
    original: Any, restructured: Any, processor: Any, audio: Iterable[Audio], *, batch: int = 4
) -> EncoderDrift:
    """Compare two Whisper encoders on the same recordings.

    The definition: with y and y' the encoder outputs (after its last layer norm), of all
    recordings together, ``‖y' − y‖_F / ‖y − mean(y)‖_F``, the mean of each channel taken over
    the same frames as the norms.

    Args:
        original: A Whisper model with ``get_encoder()``.
        restructured: Another, with the same window and width.
        processor: The processor of both.
        audio: Mono float32 at 16 kHz, shape (samples,) each; long ones are cut to windows.
        batch: Windows at once.
    """
    pieces = (piece for recording in audio for piece in split(recording, window(processor)))
    errors = EncoderErrors(window(processor))
    while clips := list(islice(pieces, batch)):
        features = extract_features(processor, clips)
        errors.add(clips, encode(original, features), encode(restructured, features))
    return errors.drift


class EncoderErrors:
    """What :class:`EncoderDrift` tells, over windows that come in pieces.

    Args:
        longest: Samples of a window.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._speech, self._window = RelativeError(), RelativeError()

    def add(self, clips: Sequence[Audio], reference: Tensor, other: Tensor) -> None:
        """Add windows: what they hold, and two encoders' outputs (clips, frames, width)."""
        for clip, y, z in zip(clips, reference, other, strict=True):
            filled = filled_frames(clip, y.shape[0], self._longest)
            self._speech.add(y[:filled], z[:filled])
            self._window.add(y, z)

    @property
    def drift(self) -> EncoderDrift:
        """The drift of everything added."""
        return EncoderDrift(self._speech.value, self._window.value, self._speech.rows)


def filled_frames(clip: Audio, frames: int, longest: int) -> int:
    """Return how many of a window's output frames a clip fills (320 samples each in Whisper)."""
    return -(-clip.size * frames // longest)


def encode(model: Any, features: Tensor) -> Tensor:
    """Return a Whisper encoder's output of log-mel features, shape (clips, frames, width)."""
    with torch.inference_mode():
        inputs = features.to(device=model.device, dtype=model.dtype)
        output: Tensor = model.get_encoder()(inputs).last_hidden_state
    return output


def output_drift(original: Any, restructured: Any, windows: Iterable[Windows]) -> OutputDrift:
    """Compare the outputs of two text models at every token position.

    Logits are compared with each position's mean over the vocabulary removed, in both models:
    adding one number to all logits changes no probability.

    Args:
        original: A causal language model, or any model with ``last_hidden_state``.
        restructured: Another, with the same vocabulary.
        windows: Token ids, from :func:`surgery.evaluation.perplexity.token_windows`.
    """
    errors = OutputErrors()
    for part in windows:
        ours, has_vocabulary = _outputs(original, part.tokens)
        theirs, _ = _outputs(restructured, part.tokens)
        # A position that two windows share counts in the first, as it does in the perplexity.
        errors.add(ours[part.first :], theirs[part.first :], vocabulary=has_vocabulary)
    return errors.drift


def divergence(reference: Tensor, other: Tensor) -> float:
    """Return KL(reference || other) summed over positions, in nats, in float64.

    Args:
        reference: The original's logits, shape (positions, vocabulary).
        other: The other model's, of the same shape.
    """
    total = 0.0
    for y, z in _pieces(reference, other):
        p, q = y.log_softmax(dim=-1), z.log_softmax(dim=-1)
        total += float((p.exp() * (p - q)).sum())
    return total


def _pieces(reference: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some rows of both at a time, in float64 on the CPU."""
    step = max(1, AT_ONCE // max(1, reference.shape[1]))
    for start in range(0, reference.shape[0], step):
        y, z = (rows[start : start + step].cpu().double() for rows in (reference, other))
        yield y, z


class OutputErrors:
    """What :class:`OutputDrift` tells, over positions that come in pieces."""

    def __init__(self) -> None:
        self._relative = RelativeError()
        self._divergence = 0.0
        self._agreeing = 0
        self._vocabulary = False

    def add(self, reference: Tensor, other: Tensor, *, vocabulary: bool) -> None:
        """Add positions.

        Args:
            reference: The original's outputs, shape (positions, columns).
            other: The other model's, of the same shape.
            vocabulary: Whether they are logits.
        """
        self._vocabulary |= vocabulary
        for y, z in _pieces(reference, other):
            if vocabulary:
                y = y - y.mean(dim=-1, keepdim=True)
                z = z - z.mean(dim=-1, keepdim=True)
                self._divergence += divergence(y, z)
                self._agreeing += int((y.argmax(dim=-1) == z.argmax(dim=-1)).sum())
            self._relative.add(y, z)

    @property
    def drift(self) -> OutputDrift:
        """The drift of everything added."""
        rows = max(1, self._relative.rows)
        return OutputDrift(
            self._relative.value,
            max(0.0, self._divergence / rows) if self._vocabulary else None,
            self._agreeing / rows if self._vocabulary else None,
            self._relative.rows,
        )


def _outputs(model: Any, tokens: Tensor) -> tuple[Tensor, bool]:
    """Return the outputs of one window, shape (positions, columns), and whether logits."""
    with torch.inference_mode():
        output = model(input_ids=tokens.to(model.device)[None])
    logits: Tensor | None = getattr(output, "logits", None)
    values = output.last_hidden_state if logits is None else logits
    return values[0].cpu(), logits is not None
