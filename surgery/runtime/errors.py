"""The one error of the runtime. Its source travels inside checkpoints, so it stands alone."""

from __future__ import annotations


class LoadError(ValueError):
    """A directory cannot be loaded: unreadable, malformed, incomplete, or not supported.

    Args:
        message: What is wrong, in one sentence.
        where: File, tensor or module the problem is in.
        found: What was found there.
        expected: What was expected instead.
        hint: What the user can do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        where: object | None = None,
        found: object | None = None,
        expected: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        details = (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("what to do", self.hint),
        )
        lines = [f"  {label}: {text}" for label, text in details if text]
        super().__init__("\n".join([message, *lines]))


def malformed(where: str, found: object, expected: str) -> LoadError:
    """Return the error for a ``surgery`` block that does not have the documented form."""
    return LoadError(
        "The surgery block of config.json is malformed.",
        where=where,
        found="nothing" if found is None else f"{found!r}"[:80],
        expected=expected,
        hint="write the checkpoint again with `surgery`",
    )
