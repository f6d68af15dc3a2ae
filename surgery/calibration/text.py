"""Documents to batches of token windows, each position counted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.architectures.known import predicts_next
from surgery.calibration.hooks import Recorder, Weights
from surgery.evaluation.perplexity import Windows, token_windows
from surgery.evaluation.rows import Document
from surgery.evaluation.vocabulary import check_tokens, rows_of


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Some windows, padded on the right to one length.

    Attributes:
        tokens: int64, ``(windows, tokens)``.
        mask: Which positions hold a token; bool, of the same shape.
        weights: A position that an earlier window of its document held too counts as a key,
            which the window's queries look at, but not as a query again. Padding counts for
            nothing.
    """

    tokens: Tensor
    mask: Tensor
    weights: Weights

    def run(self, model: Any) -> Any:
        """Run a model and return what it returns."""
        inputs = {"input_ids": self.tokens.to(model.device)}
        if not bool(self.mask.all()):
            inputs["attention_mask"] = self.mask.to(model.device, torch.int64)
        cached = predicts_next(model.config.model_type)  # others have nothing to switch off
        return model(**inputs, **({"use_cache": False} if cached else {}))


def token_windows_of(
    model: Any, tokenizer: Any, documents: Sequence[Document], *, context: int | None = None
) -> list[Windows]:
    """Return the token windows of all documents, shortest first, so that little is padded.

    Args:
        model: Decides the longest context.
        tokenizer: Its tokenizer.
        documents: The texts.
        context: Tokens a window; by default the model's, at most 2048.

    Raises:
        UsageError: ``context`` does not fit the model.
        CheckpointError: A token has no embedding in the model.
    """

    def tokens(document: Any, **_: Any) -> dict[str, list[int]]:
        ids = document.tokens(tokenizer)
        check_tokens(ids, rows_of(model), tokenizer, document.where)
        return {"input_ids": ids}

    # The windows know nothing of a document but that the tokenizer takes it.
    windows = token_windows(model, tokens, documents, context=context)  # type: ignore[arg-type]
    return sorted(windows, key=lambda each: each.tokens.numel())


def text_batches(windows: Sequence[Windows], batch: int) -> Iterator[TextBatch]:
    """Yield all windows, ``batch`` at once."""
    for start in range(0, len(windows), batch):
        some = windows[start : start + batch]
        shape = (len(some), max(each.tokens.numel() for each in some))
        tokens = torch.zeros(shape, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        queries = torch.zeros(shape, dtype=torch.float64)
        for row, each in enumerate(some):
            length = each.tokens.numel()
            tokens[row, :length] = each.tokens
            mask[row, :length] = True
            queries[row, each.first : length] = 1.0
        yield TextBatch(tokens, mask, Weights(queries, mask.to(torch.float64)))


def read(recorder: Recorder, model: Any, windows: Sequence[Windows], batch: int) -> Iterator[int]:
    """Run the model on every window while ``recorder`` listens; yield how many at a time."""
    for each in text_batches(windows, batch):
        with recorder.listening({"encoder": each.weights, "decoder": each.weights}):
            each.run(model.base_model)  # up to its last hidden states
        yield len(each.tokens)
