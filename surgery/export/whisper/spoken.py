"""What a Whisper says token by token, so that a tie is not taken for a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from surgery.checkpoint.whisper_vocabulary import vocabulary_of
from surgery.export.reference import Reference
from surgery.export.saying import ending, longest


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
    end = ending(reference.model)
    same = parted = 0
    for clip, (here, there) in enumerate(zip(ours, theirs, strict=True)):
        there = list(there)[: longest(reference.model)]
        pairs = enumerate(zip_longest(here, there, fillvalue=end))
        place = next((index for index, (one, other) in pairs if one != other), None)
        if place is None or place == longest(reference.model):
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
