r"""PEFT's patterns of modules: regular expressions, matched without a regular-expression engine.

PEFT looks a module's path up in ``rank_pattern`` and ``alpha_pattern`` with
``re.match(rf"(.*\.)?({key})$", path)``; the first key that matches counts. A foreign expression is
a program, and one with nested repeats can keep an engine that backtracks busy for ever. So the
expression is read here, and followed from all positions at once: time grows with its length times
that of the path. What repeats is a single character, ``.`` and ``[a-z]`` included, never a group.
Anything else (groups that repeat, references, looking around, flags) is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Positions = frozenset[int]
Step = Callable[[str, Positions], Positions]
"""From where in a text a part of the expression may begin to where it may end."""

LONGEST = 1000  # characters of an expression: a path has fewer than a hundred
DEEPEST = 50  # brackets
SPECIAL = frozenset(".^$*+?{}[]\\|()")
_REPEAT = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_RANGE = re.compile(r"(\\.|[^\\\[\]^-])(?:-(\\.|[^\\\[\]^-]))?|-")


class PatternError(ValueError):
    """The pattern is no regular expression, or one that is not followed here."""


def first_match(patterns: Iterable[str], path: str) -> str | None:
    """Return the pattern by which PEFT looks up a module.

    Args:
        patterns: Keys of ``rank_pattern`` or ``alpha_pattern``, in the file's order.
        path: The module's path in the base model.

    Raises:
        PatternError: One that comes before any match cannot be followed.
    """
    for pattern in patterns:
        if len(pattern) > LONGEST or pattern.count("(") > DEEPEST:
            raise PatternError(f"{len(pattern)} characters, {pattern.count('(')} brackets")
        follow = _Reader(rf"(.*\.)?({pattern})$").whole()
        if follow(path, frozenset({0})):
            return pattern
    return None


@dataclass
class _Reader:
    """Reads an expression from left to right; every method returns what it has read as a step."""

    text: str
    at: int = 0

    def whole(self) -> Step:
        step = self._alternatives()
        if self.at < len(self.text):
            raise PatternError("a bracket that nothing opens")
        return step

    def _alternatives(self) -> Step:
        choices = [self._sequence()]
        while self._take("|"):
            choices.append(self._sequence())
        return lambda text, here: frozenset().union(*(one(text, here) for one in choices))

    def _sequence(self) -> Step:
        steps: list[Step] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            steps.append(self._repeated())

        def follow(text: str, here: Positions) -> Positions:
            for step in steps:
                here = step(text, here)
            return here

        return follow

    def _repeated(self) -> Step:
        first = self.text[self.at]
        step, count = self._one(), self._count()
        if count is None:
            return step
        if first in "^$" or (first == "(" and count != (0, 1)):
            raise PatternError("a repeat of more than one character")
        return _repeat(step, *count)

    def _count(self) -> tuple[int, int | None] | None:
        """Return how often the last part may stand; ``None`` where nothing says so."""
        rest = self.text[self.at :]
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        found = counts.get(rest[:1])
        if found is not None:
            self.at += 1
        elif rest.startswith("{"):
            given = _REPEAT.match(rest)
            if given is None:
                raise PatternError("a brace that counts nothing")
            least, open_, most = given.groups()
            found = int(least), int(most) if most else None if open_ else int(least)
            if found[1] is not None and found[0] > found[1]:
                raise PatternError("a count that ends before it begins")
            self.at += given.end()
        else:
            return None
        self._take("?")  # as few as possible: another order of trying, the same matches
        if self.text[self.at : self.at + 1] in {"*", "+", "?", "{"}:
            raise PatternError("a repeat of a repeat")
        return found

    def _one(self) -> Step:
        letter = self.text[self.at]
        self.at += 1
        if letter == "(":
            if self._take("?") and not self._take(":"):
                raise PatternError("a group of another kind than (…) and (?:…)")
            step = self._alternatives()
            if not self._take(")"):
                raise PatternError("a bracket that nothing closes")
            return step
        if letter == "^":
            return lambda _, here: here & {0}
        if letter == "$":
            return lambda text, here: here & _ends(text)
        if letter == "[":
            return _character(self._set())
        if letter == "\\":
            return _character(self._escaped())
        if letter == ".":
            return _character(lambda one: one != "\n")
        if letter in SPECIAL:
            raise PatternError(f"{letter!r} where nothing can repeat")
        return _character(lambda one: one == letter)

    def _escaped(self) -> Callable[[str], bool]:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        return _escape(letter)

    def _set(self) -> Callable[[str], bool]:
        negated = self._take("^")
        allowed: list[Callable[[str], bool]] = []
        while not self._take("]"):
            found = _RANGE.match(self.text, self.at)
            if found is None:
                raise PatternError("a set of characters of another kind than [a-z_.-]")
            self.at = found.end()
            allowed.append(_between(*found.groups()))
        if not allowed:
            raise PatternError("an empty set of characters")
        return lambda one: negated != any(holds(one) for holds in allowed)

    def _take(self, letter: str) -> bool:
        taken = self.text.startswith(letter, self.at)
        self.at += taken
        return taken


def _repeat(step: Step, least: int, most: int | None) -> Step:
    def follow(text: str, here: Positions) -> Positions:
        for _ in range(least):
            here = step(text, here)
        ends, count = here, least
        while here and (most is None or count < most):
            here = step(text, here) - ends
            ends, count = ends | here, count + 1
        return ends

    return follow


def _character(holds: Callable[[str], bool]) -> Step:
    def follow(text: str, here: Positions) -> Positions:
        return frozenset(at + 1 for at in here if at < len(text) and holds(text[at]))

    return follow


def _ends(text: str) -> Positions:
    return frozenset({len(text), *([len(text) - 1] if text.endswith("\n") else [])})


def _escape(letter: str) -> Callable[[str], bool]:
    classes: dict[str, Callable[[str], bool]] = {
        "d": str.isdecimal,
        "w": lambda one: one.isalnum() or one == "_",
    }
    if letter in classes:
        return classes[letter]
    if not letter or (letter.isascii() and letter.isalnum()):
        raise PatternError(f"\\{letter}, which is none of \\d, \\w and \\.")
    return lambda one: one == letter


def _between(first: str | None, last: str | None) -> Callable[[str], bool]:
    if first is None:
        return lambda one: one == "-"
    if last is None:
        return _escape(first[1:]) if first.startswith("\\") else lambda one: one == first
    low, high = first[-1], last[-1]
    if (len(first) == 2 and low.isalnum()) or (len(last) == 2 and high.isalnum()) or low > high:
        raise PatternError(f"{first}-{last}, which is no range of characters")
    return lambda one: low <= one <= high
