"""Whether a bound on the damage can be measured on the data at hand, known before any work."""

from __future__ import annotations

from surgery.architectures.known import predicts_next
from surgery.calibration.data import CalibrationData
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.heads import has_words, writes
from surgery.engine.measure.input import data_kind
from surgery.errors import UsageError
from surgery.methods import MaxPplIncrease, MaxWerIncrease, Rule


def check_bound(rule: Rule | None, data: CalibrationData | None, source: TensorSource) -> None:
    """Refuse a bound that the calibration data, or the family, cannot tell anything of.

    Args:
        rule: Where to cut; other rules pass.
        data: The calibration data; ``None`` where there are only saved statistics.
        source: The model.

    Raises:
        UsageError: There is no data, it has no transcripts, or the model predicts no text.
    """
    if not isinstance(rule, MaxWerIncrease | MaxPplIncrease):
        return
    model_type = source.config["model_type"]
    if data is None:
        raise UsageError(
            "This bound is measured on data, and only saved statistics were given",
            hint="give --calibrate DIR|FILE, or use --max-error, which can be predicted",
        )
    if isinstance(rule, MaxPplIncrease):
        reads = data_kind(source) == "text"
        if not (reads and predicts_next(model_type) and has_words(source)):
            refuse_perplexity(model_type)
        return
    if data.kind != "audio" or not writes(source):
        raise UsageError(
            "A word error rate needs a model that hears and writes",
            where="--max-wer-increase",
            found=", ".join([model_type, *(source.config.get("architectures") or ())]),
            hint="use --max-error"
            + (" or --max-ppl-increase" if has_words(source) and data.kind != "audio" else ""),
        )
    if all(each.words is None for each in data.recordings):
        raise UsageError(
            "A word error rate needs recordings with transcripts",
            where="--max-wer-increase",
            found=f"{data.name}: {len(data.recordings)} recordings, none with its words",
            expected="transcripts.tsv in the calibration folder",
            hint="use --max-error, which needs none",
        )


def refuse_perplexity(found: str) -> None:
    """Refuse a bound on the perplexity of a model that has none.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        "A perplexity needs a model that predicts text",
        where="--max-ppl-increase",
        found=found,
        hint="use --max-error",
    )
