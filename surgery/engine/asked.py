"""What a run was asked to do: options that can be compared, and the command that gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from surgery.checkpoint.source import TensorSource
from surgery.choices.option import command_line
from surgery.choices.places import given_path, model_name


class AskedFor(Protocol):
    """The options of a run, in a form that can be compared and repeated."""

    @property
    def dtype(self) -> str | None:
        """Dtype of the written weights; ``None`` keeps every tensor's own."""

    def plain(self) -> dict[str, Any]:
        """Return them as JSON values."""

    @property
    def command(self) -> str:
        """The command that asks for such a thing."""

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words of that command which ask for the same, defaults left out.

        Args:
            shown: As others may see it: of paths the last names alone.
        """


def command_text(
    options: AskedFor,
    source: TensorSource,
    asked: str,
    target: Path,
    data: str | Path | None = None,
    *,
    leaked: bool = False,
    shown: bool = False,
) -> str:
    """Return the shell command that makes a result again.

    Args:
        options: What was asked for.
        source: The model before.
        asked: What the user called it.
        target: The result directory.
        data: What is measured on.
        leaked: Whether that has samples of the calibration's.
        shown: As others may see it: of paths the last names alone.
    """
    words = options.words(shown=shown)
    if source.revision is not None:
        words += ["--revision", source.revision]
    if data is not None:
        words += ["--data", given_path(data) if shown else str(data)]
    if leaked:
        words.append("--allow-leakage")
    model = model_name(asked, source.name) if shown else asked
    return command_line(options.command, model, words, target.name if shown else str(target))
