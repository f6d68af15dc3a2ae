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
    """What one budget costs under one layout, or of one kind of parts.

    Attributes:
        layout: ``ragged``, ``block`` or ``tied``; in :class:`PartPrices`
            ``attention``, ``ffn``, ``layers``, or ``all`` of them together.
        removed: Fraction of the attention parameters in scope that would go; where one pair alone
            is in scope, of that pair's, as budgets are. In :class:`PartPrices` of the whole model.
        predicted: Predicted error of the model's output.
        measured: The same measured on calibration data with the cut in place; ``None`` where
            nothing was run.
    """

    layout: str
    removed: float
    predicted: float
    measured: float | None = None


@dataclass(frozen=True)
class PartPrices:
    """What shares of the whole model would cost, taken of one kind of parts, or of all.

    Attributes:
        output: Which output of the model errors are of, as in a :class:`Calibration`.
        unit: Their unit.
        prices: One kind after the other, by rising budget.
    """

    output: str
    unit: str
    prices: list[Price]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, where there were rows enough for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """What a cut costs on rows of the calibration data that nothing was fitted to.

    Attributes:
        rows: Windows that were read.
        error: Error of the model's output (see :class:`Calibration`), with its interval over rows.
        agreement: Share of positions with the same most likely next token; ``None`` where no
            token is predicted.
        figure: ``perplexity``, ``word error rate`` (a fraction), or empty where neither is known.
        before: The figure of the original.
        after: The figure of the result.
        difference: Of word error rates; of perplexities, the difference of their logarithms.
        words: How many were said, where the figure is a word error rate and that is known.
    """

    rows: int
    error: Interval
    agreement: float | None = None
    figure: str = ""
    before: float | None = None
    after: float | None = None
    difference: Interval | None = None
    words: int | None = None


@dataclass(frozen=True)
class SearchStep:
    """One budget that a search for a bound tried.

    Attributes:
        removed: Fraction that would go, as in a :class:`Price`.
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
        parts: The same of the whole model, its feed-forward blocks and layers too.
        predicted: Predicted error of this result.
        measured: Its error measured on the rows that cuts were tried on.
        unfitted: The same before output projections were refitted; ``None`` where they were not
            to be.
        bound: What a search had to keep: ``max_error``, ``max_wer_increase``,
            ``max_ppl_increase``, or ``up_to`` what does little harm; ``None`` without a search.
        search: What it tried, in order.
        leaked: Samples that calibration and evaluation data share, where that was allowed.
        in_sample: Whether those rows are also what the cut was fitted to; so they were in
            reports that do not say.
        held_out: Its price on rows that had no part in it, but that a budget of the tool's own was
            lowered where they did not confirm it; ``search`` then ends with the steps down.
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
    parts: PartPrices | None = None
    predicted: float | None = None
    measured: float | None = None
    unfitted: float | None = None
    bound: str | None = None
    search: list[SearchStep] = field(default_factory=list)
    leaked: int = 0
    in_sample: bool = True
    held_out: HeldOut | None = None
