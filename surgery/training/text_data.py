"""Text, prompts with completions and conversations as examples: what counts, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgery.errors import SurgeryError
from surgery.evaluation.rows import Document, read_text
from surgery.evaluation.vocabulary import check_tokens
from surgery.training.examples import IGNORED, Example

ANSWERING = "assistant"
"""The role whose turns are learnt."""


def read_examples(path: Path, tokenizer: Any, rows: int | None = None) -> list[Example]:
    """Read a text file, a ``.jsonl`` file, or a folder of both.

    Args:
        path: As for :func:`surgery.evaluation.rows.read_text`.
        tokenizer: A transformers tokenizer.
        rows: How many tokens the model has embeddings for.

    Returns:
        One example a document; see :func:`to_example`.

    Raises:
        CheckpointError: A token has no embedding.
        SurgeryError: Something cannot be read, or a row teaches nothing; names file and line.
    """
    examples = []
    for document in read_text(path):
        examples.append(to_example(document, tokenizer))
        check_tokens(examples[-1].tokens, rows, tokenizer, document.where)
    return examples


def to_example(document: Document, tokenizer: Any) -> Example:
    """Return a document's tokens, and as labels those that are to be learnt.

    Of a prompt and its completion only the completion counts, of a conversation only the turns of
    the assistant: what follows the template's generation prompt, the mark that ends the turn
    included. Without a template a turn is a line, and ``assistant: `` is its prompt. A text is
    encoded as a whole, as perplexity does; a token that lies across the end of a prompt counts,
    since the prompt alone does not have it.

    The tokenizer's end-of-text token follows, where there is one and no template is used (which
    ends its turns itself), and is learnt where what comes before it is.

    Raises:
        SurgeryError: There are no words to learn, or the template cannot be followed turn by turn.
    """
    check_words(document)
    marked_up, spans = _spans(document, tokenizer)
    tokens = document.encode(tokenizer, marked_up)
    labels = [IGNORED] * len(tokens)
    for begin, end in spans:
        first = _position(document, tokenizer, marked_up, tokens, begin)
        last = _position(document, tokenizer, marked_up, tokens, end)
        labels[first:last] = tokens[first:last]
    if labels.count(IGNORED) == len(labels):
        raise _nothing(document, "no token", "words that the tokenizer knows")
    closing = getattr(tokenizer, "eos_token_id", None)
    if closing is not None and not document.is_templated(tokenizer) and tokens[-1:] != [closing]:
        tokens.append(closing)
        ended = bool(spans) and spans[-1][1] == len(marked_up)
        labels.append(closing if ended else IGNORED)
    return Example(tokens, labels)


def check_words(document: Document) -> None:
    """Refuse a document in which there is nothing, or nothing but white space, to be learnt.

    Raises:
        SurgeryError: Names its file and line.
    """
    if not document.messages:
        if not document.text[document.prompt :].strip():
            if document.prompt:
                raise _nothing(document, "an empty completion", "words after the prompt")
            raise _nothing(document, "nothing but white space", "words")
        return
    answers = [content for role, content in document.messages if role == ANSWERING]
    if not answers:
        roles = ", ".join(role for role, _ in document.messages)
        raise _nothing(document, f"roles {roles}", f"a turn of the role {ANSWERING}")
    if not all(content.strip() for content in answers):
        at = next(
            number
            for number, (role, content) in enumerate(document.messages, start=1)
            if role == ANSWERING and not content.strip()
        )
        raise _nothing(document, f"turn {at}, of the role {ANSWERING}, is empty", "words")


def _nothing(document: Document, found: str, expected: str) -> SurgeryError:
    return SurgeryError(
        "There is nothing to learn here.", where=document.where, found=found, expected=expected
    )


def _spans(document: Document, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return the text as it is encoded, and where in it the characters stand that are learnt."""
    if not document.messages:
        return document.text, [(document.prompt, len(document.text))]
    if document.is_templated(tokenizer):
        return _templated(document, tokenizer)
    spans, at = [], 0
    for role, content in document.messages:
        begin, at = at + len(f"{role}: "), at + len(f"{role}: {content}\n")
        if role == ANSWERING:
            spans.append((begin, at))  # with the line break: it says that the turn is over
    marked_up = document.marked_up(tokenizer)
    return marked_up, [(begin, min(end, len(marked_up))) for begin, end in spans]


def _templated(document: Document, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    from jinja2 import TemplateError

    turns = document.turns()

    def marked_up(count: int, *, asked: bool = False) -> str:
        text = tokenizer.apply_chat_template(
            turns[:count], tokenize=False, add_generation_prompt=asked
        )
        return str(text)

    try:
        whole = marked_up(len(turns))
        spans = []
        for index, (role, content) in enumerate(document.messages):
            if role != ANSWERING:
                continue
            after = marked_up(index + 1)
            # transformers marks up no empty conversation, so one that the assistant opens has no
            # generation prompt: what stands before its words takes that place.
            unasked = after[: max(after.find(content.strip()), 0)]
            before = marked_up(index, asked=True) if index else unasked
            if not (after.startswith(before) and whole.startswith(after)):
                raise SurgeryError(
                    "The chat template writes this conversation's beginning in another way than "
                    "the whole, so what the assistant said cannot be told apart.",
                    where=document.where,
                    found=f"turn {index + 1} of {len(turns)} changes what stands before it",
                    expected="a template whose text for some turns begins its text for more",
                    hint="Give each assistant turn a row of its own that ends with it, or change "
                    "the template in the tokenizer's files.",
                )
            spans.append((len(before), len(after)))
    except (TemplateError, TypeError, ValueError) as error:
        raise SurgeryError(
            "The tokenizer's chat template does not take this conversation.",
            where=document.where,
            found=error,
        ) from error
    return whole, spans


def _position(
    document: Document, tokenizer: Any, marked_up: str, tokens: list[int], character: int
) -> int:
    """Return the index of the first token that reaches beyond a character's position.

    By the tokens that the text before it has in common with the whole: that needs no offsets,
    which not every tokenizer has.
    """
    if character in (0, len(marked_up)):
        return len(tokens) if character else 0
    before = document.encode(tokenizer, marked_up[:character])
    pairs = zip(before, tokens, strict=False)
    return next(
        (index for index, (a, b) in enumerate(pairs) if a != b), min(len(before), len(tokens))
    )
