"""Perplexity of a causal language model on a text file.

Documents longer than the model's context are read in windows that overlap by half, and each
token is scored once, where it has most context: at least half a window of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.vocabulary import check_tokens, rows_of

Division = Literal["documents", "lines", "running"]
"""How text divides into documents: as it seems to, by lines, or not at all."""

LONG_LINE = 200  # characters: lines this long are paragraphs or stories, not verse
HEADING = 60  # characters: lines shorter than this belong to what is around them
HEADINGS = 0.05  # share of such lines, above which they are part of running text
LONGEST_CONTEXT = 2048  # tokens; more costs memory and hardly moves the figure


@dataclass(frozen=True)
class Windows:
    """One window of a document.

    Attributes:
        tokens: Token ids, int64, shape (length,), on the CPU.
        first: The first position that no earlier window held.
    """

    tokens: Tensor
    first: int


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        nats: Sum of the scored tokens' negative log-likelihoods.
        tokens: Tokens scored: all but each document's first (``<s>`` where there is one).
        bytes: UTF-8 bytes of the documents.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """``exp(nats per token)``; compares only models of one tokenizer."""
        return math.exp(min(self.nats_per_token, 700.0))  # exp(710) overflows float64

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text: compares models of different tokenizers too."""
        return self.nats / math.log(2) / self.bytes


def read_documents(path: Path, division: Division = "documents") -> list[str]:
    """Read a UTF-8 text file as documents that share no context.

    Args:
        path: The file.
        division: ``lines``: every non-empty line is one; ``running``: the file is one;
            ``documents``: lines where :func:`are_documents`, else the file.

    Raises:
        SurgeryError: If the file is absent, not UTF-8, or blank.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SurgeryError("This text cannot be read.", where=path, found=error) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SurgeryError("This text is empty.", where=path)
    by_lines = division == "lines" or (division == "documents" and are_documents(lines))
    return lines if by_lines else [text]


def are_documents(texts: Sequence[str]) -> bool:
    """Whether each text stands for itself.

    Half of them have at least 200 characters, and hardly any is so short that it can only be a
    heading: articles with headings, a paragraph a line, are running text.
    """
    headings = sum(len(text.strip()) < HEADING for text in texts)
    return median(map(len, texts)) >= LONG_LINE and headings <= HEADINGS * len(texts)


def token_windows(
    model: Any, tokenizer: Any, documents: Sequence[str], *, context: int | None = None
) -> Iterator[Windows]:
    """Yield every document's tokens in windows that overlap by half.

    Special tokens are put in front or behind as the tokenizer does by itself.

    Args:
        model: Decides the longest context, by its configuration.
        tokenizer: Its tokenizer.
        documents: Texts that share no context.
        context: Tokens a window; by default the model's, at most 2048.

    Raises:
        UsageError: If ``context`` is below two or beyond what the model takes.
        CheckpointError: A token has no embedding in the model.
    """
    most = longest_context(model)
    context = min(most, LONGEST_CONTEXT) if context is None else context
    if not 2 <= context <= most:
        raise UsageError(
            "This context does not fit the model.", found=context, expected=f"2 to {most} tokens"
        )
    for document in documents:
        # `verbose=False`: a document longer than the context is expected here.
        ids = tokenizer(document, verbose=False)["input_ids"]
        check_tokens(ids, rows_of(model), tokenizer)
        tokens = torch.tensor(ids, dtype=torch.long)
        done = 0
        while done < tokens.numel():
            begin = max(0, done - context // 2) if done else 0
            end = min(tokens.numel(), begin + context)
            yield Windows(tokens[begin:end], done - begin)
            done = end


def longest_context(model: Any) -> int:
    """Return how many tokens a model can see at once, by its configuration."""
    return int(getattr(model.config, "max_position_embeddings", None) or LONGEST_CONTEXT)


def perplexity(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    context: int | None = None,
    told: Callable[[float], None] | None = None,
) -> Perplexity:
    """Score every token of every document but its first.

    The loss is summed in float64 from float32 log-probabilities, whatever the model's dtype.

    Args:
        model: A causal language model, on any device.
        tokenizer: Its tokenizer.
        documents: Texts that share no context (see :func:`read_documents`).
        context: Tokens a window; by default the model's, at most 2048.
        told: Called with which share of all windows was read.

    Raises:
        UsageError: If ``context`` does not fit, or no document has two tokens.
    """
    nats, scored = 0.0, 0
    parts = list(token_windows(model, tokenizer, documents, context=context))
    for number, part in enumerate(parts):
        with torch.inference_mode():
            logits = model(input_ids=part.tokens.to(model.device)[None]).logits[0]
        losses = token_losses(logits, part)
        nats += float(losses.sum())
        scored += losses.numel()
        if told is not None:
            told((number + 1) / len(parts))
    if scored == 0:
        raise UsageError("A perplexity needs at least two tokens of text.")
    return Perplexity(nats, scored, sum(len(document.encode()) for document in documents))


def token_losses(logits: Tensor, part: Windows) -> Tensor:
    """Return the negative log-likelihoods of a window's new tokens, nats, float64, on the CPU.

    Args:
        logits: Of this window, shape (length, vocabulary), any dtype.
        part: The window. A document's first token has nothing to be predicted from.
    """
    start = max(part.first, 1)
    targets = part.tokens[start:].to(logits.device)
    losses = torch.nn.functional.cross_entropy(
        logits[start - 1 : -1].float(), targets, reduction="none"
    )
    return losses.cpu().double()
