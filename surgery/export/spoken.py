"""What a Whisper says token by token, so that a tie is not taken for a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from surgery.checkpoint.whisper_vocabulary import vocabulary_of
from surgery.evaluation.transcribe import generation_options
from surgery.export.reference import Reference

LONGEST = 32
"""Tokens of a recording that are compared: a damaged model may repeat itself up to its limit."""


@dataclass(frozen=True)
class Texts:
    """How two runtimes' texts of the same recordings compare.

    Attributes:
        same: How many are the same; one without a word is a text, too.
        parted: How many part where our model hardly tells two tokens apart.
        differing: The first that differs, ours and theirs; ``None`` if none does.
    """

    same: int
    parted: int = 0
    differing: tuple[str, str] | None = None

    @property
    def told(self) -> str:
        """What was found, as a phrase."""
        found = []
        if self.same:
            found.append(f"the same text of {self.same} embedded recording{'s' * (self.same > 1)}")
        if self.parted:
            found.append(f"the same of {self.parted} up to a tie of two tokens")
        if self.differing is not None:
            found.append(f"{self.differing[0]!r} became {self.differing[1]!r}")
        return "; ".join(found)


def say(reference: Reference) -> tuple[list[int], list[list[int]]]:
    """Return what our runtime is told first, and what it then says of each embedded recording.

    Greedily, without timestamps or other tokens that are no text. Tokens from the end of the text
    on are left out.
    """
    model = reference.model
    features = reference.features
    with torch.inference_mode():
        found = model.generate(
            features,
            attention_mask=torch.ones(features.shape[0], features.shape[-1]),
            return_dict_in_generate=True,
            output_scores=True,
            suppress_tokens=suppressed(reference),
            **generation_options(model, max_new_tokens=longest(reference)),
        )
    given = found.sequences.shape[1] - len(found.scores)
    rows = found.sequences.tolist()
    return rows[0][:given], [spoken(row[given:], ending(reference)) for row in rows]


def unsaid(reference: Reference) -> str | None:
    """Say why our runtime says no text of a recording; ``None`` where it does.

    A generation configuration that transformers cannot take, such as an outdated one, is no
    obstacle to other runtimes, which read little of it or nothing.
    """
    try:
        _ = reference.said
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        return f"no text: with its generation_config.json, generate ends in {reason}"
    return None


def incomparable(reference: Reference, size: int) -> str | None:
    """Say why our texts are not those of openai-whisper and whisper.cpp; ``None`` where they are.

    Args:
        reference: What our runtime computes.
        size: Tokens of its vocabulary, one of OpenAI's.
    """
    if reason := unsaid(reference):
        return reason
    if reference.said[0] == vocabulary_of(size).prompt():
        return None
    return "no text: generation_config.json does not begin one as the other runtime does"


def longest(reference: Reference) -> int:
    """Return how many tokens of a recording are compared: at most what whisper.cpp says of one."""
    # It stops at half its positions and four less, and drops a text that has not ended by then.
    return max(1, min(LONGEST, int(reference.model.config.max_target_positions) // 2 - 5))


def ending(reference: Reference) -> int:
    """Return the token that ends a text; the vocabulary's last where none is said to."""
    model = reference.model
    for settings in (model.generation_config, model.config):
        found = getattr(settings, "eos_token_id", None)
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, int):
            return first
    return int(model.config.vocab_size) - 1


def suppressed(reference: Reference) -> list[int]:
    """Return the tokens that none of the runtimes may say: its own, and all that are no text."""
    generation, vocabulary = reference.model.generation_config, reference.model.config.vocab_size
    own = getattr(generation, "suppress_tokens", None) or []
    return sorted({*own, *range(ending(reference) + 1, vocabulary)})


def spoken(tokens: Sequence[int], end: int) -> list[int]:
    """Return the tokens before the end of the text."""
    tokens = list(tokens)
    return tokens[: tokens.index(end)] if end in tokens else tokens


def compared(reference: Reference, theirs: Sequence[Sequence[int]], tie: float) -> Texts:
    """Compare texts up to the first that differs.

    Where two runtimes part at a token, rounding decides if our model hardly tells them apart. What
    follows from there on is another text, and is not compared.

    Args:
        reference: What our runtime computes.
        theirs: What the other one said of each embedded recording, without special tokens.
        tie: Largest difference of two logits that rounding may turn round.
    """
    prompt, ours = reference.said
    end = ending(reference)
    same = parted = 0
    for clip, (here, there) in enumerate(zip(ours, theirs, strict=True)):
        there = list(there)[: longest(reference)]
        pairs = enumerate(zip_longest(here, there, fillvalue=end))
        place = next((index for index, (one, other) in pairs if one != other), None)
        if place is None or place == longest(reference):
            same += 1
            continue
        with torch.inference_mode():
            logits = reference.model(
                input_features=reference.features[clip : clip + 1],
                decoder_input_ids=torch.tensor([prompt + here[:place]]),
            ).logits[0, -1]
        one, other = ([*text, end][place] for text in (here, there))
        if abs(float(logits[one] - logits[other])) > tie:
            return Texts(same, parted, (_text(reference, here), _text(reference, there)))
        parted += 1
    return Texts(same, parted)


def _text(reference: Reference, tokens: Sequence[int]) -> str:
    if reference.words is None:
        return " ".join(map(str, tokens))
    text: str = reference.words.tokenizer.decode(tokens)
    return text.strip()
