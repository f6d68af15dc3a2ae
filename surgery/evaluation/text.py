"""Several text models on the same documents: predictions, embeddings, drift and times, in one pass.

The first model is the reference. Window by window every model reads the same tokens, one model
after another, so that whatever slows the machine for a while slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgery.errors import UsageError
from surgery.evaluation.drift import OutputDrift, OutputErrors
from surgery.evaluation.layers import LayerErrors, hidden_states, stack
from surgery.evaluation.perplexity import Windows, longest_context, token_losses, token_windows
from surgery.evaluation.timing import at_once, timed
from surgery.evaluation.vocabulary import check_texts, fewest_rows


@dataclass(frozen=True)
class TextRun:
    """What one model made of the documents.

    Attributes:
        losses: Negative log-likelihoods of each document's scored tokens, nats, shape (tokens,);
            empty for models that predict nothing.
        pooled: Mean of the last hidden states over each document, (documents, width); only of
            models that predict nothing. A document without tokens is zero.
        drift: Of logits, or of last hidden states; ``None`` for the reference itself, and where
            the two outputs have different shapes.
        layers: Relative error after each layer, first to last; empty likewise.
        seconds: Of every batch.
    """

    losses: list[NDArray[np.float64]]
    pooled: NDArray[np.float64] | None
    drift: OutputDrift | None
    layers: list[float]
    seconds: list[float]


class _Running:
    """One model while the windows go by."""

    def __init__(self, model: Any, documents: int, *, causal: bool) -> None:
        self.causal = causal
        self.model = model if causal else model.base_model
        self.layers = stack(model)
        self.losses: list[list[Tensor]] = [[] for _ in range(documents)]
        self.pooled: list[tuple[Tensor | float, int]] = [(0.0, 0)] * documents
        self.seconds: list[float] = []
        self.errors, self.layer_errors = OutputErrors(), LayerErrors()
        self.comparable = True

    def read(self, tokens: Tensor) -> tuple[Tensor, list[Tensor], float]:
        """Return outputs (windows, length, columns), the states of every layer, and seconds."""
        inputs, device = tokens.to(self.model.device), self.model.device
        with torch.inference_mode(), hidden_states(self.layers) as states:
            output, seconds = timed(device, self.model, input_ids=inputs)
        return output.logits if self.causal else output.last_hidden_state, states, seconds

    def score(self, output: Tensor, owner: int, part: Windows) -> None:
        if self.causal:
            self.losses[owner].append(token_losses(output, part))
            return
        new = output[part.first :].cpu().double()
        total, count = self.pooled[owner]
        self.pooled[owner] = total + new.sum(dim=0), count + new.shape[0]

    def result(self, *, reference: bool) -> TextRun:
        losses = [torch.cat(parts).numpy() if parts else np.empty(0) for parts in self.losses]
        pooled = None
        if not self.causal:
            width = self.model.config.hidden_size
            rows = [
                (total / count).numpy() if isinstance(total, Tensor) else np.zeros(width)
                for total, count in self.pooled
            ]
            pooled = np.stack(rows)
        if reference or not self.comparable:
            return TextRun(losses, pooled, None, [], self.seconds)
        layers = self.layer_errors.values
        return TextRun(losses, pooled, self.errors.drift, layers, self.seconds)


def compare_text(
    models: Sequence[Any],
    tokenizer: Any,
    documents: Sequence[str],
    *,
    causal: bool = True,
    context: int | None = None,
    batch: int = 8,
    warm_up: bool = False,
    told: Callable[[float], None] | None = None,
) -> tuple[list[TextRun], list[int]]:
    """Let every model read every document.

    Args:
        models: Of one family and vocabulary, the reference first.
        tokenizer: The tokenizer of all of them.
        documents: Texts that share no context.
        causal: Whether they predict the next token; others are compared by their hidden states.
        context: Tokens a window; by default the shortest model's, at most 2048.
        batch: Windows at once, where neighbours are of one length (pieces of long documents).
        warm_up: Run the first batch once before it counts: for times that are to be compared.
        told: Called with how many documents were read before the newest window, with parts.

    Returns:
        One run a model, and the tokens of every batch.

    Raises:
        UsageError: If ``context`` does not fit a model, or no document has two tokens.
        CheckpointError: A token has no embedding in a model. No model was run by then.
    """
    check_texts(documents, fewest_rows(models), tokenizer)
    shortest = min(models, key=longest_context)
    running = [_Running(model, len(documents), causal=causal) for model in models]
    of, read = [0] * len(documents), [0] * len(documents)  # windows of each document

    def windows() -> Iterator[tuple[int, Windows]]:
        for owner, document in enumerate(documents):
            parts = list(token_windows(shortest, tokenizer, [document], context=context))
            of[owner] = len(parts)
            yield from ((owner, part) for part in parts)

    tokens: list[int] = []
    for taken in _batches(windows(), running[0], batch):
        stacked = torch.stack([part.tokens for _, part in taken])
        if warm_up and not tokens:
            for one in running:
                one.read(stacked)
        _read(running, stacked, taken)
        tokens.append(stacked.numel())
        for owner, _ in taken:
            read[owner] += 1
        if told is not None:
            told(owner + (read[owner] - 1) / of[owner])
    if sum(tokens) < 2 or (causal and not any(map(len, running[0].losses))):
        raise UsageError("A perplexity needs at least two tokens of text.")
    return [one.result(reference=one is running[0]) for one in running], tokens


def _batches(
    windows: Iterator[tuple[int, Windows]], first: _Running, most: int
) -> Iterator[list[tuple[int, Windows]]]:
    """Group neighbours of one length, so that nothing is padded and little is held."""
    config = first.model.config
    columns = config.hidden_size * len(first.layers) + (config.vocab_size if first.causal else 0)
    taken: list[tuple[int, Windows]] = []
    for owner, part in windows:
        length = part.tokens.numel()
        full = len(taken) >= at_once(4 * columns * length, most)
        if taken and (full or taken[0][1].tokens.numel() != length):
            yield taken
            taken = []
        taken.append((owner, part))
    if taken:
        yield taken


def _read(
    running: Sequence[_Running], tokens: Tensor, taken: Sequence[tuple[int, Windows]]
) -> None:
    """Let every model read a batch; add up where they differ at positions not seen before."""
    reference: tuple[Tensor, list[Tensor]] | None = None
    for one in running:
        output, states, seconds = one.read(tokens)
        one.seconds.append(seconds)
        for row, (owner, part) in zip(output, taken, strict=True):
            one.score(row, owner, part)
        if reference is None:
            reference = output, states
        elif reference[0].shape != output.shape:
            one.comparable = False
        else:
            for index, (_, part) in enumerate(taken):
                new = slice(part.first, None)
                ours, theirs = reference[0][index, new], output[index, new]
                one.errors.add(ours, theirs, vocabulary=one.causal)
                pair = ([state[index, new] for state in each] for each in (reference[1], states))
                one.layer_errors.add(*pair)
