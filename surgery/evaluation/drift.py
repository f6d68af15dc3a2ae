"""How far a restructured model's outputs lie from the original's, on the same real input.

Every figure has the form ``‖y' − y‖_F / ‖y − mean(y)‖_F``: zero where nothing changed, about
one where the output says nothing of the original's. The mean is taken out of the denominator
because a large constant part, which any model keeps, would make every error look small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.evaluation.audio import Audio, split, window
from surgery.evaluation.perplexity import Windows
from surgery.evaluation.transcribe import log_mel

ROWS = 128  # positions at once in float64: a vocabulary of 128,000 takes 130 MB a copy


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
    def value(self) -> float:
        """The relative error of everything added; infinite where the reference is constant."""
        if self._sum is None:
            return 0.0
        spread = self._square - float(self._sum.square().sum()) / self.rows
        if spread <= 1e-12 * self._square:
            return 0.0 if self._error == 0.0 else float("inf")
        return float((self._error / spread) ** 0.5)


def encoder_drift(
    original: Any, restructured: Any, processor: Any, audio: Sequence[Audio], *, batch: int = 4
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
    pieces = [piece for recording in audio for piece in split(recording, window(processor))]
    speech, everything = RelativeError(), RelativeError()
    for start in range(0, len(pieces), batch):
        clips = pieces[start : start + batch]
        ours = _encode(original, processor, clips)
        theirs = _encode(restructured, processor, clips)
        for clip, y, other in zip(clips, ours, theirs, strict=True):
            # One output frame stands for window / frames samples: 320 in every Whisper.
            filled = -(-clip.size * y.shape[0] // window(processor))
            speech.add(y[:filled], other[:filled])
            everything.add(y, other)
    return EncoderDrift(speech.value, everything.value, speech.rows)


def _encode(model: Any, processor: Any, clips: Sequence[Audio]) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model.get_encoder()(log_mel(model, processor, clips)).last_hidden_state
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
    relative = RelativeError()
    divergence, agreeing, with_logits = 0.0, 0, False
    for part in windows:
        ours, has_vocabulary = _outputs(original, part.tokens)
        theirs, _ = _outputs(restructured, part.tokens)
        # A position that two windows share counts in the first, as it does in the perplexity.
        for start in range(part.first, ours.shape[0], ROWS):
            y, other = (rows[start : start + ROWS].double() for rows in (ours, theirs))
            if has_vocabulary:
                with_logits = True
                y = y - y.mean(dim=-1, keepdim=True)
                other = other - other.mean(dim=-1, keepdim=True)
                p, q = y.log_softmax(dim=-1), other.log_softmax(dim=-1)
                divergence += float((p.exp() * (p - q)).sum())
                agreeing += int((y.argmax(dim=-1) == other.argmax(dim=-1)).sum())
            relative.add(y, other)
    rows = max(1, relative.rows)
    return OutputDrift(
        relative.value,
        max(0.0, divergence / rows) if with_logits else None,
        agreeing / rows if with_logits else None,
        relative.rows,
    )


def _outputs(model: Any, tokens: Tensor) -> tuple[Tensor, bool]:
    """Return the outputs of one window, shape (positions, columns), and whether logits."""
    with torch.inference_mode():
        output = model(input_ids=tokens.to(model.device)[None])
    logits: Tensor | None = getattr(output, "logits", None)
    values = output.last_hidden_state if logits is None else logits
    return values[0].cpu(), logits is not None
