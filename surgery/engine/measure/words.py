"""Whether a model has an embedding for every token of some data, before hours are spent on it."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.input import data_kind, processor_of
from surgery.stored.dense import words_of


def check_measured_words(source: TensorSource, data: str | Path | None) -> None:
    """Refuse text to measure on that holds a token which the model has no embedding for.

    Raises:
        CheckpointError: Names tokenizer, token and vocabulary; or there is no tokenizer.
    """
    rows = source.config.get("vocab_size")
    if data is None or data_kind(source) != "text" or not isinstance(rows, int):
        return
    from surgery.evaluation.perplexity import read_documents
    from surgery.evaluation.vocabulary import check_texts

    with words_of(source) as place:
        check_texts(read_documents(Path(data)), rows, processor_of(source, place))
