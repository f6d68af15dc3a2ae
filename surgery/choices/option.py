"""The fields of a dataclass as options of a command: name, bounds and help beside type and default.

A command's signature is spliced from them, so an option is spelled once, here in the library,
whatever commands take it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, cast

_KEY = "option"
T = TypeVar("T")

DTYPE = "Dtype of the written weights; default: as stored."
SCOPE = "Which blocks."
SEED = "Where randomness begins."
TARGETS = "Which maps: q, k, v, o, gate, up, down. Default: what is usual for the method."
"""What several dataclasses say of the same."""

SEAMS = ("--seams", "--pairs")
"""Spellings of the option that names seams; ``config.json`` has the older one."""


def flag(name: str) -> str:
    """Return how people spell the option of a field, or of a key in ``config.json``."""
    return SEAMS[0] if name == "pairs" else "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Option:
    """What a command line says of one field.

    Attributes:
        help: What it does, or what returns that.
        flags: Its spellings; empty: from the field's name.
        metavar: What stands for the value; empty: from the type.
        least: Smallest number.
        most: Largest number.
        reads: How its text is read, where the type does not say it: ``words`` and ``numbers`` with
            commas between them, a ``path``, ``paths``, one each time, a ``fraction`` of at most 1
            or a ``share`` of any size, with or without ``%``.
        among: The choices, or what returns them, where the type does not say them.
        told: Whether the help says the default in words. Then ``None`` stands for it, so that
            whether it was given can be seen.
        inverted: A flag that makes the field false.
        panel: Under what heading it is listed.
    """

    help: str | Callable[[], str]
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    reads: Literal["", "words", "numbers", "path", "paths", "fraction", "share"] = ""
    among: Sequence[str] | Callable[[], Sequence[str]] = ()
    told: bool = False
    inverted: bool = False
    panel: str | None = None


def option(text: str | Callable[[], str], *flags: str, **said: Any) -> dict[str, Option]:
    """Return the metadata of a field that is an option: its help, as in :class:`Option`."""
    return {_KEY: Option(text, flags, **said)}


def asked(default: T, text: str | Callable[[], str], *flags: str, **said: Any) -> T:
    """Return a field with a default that is an option, as in :func:`option`."""
    made: Any = field(default=default, metadata=option(text, *flags, **said))
    return cast(T, made)


def options_of(kind: Any) -> list[tuple[Field[Any], Option]]:
    """Return the fields of a dataclass that are options, in order."""
    return [(each, each.metadata[_KEY]) for each in fields(kind) if _KEY in each.metadata]


def flags_of(each: Field[Any]) -> tuple[str, ...]:
    """Return how a field is spelled on the command line."""
    return each.metadata[_KEY].flags or ("--" + each.name.replace("_", "-"),)


def spelled(options: Any, **instead: Any) -> list[str]:
    """Return a dataclass's options as words of a command, those with their defaults left out.

    Args:
        options: The dataclass.
        instead: What to write in the place of some fields' values.
    """
    words: list[str] = []
    for each, told in options_of(type(options)):
        value = instead.get(each.name, getattr(options, each.name))
        if value is None or value == each.default:
            continue
        on, _, off = flags_of(each)[0].partition("/")
        if isinstance(value, bool):
            words.append(off if value is False and not told.inverted else on)
        elif told.reads == "paths":
            words += [word for one in value for word in (on, str(one))]
        else:
            words += [on, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def command_line(command: str, model: str, words: Iterable[str], output: str | None) -> str:
    """Return the shell command that does something to a model."""
    to = [] if output is None else ["-o", output]
    return shlex.join(["surgery", command, model, *words, *to])
