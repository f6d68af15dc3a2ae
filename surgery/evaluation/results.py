"""What an evaluation found: plain dataclasses, the single source of the table and the JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from surgery.errors import CheckpointError
from surgery.evaluation.bootstrap import LEVEL, Estimate

SCHEMA = 1
"""Version of the JSON document. Raised when a field changes its meaning or goes away."""

_DIGITS = 7
Kind = Literal["speech", "text", "embedding"]


@dataclass(frozen=True)
class Metric:
    """What a figure means.

    Attributes:
        title: As a heading.
        unit: ``%``, ``ms/s``, or nothing for a plain number.
        better: Which direction is good: ``lower`` or ``higher``.
        about: One sentence.
    """

    title: str
    unit: str
    better: str
    about: str


METRICS: dict[str, Metric] = {
    "wer": Metric("WER", "%", "lower", "Word errors, of the words said"),
    "same_text": Metric("same text", "%", "higher", "Recordings with the reference's text"),
    "perplexity": Metric("perplexity", "", "lower", "exp(nats a token)"),
    "bits_per_byte": Metric("bits/byte", "", "lower", "Bits a byte of text"),
    "accuracy": Metric(
        "accuracy", "%", "higher", "Right answers, log-likelihoods divided by characters"
    ),
    "accuracy_raw": Metric("accuracy, raw", "%", "higher", "Right answers by log-likelihood"),
    "encoder_error": Metric(
        "drift", "", "lower", "Relative error of the encoder's output, frames that hold sound"
    ),
    "encoder_error_window": Metric(
        "drift, window", "", "lower", "Relative error of the encoder's output, all frames"
    ),
    "output_error": Metric("drift", "", "lower", "Relative error of the logits"),
    "embedding_error": Metric("drift", "", "lower", "Relative error of the last hidden states"),
    "pooled_distance": Metric(
        "1 − cosine", "", "lower", "Of mean-pooled documents, 1 − cosine to the reference's"
    ),
    "kl_divergence": Metric("KL", "nat", "lower", "KL of the predictions, a token"),
    "same_token": Metric("same token", "%", "higher", "Positions with the same likeliest token"),
    "time": Metric("time", "ms", "lower", "Per second of audio, text included; or per token"),
    "time_ratio": Metric("ratio", "", "lower", "Of the time to the reference's"),
    "encoder_time": Metric("encoder", "ms", "lower", "Per second of audio, encoder alone"),
    "encoder_time_ratio": Metric("ratio", "", "lower", "Of the encoder's time to the reference's"),
}
"""Every figure by its name in the JSON, in the order of the table."""


@dataclass(frozen=True)
class Evaluated:
    """One model.

    Attributes:
        name: As the rows call it.
        path: As it was asked for.
        parameters: Numbers in its weight files.
        operations: Methods that were applied to it, in order.
    """

    name: str
    path: str
    parameters: int
    operations: list[str]


@dataclass(frozen=True)
class DataSet:
    """One set of data.

    Attributes:
        name: As the rows call it.
        path: As it was asked for.
        samples: Recordings, documents or questions.
        amount: Seconds of audio, or tokens.
        resampled: What the intervals draw: ``recordings``, ``documents``, ``questions`` or
            ``blocks of 128 tokens``.
        units: Of text, what a document is: a ``row``, a ``line`` or a ``file``; empty for audio
            and for questions.
    """

    name: str
    path: str
    samples: int
    amount: float
    resampled: str
    units: list[str] = field(default_factory=list)

    @property
    def asks(self) -> bool:
        """Whether these are questions with choices."""
        return self.resampled == "questions"


@dataclass(frozen=True)
class Row:
    """One model on one set of data.

    Attributes:
        model: Its name.
        data: The set's name.
        leaked: Whether the model was calibrated on some of this data: its figures flatter.
        figures: By the names of :data:`METRICS`. What compares with the reference is missing in
            its own rows, and where two models' outputs have different shapes.
        changes: Difference to the reference, with the interval of the *paired* difference.
        layers: Relative error after each layer, first to last, by tower.
    """

    model: str
    data: str
    leaked: bool
    figures: dict[str, Estimate]
    changes: dict[str, Estimate] = field(default_factory=dict)
    layers: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All models on all data, side by side; the first model is the reference."""

    kind: Kind
    models: list[Evaluated]
    data: list[DataSet]
    rows: list[Row]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def row(self, model: str, data: str) -> Row:
        """Return one model's row on one set of data.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.model, row.data) == (model, data):
                return row
        raise KeyError((model, data))

    def to_json(self) -> str:
        """Return everything as one JSON document, floats to 7 significant digits.

        What is not finite, such as the drift from a constant output, becomes a string:
        ``"Infinity"``, ``"NaN"``.
        """
        used = {name: asdict(METRICS[name]) for name in METRICS if self._uses(name)}
        document = {"schema": SCHEMA, "level": LEVEL, "metrics": used, **asdict(self)}
        return json.dumps(_rounded(document), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def _uses(self, metric: str) -> bool:
        return any(metric in row.figures for row in self.rows)


def from_json(text: str) -> Evaluation:
    """Read what :meth:`Evaluation.to_json` wrote.

    Raises:
        CheckpointError: It is something else, or of another schema.
    """
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']}, expected {SCHEMA}")
        return Evaluation(
            kind=raw["kind"],
            models=[Evaluated(**one) for one in raw["models"]],
            data=[DataSet(**one) for one in raw["data"]],
            rows=[_row(one) for one in raw["rows"]],
            settings=raw["settings"],
            notes=raw["notes"],
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError("This is no evaluation that can be read", found=error) from error


def _row(raw: Mapping[str, Any]) -> Row:
    figures, changes = (
        {name: Estimate(**{end: _number(value) for end, value in one.items()})
         for name, one in raw[key].items()}
        for key in ("figures", "changes")
    )  # fmt: skip
    layers = {
        tower: [_number(value) for value in values] for tower, values in raw["layers"].items()
    }
    return Row(raw["model"], raw["data"], raw["leaked"], figures, changes, layers)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return "Infinity" if value > 0 else "-Infinity" if value < 0 else "NaN"
        return float(f"{value:.{_DIGITS}g}")
    return value
