"""What real input told before a cut, and whether it came true: plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sensitivity:
    """How much a model's output moves when one pair of one attention block is cut, alone.

    Attributes:
        path: Path of the attention module.
        pair: ``qk`` or ``vo``.
        dropped: Share of the pair's activation energy that each trial cut drops, ascending.
        damage: Damage measured for each of these cuts (see :class:`Calibration`).
    """

    path: str
    pair: str
    dropped: list[float]
    damage: list[float]


@dataclass(frozen=True)
class Price:
    """What one budget under one layout costs.

    Attributes:
        layout: ``ragged``, ``block`` or ``tied``.
        removed: Fraction of the attention parameters in scope that would go.
        predicted: Predicted error of the model's output.
        measured: The same measured on calibration data with the cut in place; ``None`` where
            nothing was run.
    """

    layout: str
    removed: float
    predicted: float
    measured: float | None = None


@dataclass(frozen=True)
class SearchStep:
    """One budget that a search for a bound tried.

    Attributes:
        removed: Fraction of the attention parameters in scope that would go.
        value: What was measured: the error, or the increase of the word error rate (points)
            or of the perplexity (per cent).
        accepted: Whether it keeps within the bound.
    """

    removed: float
    value: float
    accepted: bool


@dataclass(frozen=True)
class Calibration:
    """What real input told before anything was cut, and whether it came true.

    Damage is what a cut does to the model's output: the squared relative error of an encoder's
    output, or the KL divergence of a language model's next-token distribution in nats a token.
    ``output`` names which; an *error* is the square root of the former, and the latter as it is.

    Attributes:
        data: Name of the calibration data.
        samples: Recordings or documents it holds.
        queries: Positions that were counted, by weight.
        output: ``encoder output``, ``last hidden state`` or ``next token``.
        unit: ``relative`` or ``nat/token``.
        padding_weight: What a frame of silence that fills up a window counted.
        ridge: Share of the weights' own second moments that was mixed into the measured ones.
        statistics: SHA-256 of the saved statistics, where they were saved or read.
        sensitivities: One a pair and block.
        prices: The price curve, one layout after the other, by rising budget.
        predicted: Predicted error of this result.
        measured: Its error measured on the calibration data.
        bound: What a search had to keep: ``max_error``, ``max_wer_increase`` or
            ``max_ppl_increase``; ``None`` without a search.
        search: What it tried, in order.
        leaked: Samples that calibration and evaluation data share, where that was allowed.
    """

    data: str
    samples: int
    queries: float
    output: str
    unit: str
    padding_weight: float
    ridge: float
    statistics: str | None = None
    sensitivities: list[Sensitivity] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)
    predicted: float | None = None
    measured: float | None = None
    bound: str | None = None
    search: list[SearchStep] = field(default_factory=list)
    leaked: int = 0
