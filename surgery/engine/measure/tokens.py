"""What a smaller vocabulary keeps, proved on real input: pieces, logits, and greedy texts.

The original is given the very tokens that the result reads, by their old ids. What both compute of
them is compared number by number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.input import data_kind, embedded, processor_of
from surgery.stored.dense import dense_directory
from surgery.vocabulary.choice import Choice
from surgery.vocabulary.tokenizer import Vocabulary

LONGEST, MOST = 256, 32
"""Tokens of a text and number of texts that the models read."""
PROMPT, WRITTEN = 16, 32
"""Tokens of a text that a language model is told, and that it goes on with."""
BEFORE = 4
"""Tokens that a Whisper is told before it writes, at most."""
SHOWN = 20


@dataclass
class Agreement:
    """How far numbers are equal.

    Attributes:
        numbers: How many were compared.
        equal: How many of them are equal bit for bit.
        difference: The largest difference of the others.
    """

    numbers: int = 0
    equal: int = 0
    difference: float = 0.0

    def add(self, old: Tensor, new: Tensor) -> None:
        """Add two tensors of one shape."""
        self.numbers += old.numel()
        self.equal += int((old == new).sum())
        self.difference = max(self.difference, float((old - new).abs().max()))


@dataclass
class TokensVerification:
    """What :func:`verify_tokens` found.

    Attributes:
        before: Tokens of the original.
        kept: Tokens of the result.
        texts: Texts that were cut to tokens.
        whole: Of them those whose tokens all stay.
        same: Of these those that are cut to the same ones.
        gone: Tokens of the others that are gone, and how often they were used, most used first.
        hidden: The last hidden states.
        logits: Logits of kept tokens; empty of a model without. A product with fewer columns may
            round some of them otherwise.
        written: Texts that both models wrote; none of what writes nothing.
        agreeing: Of them those that are equal as far as the original wrote kept tokens.
        until_gone: Of these those where it then wrote one that is gone.
        differing: Texts that differ before.
    """

    before: int
    kept: int
    texts: int = 0
    whole: int = 0
    same: int = 0
    gone: dict[str, int] = field(default_factory=dict)
    hidden: Agreement = field(default_factory=Agreement)
    logits: Agreement = field(default_factory=Agreement)
    written: int = 0
    agreeing: int = 0
    until_gone: int = 0
    differing: list[str] = field(default_factory=list)


def verify_tokens(
    source: TensorSource,
    result: Path,
    choice: Choice,
    after: Vocabulary,
    data: str | Path | None,
    sample: TensorSource,
) -> TokensVerification:
    """Compare a result with the original that has more tokens.

    Args:
        source: The original.
        result: Directory of the result.
        choice: Which tokens of the original it has.
        after: Its tokens.
        data: Audio folder or text file; by default what the package ships.
        sample: The result, as it was opened.
    """
    from surgery.evaluation.perplexity import longest_context
    from surgery.stored.loading import load

    found = TokensVerification(len(choice.vocabulary.names), len(choice.kept))
    with dense_directory(source) as original:
        models = load(original), load(result)
        if data_kind(source) == "audio":
            from surgery.engine.measure.measure import clips

            with clips(source, sample, data) as (speech, _):
                heard = [one.audio() for one in speech.utterances[:MOST]]
            processors = [processor_of(source, place) for place in (original, result)]
            _speech(models, processors, heard, choice, found)
            return found
        with _documents(data) as texts:
            _pieces(choice, after, texts, found)
            longest = min(LONGEST, longest_context(models[0]) - WRITTEN)
            for text in texts[:MOST]:
                tokens = after.tokens_of([text])[0][:longest]
                if tokens:
                    _compare(models, _both(tokens, choice), choice, found)
                    if found.logits.numbers and models[0].can_generate():
                        _continue(models, tokens[:PROMPT], choice, found)
    return found


@contextmanager
def _documents(data: str | Path | None) -> Iterator[list[str]]:
    from surgery.evaluation.perplexity import read_documents

    if data is not None:
        yield read_documents(Path(data))
        return
    with embedded("sample.txt") as path:
        yield [line for text in read_documents(path) for line in text.splitlines() if line.strip()]


def _pieces(
    choice: Choice, after: Vocabulary, texts: Sequence[str], found: TokensVerification
) -> None:
    """Count texts that are cut to the same tokens, and what the others used."""
    old, new = (each.tokens_of(texts) for each in (choice.vocabulary, after))
    _count(zip(old, new, strict=True), choice, found)


def _count(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]], choice: Choice, found: TokensVerification
) -> None:
    """Count texts by the tokens that original and result have of them."""
    gone: Counter[int] = Counter()
    for old, new in pairs:
        numbers = [choice.numbers.get(one) for one in old]
        gone.update(one for one, number in zip(old, numbers, strict=True) if number is None)
        found.texts += 1
        found.whole += None not in numbers
        found.same += numbers == new
    names = choice.vocabulary.names
    found.gone |= {names.get(one, str(one)): times for one, times in gone.most_common(SHOWN)}


def _both(tokens: Sequence[int], choice: Choice) -> tuple[Tensor, Tensor]:
    """Return tokens of the result, by old ids and by new ones, each (1, length)."""
    return torch.tensor([[choice.kept[one] for one in tokens]]), torch.tensor([list(tokens)])


@torch.inference_mode()
def _compare(
    models: Sequence[Any],
    both: Sequence[Tensor],
    choice: Choice,
    found: TokensVerification,
    **inputs: Tensor,
) -> None:
    """Add how far outputs for the same tokens are apart."""
    name = "decoder_input_ids" if inputs else "input_ids"
    states = "decoder_hidden_states" if inputs else "hidden_states"
    outputs = [
        model(**{name: tokens}, **inputs, output_hidden_states=True)
        for model, tokens in zip(models, both, strict=True)
    ]
    found.hidden.add(*(getattr(one, states)[-1] for one in outputs))
    old, new = (getattr(one, "logits", None) for one in outputs)
    if old is not None and new is not None and new.shape[-1] == len(choice.kept):
        found.logits.add(old[..., list(choice.kept)], new)


@torch.inference_mode()
def _continue(
    models: Sequence[Any], prompt: Sequence[int], choice: Choice, found: TokensVerification
) -> None:
    """Let both models go on with a text, greedily."""
    written = []
    for model, tokens in zip(models, _both(prompt, choice), strict=True):
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            num_beams=1,
            max_new_tokens=WRITTEN,
        )
        written.append(out[0, tokens.shape[1] :].tolist())
    _agree(written[0], written[1], choice, found)


def _speech(
    models: Sequence[Any],
    processors: Sequence[Any],
    heard: Sequence[Any],
    choice: Choice,
    found: TokensVerification,
) -> None:
    """Let two Whispers write what they hear, one recording at a time."""
    from surgery.evaluation.audio import split, window
    from surgery.evaluation.transcribe import extract_features, generation_options, is_multilingual

    every: list[tuple[list[int], list[int]]] = []
    most = int(models[0].config.max_target_positions)
    language = _spoken(models[1]) if is_multilingual(models[1]) else "en"
    for recording in heard:
        piece = split(recording, window(processors[0]))[0]
        features = extract_features(processors[0], [piece])
        texts = []
        for model in models:
            options = generation_options(model, language, min(WRITTEN, most - BEFORE))
            mask = torch.ones(features.shape[0], features.shape[-1])
            out = model.generate(input_features=features, attention_mask=mask, **options)
            texts.append(out[0].tolist())
        _agree(texts[0], texts[1], choice, found)
        every.append((texts[0], texts[1]))
        start = models[1].generation_config.decoder_start_token_id
        both = _both([start, *texts[1]][:most], choice)
        _compare(models, both, choice, found, input_features=features)
    _count(every, choice, found)


def _spoken(model: Any) -> str:
    """Return English where a Whisper knows it, else the first of its languages."""
    known = [name.strip("<|>") for name in model.generation_config.lang_to_id]
    return "en" if "en" in known else known[0]


def _agree(
    old: Sequence[int], new: Sequence[int], choice: Choice, found: TokensVerification
) -> None:
    numbers = [choice.numbers.get(one) for one in old]
    until = numbers.index(None) if None in numbers else len(numbers)
    found.written += 1
    if numbers[:until] == list(new[:until]):
        found.agreeing += 1
        found.until_gone += until < len(numbers)
    else:
        at = next(
            (at for at, (one, two) in enumerate(zip(numbers, new, strict=False)) if one != two),
            min(until, len(new)),
        )
        names = choice.vocabulary.names
        wrote = names.get(old[at], "nothing") if at < len(old) else "nothing"
        found.differing.append(f"text {found.written}, token {at + 1}: the original {wrote!r}")
