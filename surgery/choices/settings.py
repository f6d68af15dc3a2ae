"""The settings of small parts that are the method's own, and the ranges they must be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from surgery.choices.common import choice
from surgery.choices.option import asked, option
from surgery.errors import UsageError

Solver = Literal["fast", "full"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
Form = Literal["core", "diagonal"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class SplitSettings:
    """Settings of a split.

    Attributes:
        rank: Rank r of the principal part.
        scale: Factor in front of the principal part.
        solver: ``fast`` (block Krylov, certified) or ``full`` SVD.
        tolerance: Relative energy that the fast solver may leave behind.
    """

    rank: int = field(metadata=option("Rank of the principal part.", least=1))
    scale: float = asked(1.0, "Factor in front of the principal part.")
    solver: Solver = asked("fast", "fast: block Krylov, with a certified bound. full: exact SVD.")
    tolerance: float = asked(1e-3, "Share of the best part's energy that the fast solver may miss.")

    def __post_init__(self) -> None:
        """Refuse what is out of its range."""
        choice("--solver", self.solver, SOLVERS)
        if self.rank < 1:
            raise UsageError("--rank is not positive", found=self.rank)
        if not 0 < self.scale < float("inf"):
            raise UsageError("--scale is not a positive number", found=self.scale)
        if not 0 < self.tolerance < 1:
            raise UsageError("--tolerance is not between 0 and 1", found=self.tolerance)


@dataclass(frozen=True)
class HraSettings:
    """Settings of HRA.

    Attributes:
        reflections: Number r of reflections; even, since an odd number starts elsewhere.
    """

    reflections: int = asked(8, "hra: how many reflections, even; default 8.", least=1, told=True)

    def __post_init__(self) -> None:
        """Refuse what cannot start as the model itself."""
        if self.reflections < 2 or self.reflections % 2:
            raise UsageError(
                "HRA cannot start from the model itself with this many reflections",
                where="--reflections",
                found=self.reflections,
                expected="an even number, since reflections start in pairs that cancel",
            )
