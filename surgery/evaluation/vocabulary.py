"""Tokens that a tokenizer knows and a model does not: added without a resize, or rows trimmed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from surgery.errors import CheckpointError


def rows_of(model: Any) -> int | None:
    """Return how many tokens a model has embeddings for; ``None`` where it does not say."""
    rows = getattr(model.config, "vocab_size", None)
    return rows if isinstance(rows, int) else None


def fewest_rows(models: Iterable[Any]) -> int | None:
    """Return how many tokens all of some models have embeddings for, as far as they say."""
    return min(filter(None, map(rows_of, models)), default=None)


def may_exceed(tokenizer: Any, rows: int | None) -> bool:
    """Whether a tokenizer knows any token that a model with so many embeddings does not."""
    if rows is None:
        return False
    try:
        return bool(max(tokenizer.get_vocab().values(), default=-1) >= rows)
    except (AttributeError, NotImplementedError):
        return True


def check_tokens(
    tokens: Sequence[int], rows: int | None, tokenizer: Any, where: object = None
) -> None:
    """Refuse a token that a model has no embedding for.

    Args:
        tokens: Token ids of a text.
        rows: How many embeddings the model has.
        tokenizer: What made the tokens, to name them.
        where: Where the text is from.

    Raises:
        CheckpointError: Names tokenizer, token and the size of the vocabulary.
    """
    worst = max(tokens, default=-1)
    if rows is None or worst < rows:
        return
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    try:
        spelled = f"{tokenizer.convert_ids_to_tokens(worst)!r}, "
    except Exception:  # noqa: BLE001 (foreign code; the number says enough)
        spelled = ""
    raise CheckpointError(
        "The tokenizer makes a token that the model has no embedding for",
        where=f"the tokenizer of {name}",
        found=f"{spelled}token {worst}" + (f", in {where}" if where else ""),
        expected=f"tokens below vocab_size = {rows}",
        hint="use the tokenizer that belongs to these weights, give the model a row for every "
        "token (resize_token_embeddings), or leave such texts out",
    )


def check_texts(texts: Iterable[str], rows: int | None, tokenizer: Any) -> None:
    """Refuse texts with such a token before any of them is read by the model.

    Raises:
        CheckpointError: As :func:`check_tokens`.
    """
    if not may_exceed(tokenizer, rows):
        return
    for text in texts:
        check_tokens(tokenizer(text, verbose=False)["input_ids"], rows, tokenizer)
