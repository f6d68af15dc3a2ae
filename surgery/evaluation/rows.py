"""Rows of text: plain documents, prompts with completions, conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from surgery.errors import SurgeryError, first_few
from surgery.evaluation.perplexity import Division, read_documents

SUFFIXES = (".txt", ".jsonl")
ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE", "NOTE")
FORMS = '{"text"}, {"prompt", "completion"} or {"messages": [{"role", "content"}, …]}'


Unit = Literal["row", "line", "file"]


@dataclass(frozen=True)
class Document:
    """One text that shares no context with any other.

    Attributes:
        text: What is said, without markup.
        messages: ``(role, content)`` of a conversation, which a tokenizer with a chat template
            marks up its own way; empty for plain text.
        prompt: How many of the text's first characters are a prompt that the rest answers.
        where: The file it is from, and the line of a row: for messages.
        unit: What it is of its file: a ``row`` of JSONL, a ``line``, or the whole ``file``.
    """

    text: str
    messages: tuple[tuple[str, str], ...] = ()
    prompt: int = 0
    where: str = field(default="", compare=False)
    unit: Unit = field(default="file", compare=False)

    def tokens(self, tokenizer: Any) -> list[int]:
        """Return token ids, with the special tokens that the tokenizer adds by itself."""
        return self.encode(tokenizer, self.marked_up(tokenizer))

    def is_templated(self, tokenizer: Any) -> bool:
        """Whether this is a conversation that the tokenizer has a template for."""
        return bool(self.messages and getattr(tokenizer, "chat_template", None))

    def turns(self) -> list[dict[str, str]]:
        """Return the conversation in the form that templates take."""
        return [{"role": role, "content": content} for role, content in self.messages]

    def marked_up(self, tokenizer: Any) -> str:
        """Return the text with its turns marked, as it is encoded."""
        if self.is_templated(tokenizer):
            return str(tokenizer.apply_chat_template(self.turns(), tokenize=False))
        return "\n".join(f"{role}: {content}" for role, content in self.messages) or self.text

    def encode(self, tokenizer: Any, marked_up: str) -> list[int]:
        """Return token ids of the marked-up text or of a beginning of it."""
        # A template spells out the special tokens: none may be added a second time.
        options = {"add_special_tokens": False} if self.is_templated(tokenizer) else {}
        # `verbose=False`: a document longer than the model's context is expected here.
        return list(tokenizer(marked_up, **options, verbose=False)["input_ids"])


def read_text(path: Path, division: Division = "documents") -> list[Document]:
    """Read a text file, a JSONL file, or every such file below a folder, sorted by path.

    Args:
        path: ``.jsonl``: a row a line; any other file: UTF-8 text, its lines or the whole a
            document (see :func:`surgery.evaluation.perplexity.read_documents`).
        division: ``running``: every file is one document, a row's text after another's;
            otherwise every row is one, and other files divide as said.

    Raises:
        SurgeryError: Something cannot be read; names the file, and the line of a bad row.
    """
    files = text_files(path)
    if not files:
        raise SurgeryError(
            "There is no text here.",
            where=path,
            found=_others(path) or None,
            expected=f"files ending in {', '.join(SUFFIXES)}",
        )
    return [document for file in files for document in _read_file(file, division)]


def text_files(path: Path) -> list[Path]:
    """Return a file itself, or every text and JSONL file below a folder, sorted by path."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


def unread_files(path: Path) -> str | None:
    """Say which files below a folder are not read."""
    others = _others(path)
    kinds = " and ".join(SUFFIXES)
    return f"Of {path} only {kinds} are read, and not: {others}." if others else None


def _others(path: Path) -> str:
    """Name the files of a folder that are not read; what tells about the folder is no data."""
    if not path.is_dir():
        return ""
    read = {*text_files(path)}
    found = [
        file.relative_to(path)
        for file in sorted(path.rglob("*"))
        if file not in read and file.is_file() and not file.name.startswith(ABOUT)
    ]
    names = [each.as_posix() for each in found if not any(p.startswith(".") for p in each.parts)]
    return first_few(names)


def _read_file(path: Path, division: Division) -> list[Document]:
    if path.suffix.lower() != ".jsonl":
        texts = read_documents(path, division)
        by_lines = division == "lines" or len(texts) > 1
        unit: Unit = "line" if by_lines else "file"
        return [Document(text, where=str(path), unit=unit) for text in texts]
    documents = list(_rows(path))
    if not documents:
        raise SurgeryError("This file has no rows.", where=path, expected=f"a line each: {FORMS}")
    if division == "running":
        return [Document("\n".join(each.text for each in documents), where=str(path))]
    return documents


def json_lines(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield number, text and value of every line of JSONL that is not blank, as it is read.

    Raises:
        SurgeryError: It cannot be read, or a line is no JSON.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n"), _value(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise SurgeryError("This file of rows cannot be read.", where=path, found=error) from error


def _value(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, number, f"no JSON: {error}") from error


def _rows(path: Path) -> Iterator[Document]:
    for number, line, row in json_lines(path):
        if not isinstance(row, dict):
            raise _malformed(path, number, f"a {type(row).__name__}")
        document = _document(row, f"{path}, line {number}")
        if document is None:
            raise _malformed(path, number, shortened(line))
        if not document.text.strip():
            raise _malformed(path, number, "nothing but white space")
        yield document


def _document(row: dict[str, Any], where: str) -> Document | None:
    """Return what a row says, or nothing where it has none of the forms; other keys are ignored."""
    if isinstance(row.get("text"), str):
        return Document(row["text"], where=where, unit="row")
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(prompt + completion, prompt=len(prompt), where=where, unit="row")
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        return None
    messages = []
    for turn in turns:
        role, content = (
            (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (0, 0)
        )
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        messages.append((role, content))
    text = "\n".join(content for _, content in messages)
    return Document(text, tuple(messages), where=where, unit="row")


def shortened(line: str, most: int = 80) -> str:
    """Return a line as messages show it."""
    return line if len(line) <= most else line[:most] + " …"


def _malformed(path: Path, line: int, found: str) -> SurgeryError:
    return SurgeryError(
        "A row of the data cannot be used.",
        where=f"{path}, line {line}",
        found=found,
        expected=FORMS,
    )
