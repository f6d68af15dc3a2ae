"""Whether a bound on the damage can be measured on the data at hand, known before any work."""

from __future__ import annotations

from surgery.architectures.known import predicts_next
from surgery.calibration.data import CalibrationData
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.heads import has_words, writes
from surgery.engine.measure.input import data_kind
from surgery.errors import UsageError
from surgery.methods import MaxPplIncrease, MaxWerIncrease, Rule

OPTIONS = ("--max-error", "--max-wer-increase", "--max-ppl-increase")
WITHIN = ("--within error+0.1", "--within WER+1", "--within ppl*1.1")
"""How the bounds are spelled: of an error, a word error rate, a perplexity."""


def check_bound(
    rule: Rule | None,
    data: CalibrationData | None,
    source: TensorSource,
    spelled: tuple[str, str, str] = OPTIONS,
) -> None:
    """Refuse a bound that the calibration data, or the family, cannot tell anything of.

    Args:
        rule: Where to cut; other rules pass.
        data: The calibration data; ``None`` where there are only saved statistics.
        source: The model.
        spelled: How bounds are asked for.

    Raises:
        UsageError: There is no data, it has no transcripts, or the model predicts no text.
    """
    if not isinstance(rule, MaxWerIncrease | MaxPplIncrease):
        return
    model_type, (error, word_errors, dearer) = source.config["model_type"], spelled
    if data is None:
        raise UsageError(
            "This bound is measured on data, and only saved statistics were given",
            hint=f"give --calibrate DIR|FILE, or use {error}, which can be predicted",
        )
    if isinstance(rule, MaxPplIncrease):
        reads = data_kind(source) == "text"
        if not (reads and predicts_next(model_type) and has_words(source)):
            refuse_perplexity(model_type, spelled)
        return
    if data.kind != "audio" or not writes(source):
        raise UsageError(
            "A word error rate needs a model that hears and writes",
            where=word_errors,
            found=", ".join([model_type, *(source.config.get("architectures") or ())]),
            hint=f"use {error}"
            + (f" or {dearer}" if has_words(source) and data.kind != "audio" else ""),
        )
    if all(each.words is None for each in data.recordings):
        raise UsageError(
            "A word error rate needs recordings with transcripts",
            where=word_errors,
            found=f"{data.name}: {len(data.recordings)} recordings, none with its words",
            expected="transcripts.tsv in the calibration folder",
            hint=f"use {error}, which needs none",
        )


def refuse_perplexity(found: str, spelled: tuple[str, str, str] = OPTIONS) -> None:
    """Refuse a bound on the perplexity of a model that has none.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        "A perplexity needs a model that predicts text",
        where=spelled[2],
        found=found,
        hint=f"use {spelled[0]}",
    )
