"""Errors a user can act on: where, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Collection

LONGEST = 1200  # characters of each part of an error: more than all names of known models


class SurgeryError(Exception):
    """Base of every error this package raises on bad input.

    Args:
        message: What is wrong, in one sentence.
        where: File, tensor, option or site the problem is in.
        found: What was found there.
        expected: What was expected instead.
        hint: What the user can do about it.

    The command line prints the rendered text and exits with ``exit_code``.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: object | None = None,
        found: object | None = None,
        expected: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = _shortened(message)
        self.where = None if where is None else _shortened(str(where))
        if isinstance(found, OSError):  # its number is no help, and the path is told already
            found = found.strerror or found
        self.found = None if found is None else _shortened(str(found))
        self.expected = None if expected is None else _shortened(str(expected))
        self.hint = hint
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message with its labelled details, one a line."""
        details = (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("what to do", self.hint),
        )
        return "\n".join([self.message, *(f"  {label}: {text}" for label, text in details if text)])


def _shortened(text: str) -> str:
    """Leave out the middle of what nobody would read: damaged files hold texts of any length."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-200:]}"


class UsageError(SurgeryError):
    """Options contradict each other, or ask for more than can be had."""

    exit_code = 2


class ModelNotFoundError(SurgeryError):
    """A model name resolves to nothing that can be read."""


class CheckpointError(SurgeryError):
    """A checkpoint is truncated, corrupt, incomplete, or contradicts its config."""


class UnsupportedModelError(SurgeryError):
    """The architecture is unknown, or has a part that a method cannot treat exactly."""


class TargetError(SurgeryError):
    """The output directory cannot be written: not empty, in use, or the disk is full."""


class SurgeryWarning(UserWarning):
    """Something works and still deserves a sentence: where, what it may lead to, what to do."""


NAMED = 4
"""Of many names."""


def first_few(names: Collection[str], most: int = NAMED) -> str:
    """Return names for a message: the first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


_KEPT = "Kept: "


def note_kept(error: BaseException, what: str, where: object) -> None:
    """Note on an error, or on Ctrl-C, what it leaves finished, and where that lies."""
    error.add_note(f"{_KEPT}{what}, in {where}")


def kept_by(error: BaseException) -> list[str]:
    """Return what an error leaves finished, and where, as :func:`note_kept` was told."""
    notes = getattr(error, "__notes__", [])
    return [note.removeprefix(_KEPT) for note in notes if note.startswith(_KEPT)]
