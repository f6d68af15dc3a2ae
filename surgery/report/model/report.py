"""What a run saved and what it cost: plain dataclasses, the single source of every view.

The JSON file, the HTML page, the pictures, the model card and the terminal tables are all
drawn from one :class:`Report`. Nothing here computes; see ``accounting`` for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surgery.report.model.budget import BudgetReport
from surgery.report.model.calibration import Calibration
from surgery.report.model.layers import LayersReport
from surgery.report.model.tuning import Tuning
from surgery.report.model.vocabulary import VocabularyReport


@dataclass(frozen=True)
class PairReport:
    """One pair (``qk`` or ``vo``) of one attention block, per key/value head.

    Attributes:
        ranks: Kept rank of each key/value head.
        full_rank: Rank before the cut (the head dimension).
        spectrum: Component scores in descending order, one list a head: singular values,
            or norm products for the magnitude baseline. Of a calibrated run they are those of
            what the pair computes on real input; across RoPE, of whole frequencies.
        cut_error: Predicted relative error of what the spectrum is of, the head's product or
            what it computes: the share that was cut, ``sqrt(sum dropped s^2 / sum s^2)``.
        exact_error: Measured relative error of each head's product in float64 with every vector
            kept, before any cut and cast: how lossless the decomposition itself is.
        cast_error: Measured relative error of each head's product as written (after the
            cast) against the original.
        untouched: Why this pair was left as it was; ``None`` when it was restructured.
        threshold: Score at or below which components were cut, where the rule was one
            absolute threshold; ``None`` for every other rule.
    """

    ranks: list[int]
    full_rank: int
    spectrum: list[list[float]] = field(default_factory=list)
    cut_error: list[float] = field(default_factory=list)
    exact_error: list[float] = field(default_factory=list)
    cast_error: list[float] = field(default_factory=list)
    untouched: str | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class SiteReport:
    """One attention block."""

    path: str
    scope: str
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    qk: PairReport
    vo: PairReport


@dataclass(frozen=True)
class LinearReport:
    """One linear map that was split or re-parameterised.

    Attributes:
        path: Path of its module.
        role: What it plays: ``q``, ``up``, ...; ``q,k,v`` where these are fused.
        scope: Which tower or attention it belongs to.
        layer: Its layer; ``None`` outside the layers.
        out_features: Rows of the weight.
        in_features: Columns of the weight.
        trainable: Numbers in the small part: what a tuner would train.
        spectrum: Singular values of the principal part, descending; empty for methods that
            split nothing.
        captured: Share of the weight's squared Frobenius norm in the principal part.
        shortfall: Certified upper bound of how much more the best part of this rank would
            capture, relative to that best.
        defect: Largest departure from orthonormality: of U and V for a split, of the whole
            map that was put in front for a re-parameterisation.
        start_error: Relative Frobenius difference between the weight as written (small part
            merged back) and the original: what the cast costs.
    """

    path: str
    role: str
    scope: str
    layer: int | None
    out_features: int
    in_features: int
    trainable: int
    spectrum: list[float] = field(default_factory=list)
    captured: float | None = None
    shortfall: float | None = None
    defect: float | None = None
    start_error: float | None = None


@dataclass(frozen=True)
class FeedForwardReport:
    """One feed-forward block that lost neurons.

    Attributes:
        path: Path of the smallest module that holds it.
        scope: Its tower.
        layer: Its layer.
        before: Neurons.
        kept: Neurons that stay.
        fitted_error: Relative error of the block's output on the rows that it was fitted to: the
            root of the energy that is lost over that of the output.
        deleted_error: The same, had the map behind the neurons not been refitted.
    """

    path: str
    scope: str
    layer: int
    before: int
    kept: int
    fitted_error: float
    deleted_error: float


@dataclass(frozen=True)
class Trainable:
    """How many numbers a tuner would train, of how many.

    Attributes:
        trainable: Numbers in the small parts.
        frozen: All other parameters of the result.
        before: Parameters of the source.
        bytes_before: Weight bytes of the source.
        bytes_after: Weight bytes of the result.
        adapter_bytes: Bytes of the small parts alone.
    """

    trainable: int
    frozen: int
    before: int
    bytes_before: int
    bytes_after: int
    adapter_bytes: int

    @property
    def total(self) -> int:
        """Parameters of the result."""
        return self.trainable + self.frozen

    @property
    def share(self) -> float:
        """Fraction of the result's parameters that would be trained."""
        return self.trainable / self.total if self.total else 0.0


@dataclass(frozen=True)
class Saving:
    """Parameters before and after, within one denominator.

    ``stored`` are the parameters in the file. A forward pass multiplies by just these, so
    ``executed``, which readers of ``report.json`` may ask for, is the same; padding costs FLOPs.
    """

    name: str
    title: str
    before: int
    stored: int
    executed: int

    @property
    def removed(self) -> float:
        """Fraction of the stored parameters removed."""
        return 1 - self.stored / self.before if self.before else 0.0


@dataclass(frozen=True)
class Quantity:
    """Any other figure with a value before and after, and its unit.

    ``executed`` is set where what runs differs from what is stored.
    """

    name: str
    title: str
    unit: str
    before: float
    after: float
    executed: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One measured figure on real input: metric, data, value before and after.

    ``better`` says which direction is good: ``lower`` or ``higher``. ``words`` is how many were
    said, where the figure is a word error rate and that is known.
    """

    metric: str
    title: str
    data: str
    unit: str
    before: float | None
    after: float
    better: str = "lower"
    words: int | None = None


@dataclass(frozen=True)
class Source:
    """Where the weights came from."""

    name: str
    path: str
    model_type: str
    sha256: dict[str, str]
    dtype: str


@dataclass(frozen=True)
class Report:
    """Everything a run has to say.

    Attributes:
        title: What the page is called: the model and what was done to it.
        method: Name of the method (``absorb-decompose``, ``sorsa``, ...).
        options: Options as the run resolved them (``layout``, ``threshold_qk``, ...).
        preset: Why these options, where the user chose none.
        seconds: Wall-clock time of each stage. They differ from run to run, so they are left
            out of files that must come out bit-identical.
        output: Where the result was written; ``None`` when nothing was.
        command: Shell command that reproduces the run.
        linears: Linear maps treated, for methods that leave small trainable parts; then
            ``sites`` and ``savings`` are empty.
        trainable: How many numbers those parts hold.
        calibration: What was found on real input beforehand, where the run was calibrated.
        tuning: What was trained and how it went, where the run trained; then ``sites``,
            ``savings`` and ``linears`` are empty.
        feed_forward: Feed-forward blocks that may have lost neurons, by the names and numbers of
            the result; then ``sites`` and ``linears`` are empty.
        layers: Layers that left, if any was to.
        budget: How one budget over parts of the model was spent, where they were compared.
        vocabulary: Tokens that left, where the run was about them; then ``sites`` is empty.
    """

    title: str
    method: str
    options: dict[str, Any]
    preset: str | None
    source: Source
    versions: dict[str, str]
    sites: list[SiteReport]
    savings: list[Saving]
    quantities: list[Quantity]
    measurements: list[Measurement] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    output: str | None = None
    command: str | None = None
    linears: list[LinearReport] = field(default_factory=list)
    trainable: Trainable | None = None
    calibration: Calibration | None = None
    tuning: Tuning | None = None
    feed_forward: list[FeedForwardReport] = field(default_factory=list)
    layers: LayersReport | None = None
    budget: BudgetReport | None = None
    vocabulary: VocabularyReport | None = None
