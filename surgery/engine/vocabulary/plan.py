"""Plan: which tokens stay, before a weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.targets import bytes_in, parameters_in
from surgery.engine.vocabulary.options import TrimOptions
from surgery.engine.vocabulary.uses import Use, joint_worth, named_tokens, uses_of
from surgery.engine.vocabulary.words import letterless
from surgery.errors import UsageError
from surgery.events import Progress
from surgery.stored.stored import Stored, output_dtype, read_stored
from surgery.stored.tokens import Tokens, read_tokens
from surgery.stored.trimmed import TrimmedSource
from surgery.vocabulary.choice import Choice, counted, language_slot


@dataclass(frozen=True, eq=False)
class TrimPlan:
    """A checked source, and the tokens that stay.

    Attributes:
        stored: The source.
        tokens: Its tokens.
        asked: What the user called it.
        options: What was asked for.
        uses: What uses tokens.
        choice: The tokens that stay.
        reasons: How many of them for which reason.
        trimmed: The source without the others.
    """

    stored: Stored
    tokens: Tokens
    asked: str
    options: TrimOptions
    uses: tuple[Use, ...]
    choice: Choice
    reasons: Mapping[str, int]
    trimmed: TrimmedSource

    @property
    def source(self) -> TensorSource:
        """The checkpoint before."""
        return self.stored.source

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return name, dtype and shape of every tensor of the result, by shard."""
        return {
            shard: [
                TensorSpec(name, self.dtype(name), self.trimmed.infos[name].shape) for name in names
            ]
            for shard, names in self.trimmed.shards.items()
        }

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype a tensor is written in."""
        return output_dtype(self.source, name, self.options.dtype)


def make_plan(
    source: TensorSource, options: TrimOptions, asked: str, progress: Progress
) -> TrimPlan:
    """Check a checkpoint and its tokenizer, and choose the tokens that stay.

    Args:
        source: The checkpoint.
        options: What is asked for.
        asked: What the user called it.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: Checkpoint, tokenizer, texts and options contradict each other.
    """
    stored = read_stored(source)
    tokens = read_tokens(stored)
    slots = _removed_languages(tokens, options)
    uses = uses_of(source, tokens, options, progress)
    vocabulary = tokens.vocabulary
    named = named_tokens(options, tokens)
    plain = letterless(vocabulary, vocabulary.names) if options.languages else set[int]()
    must = vocabulary.closed({*tokens.standing, *named, *plain})
    used = set().union(*(one.kept for one in uses))
    if options.targeted:
        used = _fitting(stored, tokens, options, must, uses)
    kept = must | vocabulary.closed(used)
    if len(kept) == tokens.rows:
        raise UsageError(
            "Every token stays: there is nothing to trim",
            where=source.name,
            found=f"{tokens.rows:,} tokens",
            hint="keep less text or fewer words, or raise --min-count",
        )
    reasons = {
        "special and added": vocabulary.added,
        "named by a configuration, or what any text can be written with": tokens.standing,
        "named in a file": named,
        "digits and signs": plain,
        **{one.name: one.kept & used for one in uses},
        "the tokenizer's first, for which there was room": kept if options.targeted else (),
    }
    choice = Choice(vocabulary, tuple(sorted(kept)), slots)
    trimmed = TrimmedSource(stored, tokens, choice)
    told = counted(kept, reasons)
    return TrimPlan(stored, tokens, asked, options, tuple(uses), choice, told, trimmed)


def parameters_per_token(stored: Stored, tokens: Tokens) -> int:
    """Return how many parameters leave with a token."""
    return sum(stored.source.infos[name].numel // tokens.rows for name in tokens.tensors)


def _removed_languages(tokens: Tokens, options: TrimOptions) -> dict[int, str]:
    """Return what stands in the place of languages that leave, by their tokens' ids.

    Raises:
        UsageError: A language is none of the model's.
    """
    if not tokens.languages or not options.languages:
        return {}
    stay = {f"<|{code}|>" for code in options.languages}
    if unknown := sorted(stay - tokens.languages.keys()):
        raise UsageError(
            "The model does not know this language",
            where="--languages",
            found=", ".join(name.strip("<|>") for name in unknown),
            expected=", ".join(sorted(name.strip("<|>") for name in tokens.languages)),
        )
    return {
        number: language_slot(name) for name, number in tokens.languages.items() if name not in stay
    }


def _fitting(
    stored: Stored, tokens: Tokens, options: TrimOptions, must: set[int], uses: Iterable[Use]
) -> set[int]:
    """Return the most used tokens that fit beside those that stay in any case.

    What leads to a token is used no less than it, and comes first. Room that is left goes to the
    first of the others: a tokenizer made the most frequent ones first.

    Raises:
        UsageError: Not even the others fit.
    """
    infos = stored.source.infos.values()
    if options.target_size is not None:
        target, flag = bytes_in(options.target_size), "--target-size"
        sizes = {
            name: output_dtype(stored.source, name, options.dtype).itemsize
            for name in stored.source.infos
        }
        whole = sum(info.numel * sizes[info.name] for info in infos)
        each = sum(
            stored.source.infos[name].numel // tokens.rows * sizes[name] for name in tokens.tensors
        )
        unit = "bytes"
    else:
        target, flag = parameters_in(str(options.target_parameters)), "--target-parameters"
        whole, each = sum(info.numel for info in infos), parameters_per_token(stored, tokens)
        unit = "parameters"
    room = tokens.rows - -(-max(whole - target, 0) // each) - len(must)
    if room < 0:
        raise UsageError(
            "The tokens that stay in any case do not fit",
            where=flag,
            found=f"{target:,} {unit}",
            expected=f"at least {whole - (tokens.rows - len(must)) * each:,}",
        )
    vocabulary = tokens.vocabulary
    worth = vocabulary.worth(joint_worth(uses))
    used = worth.keys() & set().union(*(vocabulary.closed(one.kept) for one in uses)) - must
    order = sorted(used, key=lambda one: (-worth[one], len(vocabulary.names[one])))
    found = set(order[:room])
    for one in sorted(vocabulary.names.keys() - must - found):
        more = vocabulary.closed([one]) - must - found
        if len(found) + len(more) <= room:
            found |= more
    return found
