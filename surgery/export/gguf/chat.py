"""What a GGUF says of conversations: chat templates, and the tokens that end a turn or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

from surgery.checkpoint.directory import read_json
from surgery.errors import CheckpointError

DEFAULT = "default"
FILE = "chat_template.jinja"
FOLDER = "additional_chat_templates"
"""Beside that file: further templates, by name."""
ENDS = ("eos", "eot", "eom")
"""llama.cpp's names of the tokens that it stops at; it has no list of them."""
_CONFIGS = ("tokenizer_config.json", "generation_config.json", "chat_template.json")


@dataclass(frozen=True)
class Chat:
    """How one talks with a model.

    Attributes:
        templates: The templates by name; ``default`` is the one taken unless another is asked for.
        ends: The tokens that end what it says, the tokenizer's own first.
        unknown: What is named as an end and is no token of the model.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def held(self) -> dict[str, int]:
        """The ends that a GGUF holds, by llama.cpp's names."""
        return dict(zip(ENDS, self.ends, strict=False))

    @property
    def notes(self) -> list[str]:
        """What a GGUF cannot hold, as sentences."""
        told = []
        if not self.ends:
            told.append("No token is said to end a text: llama.cpp stops at a default of its own.")
        if lost := self.ends[len(ENDS) :]:
            told.append(
                f"A GGUF holds {len(ENDS)} tokens that end a text, and this model has "
                f"{len(self.ends)}: llama.cpp does not stop at {', '.join(map(str, lost))}, unless "
                "it knows them by their text."
            )
        if self.unknown:
            named = ", ".join(self.unknown)
            told.append(f"Said to end a text, and no token of the model: {named}; left out.")
        return told


def read_chat(files: Mapping[str, Path], end: object, tokens: Sequence[str]) -> Chat:
    """Read what the files beside a checkpoint say, as transformers takes it.

    Args:
        files: The files, by name.
        end: The end of a text by the model's configuration, one token or several.
        tokens: Text of every token.

    Raises:
        CheckpointError: A file cannot be read.
    """
    known = {name: read_json(files[name]) for name in _CONFIGS if name in files}
    said = known.get("generation_config.json", {}).get("eos_token_id")
    given = end if said is None else said
    listed = given if isinstance(given, list) else [] if given is None else [given]
    ends = [one for one in dict.fromkeys(map(_id, listed)) if 0 <= one < len(tokens)]
    own = known.get("tokenizer_config.json", {}).get("eos_token")
    own = own.get("content") if isinstance(own, Mapping) else own
    ends.sort(key=lambda one: tokens[one] != own)  # the others keep their order
    unknown = [repr(one) for one in listed if _id(one) not in ends]
    return Chat(_templates(files, known), tuple(ends), tuple(unknown))


def _id(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _templates(files: Mapping[str, Path], known: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the templates by name: those in files of their own, or those in a configuration."""
    found = {}
    if FILE in files:
        found[DEFAULT] = _text(files[FILE])
    for folder in {path.parent / FOLDER for path in files.values()}:
        for path in sorted(folder.glob("*.jinja")):
            found[path.stem] = _text(path)
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = found or _of_config(known.get(name, {}).get("chat_template"))
    return {name: template for name, template in found.items() if template.strip()}


def _of_config(given: object) -> dict[str, str]:
    """Return the templates of a configuration: one, or a list of named ones."""
    if isinstance(given, str):
        return {DEFAULT: given}
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        entries = given if isinstance(given, list) else []
        entries = [one for one in entries if isinstance(one, dict)]
        named = [(one.get("name"), one.get("template")) for one in entries]
    return {str(name): one for name, one in named if name and isinstance(one, str)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            "A chat template cannot be read", where=path, found=f"{type(error).__name__}: {error}"
        ) from error


def write_chat(writer: Any, chat: Chat, *, spoken: bool) -> None:
    """Write templates and ends.

    Args:
        writer: The ``gguf`` package's.
        chat: What to write.
        spoken: Whether the file has the model's words; without them a template makes no sense.
    """
    from gguf import Keys

    for name, token in chat.held.items():
        getattr(writer, f"add_{name}_token_id")(token)
    if not spoken:
        return
    names = {}
    for name, template in chat.templates.items():
        if name == DEFAULT:
            writer.add_string(Keys.Tokenizer.CHAT_TEMPLATE, template)
        else:  # the letters that gguf's own writer allows in a key
            plain = "".join(one if one in ascii_letters + digits else "_" for one in name)
            names[plain] = template
    for plain, template in names.items():
        writer.add_string(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=plain), template)
    if names:
        writer.add_array(Keys.Tokenizer.CHAT_TEMPLATES, sorted(names))
