"""Several language models on the same questions: how likely each holds every choice.

A choice's log-likelihood is the sum over its own tokens, after the question. Raw, the likeliest
choice is the model's answer, which favours short ones; normalised, each is divided by its
characters first (the convention of lm-eval's ``acc`` and ``acc_norm``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from surgery.errors import UsageError
from surgery.evaluation.perplexity import longest_context
from surgery.evaluation.questions import Question
from surgery.evaluation.timing import timed
from surgery.evaluation.vocabulary import check_tokens, fewest_rows
from surgery.runtime.cached_step import cache_name


@dataclass(frozen=True)
class ChoiceRun:
    """What one model made of the questions.

    Attributes:
        scores: Log-likelihoods of the choices of every question, nats.
        seconds: Of every question.
    """

    scores: list[NDArray[np.float64]]
    seconds: list[float]

    def correct(self, questions: Sequence[Question], *, normalised: bool) -> list[float]:
        """Return 1 for every right answer; where k choices tie with it at the top, 1/k."""
        return [
            _credit(scores / _sizes(one) if normalised else scores, one.answer)
            for scores, one in zip(self.scores, questions, strict=True)
        ]


@dataclass(frozen=True)
class _Asked:
    """Tokens of a question.

    Attributes:
        shared: What stands before every choice, ``(1, tokens)``.
        rest: What follows of each, padded at the end, ``(choices, tokens)``.
        own: Which of these tokens are the choice's, and neither the question's nor padding.
        read: Tokens without padding.
    """

    shared: Tensor
    rest: Tensor
    own: Tensor
    read: int


def compare_choices(
    models: Sequence[Any],
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    warm_up: bool = False,
    told: Callable[[float], None] | None = None,
) -> tuple[list[ChoiceRun], list[int]]:
    """Let every model read every question once, and each of its choices behind it.

    Args:
        models: Causal language models of one vocabulary, the reference first.
        tokenizer: The tokenizer of all of them.
        questions: What is asked.
        warm_up: Read the first question once before it counts: for times that are compared.
        told: Called with how many questions were read.

    Returns:
        One run a model, and the tokens of every question.

    Raises:
        UsageError: A choice alone is longer than a model can see.
        CheckpointError: A token has no embedding in a model. No model was run by then.
    """
    context = min(map(longest_context, models))
    rows = fewest_rows(models)
    asked = [_asked(tokenizer, one, context, rows) for one in questions]
    runs = [ChoiceRun([], []) for _ in models]
    for model in models if warm_up else ():
        _scores(model, asked[0])
    for number, one in enumerate(asked, start=1):
        for model, run in zip(models, runs, strict=True):
            scores, seconds = timed(model.device, _scores, model, one)
            run.scores.append(scores)
            run.seconds.append(seconds)
        if told is not None:
            told(number)
    return runs, [one.read for one in asked]


def _asked(tokenizer: Any, one: Question, context: int, rows: int | None) -> _Asked:
    before = tokenizer(one.prompt, verbose=False)["input_ids"]
    every, firsts = list[list[int]](), list[int]()
    for choice in one.choices:
        ids = tokenizer(f"{one.prompt} {choice}", verbose=False)["input_ids"]
        check_tokens(ids, rows, tokenizer, one.where)
        same = (a == b for a, b in zip(before, ids, strict=False))
        firsts.append(next((at for at, each in enumerate(same) if not each), len(before)))
        every.append(ids)
    # A first token has nothing to be predicted from; of a question that is too long the end is
    # read.
    shared = max(1, min(firsts))
    beyond = max(0, *(len(ids) - context for ids in every))
    if beyond >= shared:
        raise UsageError(
            "A choice is longer than a model can see",
            where=one.where,
            found=f"{max(map(len, every)) - shared} tokens",
            expected=f"fewer than {context}",
        )
    rest = [torch.tensor(ids[shared:]) for ids in every]
    own = [torch.arange(shared, len(ids)) >= at for ids, at in zip(every, firsts, strict=True)]
    return _Asked(
        torch.tensor([every[0][beyond:shared]]),
        pad_sequence(rest, batch_first=True),
        pad_sequence(own, batch_first=True),
        shared - beyond + sum(map(len, rest)),
    )


def _scores(model: Any, one: _Asked) -> NDArray[np.float64]:
    """Return the log-likelihood of every choice."""
    with torch.inference_mode():
        held = DynamicCache(config=model.config.get_text_config(decoder=True))
        cached = {cache_name(model): held, "use_cache": True}
        first = model(input_ids=one.shared.to(model.device), **cached).logits[:, -1:]
        held.batch_repeat_interleave(len(one.rest))
        rest = one.rest.to(model.device)
        # What is padded stands behind what counts, and is not seen.
        behind = model(input_ids=rest, **cached).logits[:, :-1]
        first = first.expand(len(rest), -1, -1)
        logs = torch.cat([first, behind], dim=1).float().log_softmax(dim=-1)
    said = logs.gather(2, rest[..., None]).squeeze(2).double().cpu()
    found: NDArray[np.float64] = torch.where(one.own, said, 0.0).sum(dim=1).numpy()
    return found


def _sizes(question: Question) -> NDArray[np.float64]:
    return np.array([len(choice) for choice in question.choices], dtype=np.float64)


def _credit(scores: NDArray[np.float64], answer: int) -> float:
    best = scores == scores.max()  # nothing is equal to NaN
    return float(best[answer]) / max(1, int(best.sum()))
