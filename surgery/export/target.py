"""What every export target says of itself: whether a checkpoint fits, how it is written and run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from surgery.checkpoint.transaction import Transaction
from surgery.errors import SurgeryError, UsageError
from surgery.events import Progress
from surgery.export.reference import Reference
from surgery.stored.stored import Stored

WHOLE = 1.0
"""Everything that surgery removed stays removed."""
NOTHING = 0.0
"""What surgery removed comes back as zeros."""


@dataclass(frozen=True)
class Choice:
    """What the user asked for beside the target.

    Attributes:
        quantization: Type of the weights, by the target's own name; ``None`` takes the target's
            default.
        original: The model an operation was applied to, where the target needs it; ``None``
            looks it up by the name in the checkpoint.
    """

    quantization: str | None = None
    original: str | None = None


@dataclass(frozen=True)
class Fit:
    """Whether a checkpoint fits a target, and what that leaves of its savings.

    Attributes:
        possible: Whether it can be exported at all.
        form: What will be written, in a few words; where it is not possible, why.
        kept: Share of the parameters removed by surgery that stay removed there, 0 to 1; ``None``
            where nothing was removed.
        remedy: The option at surgery time, or the other target, that would do (better).
        needed: Whether there is anything to export: a dense checkpoint runs as it is in some.
    """

    possible: bool
    form: str
    kept: float | None = None
    remedy: str | None = None
    needed: bool = True


@dataclass(frozen=True)
class Comparison:
    """What the other runtime computed, beside ours.

    Attributes:
        runtime: Name and version of the other runtime.
        what: What was compared, and on what input.
        error: Relative Frobenius difference of the outputs; ``None`` where there are only texts.
        bound: The largest error that counts as the same.
        differing: The first text that differs, ours and theirs; ``None`` if none does.
    """

    runtime: str
    what: str
    error: float | None = None
    bound: float | None = None
    differing: tuple[str, str] | None = None

    def check(self, where: Path) -> None:
        """Refuse a result that computes something else.

        Raises:
            SurgeryError: An output or a text differs.
        """
        hint = "this is worth reporting; --no-verify writes it all the same"
        if self.error is not None and self.bound is not None and not self.error <= self.bound:
            raise SurgeryError(
                f"{self.runtime} does not compute what the checkpoint computes",
                where=where,
                found=f"a relative difference of {self.error:.2g} ({self.what})",
                expected=f"at most {self.bound:.2g}",
                hint=hint,
            )
        if self.differing is not None:
            ours, theirs = self.differing
            raise SurgeryError(
                f"{self.runtime} does not say what the checkpoint says",
                where=where,
                found=repr(theirs),
                expected=repr(ours),
                hint=hint,
            )


class Target(ABC):
    """One format and the runtime that reads it.

    Attributes:
        name: What ``--to`` takes.
        title: The runtime as its users call it.
        extra: Extra of this package that installs what is needed; ``None``: nothing is.
        writes_with: Modules that writing needs.
        runs_with: Modules that the comparison needs.
        quantizations: What ``--quantization`` takes, the default first; empty: nothing.
        quantises_itself: What to do for the types of the runtime that are not written here.
        language: Of the lines that :meth:`usage` returns, for highlighting.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    extra: ClassVar[str | None] = None
    writes_with: ClassVar[tuple[str, ...]] = ()
    runs_with: ClassVar[tuple[str, ...]] = ()
    quantizations: ClassVar[tuple[str, ...]] = ()
    quantises_itself: ClassVar[str | None] = None
    language: ClassVar[str] = "python"

    @abstractmethod
    def fit(self, stored: Stored, choice: Choice) -> Fit:
        """Say whether a checkpoint fits, from its configuration and ranks alone."""

    @abstractmethod
    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        """Write everything into the transaction's staging directory.

        Returns:
            Notes for the user, such as what rounding cost.
        """

    @abstractmethod
    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        """Run what was written in its own runtime, beside ours.

        Args:
            reference: What our runtime computes.
            directory: What :meth:`write` wrote.
            choice: What was asked for: quantised weights differ by more.
        """

    @abstractmethod
    def usage(self, place: str) -> str:
        """Return a few lines of code or shell that load what lies at ``place``."""

    def missing(self, *, comparing: bool) -> list[str]:
        """Return the modules that are not installed."""
        wanted = self.runs_with if comparing else self.writes_with
        return [module for module in wanted if find_spec(module) is None]

    @property
    def install(self) -> str:
        """The command that installs what is needed; empty where that came with this package."""
        return f"pip install 'model-surgery[{self.extra}]'" if self.extra else ""

    def check(self, choice: Choice) -> None:
        """Refuse what this target has no form for, before anything is read.

        Raises:
            UsageError: A module is missing, or the quantization is not one of the target's.
        """
        if missing := self.missing(comparing=False):
            raise UsageError(
                f"Writing for {self.title} needs a package that is not installed",
                found=f"no module {', '.join(missing)}",
                hint=self.install,
            )
        if choice.quantization is not None and choice.quantization not in self.quantizations:
            raise UsageError(
                f"There is no such quantization for {self.title}",
                where="--quantization",
                found=choice.quantization,
                expected=", ".join(self.quantizations) or "none: leave it out",
                hint=self.quantises_itself,
            )


def fits(form: str, *, kept: float | None = None, remedy: str | None = None) -> Fit:
    """Return that a checkpoint fits."""
    return Fit(True, form, kept, remedy)


def refused(reason: str, *, remedy: str | None = None) -> Fit:
    """Return that a checkpoint does not fit."""
    return Fit(False, reason, remedy=remedy)
