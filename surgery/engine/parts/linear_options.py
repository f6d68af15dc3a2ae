"""What a user can ask of the methods for linear maps, checked and in a form to be written down."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from surgery.architectures import LINEAR_ROLES
from surgery.engine.choices import (
    DTYPES,
    SCOPES,
    ScopeChoice,
    choice,
)
from surgery.errors import UsageError
from surgery.methods import SOLVERS, Goft, Hra, Pissa, Qgoft, Solver, Sorsa, Treatment

SPLIT_METHODS = ("sorsa", "pissa")
REPARAM_METHODS = ("hra", "goft", "qgoft")


@dataclass(frozen=True)
class LinearOptions:
    """Options of one run.

    Attributes:
        treatment: The method with its settings.
        targets: Roles of the maps to treat; ``None`` takes what is usual for the method.
        scope: Which blocks.
        seed: Where randomness begins: the fast SVD's, and HRA's start.
        dtype: Output dtype of the frozen weights; ``None`` keeps every tensor's own.
    """

    treatment: Treatment
    targets: tuple[str, ...] | None = None
    scope: ScopeChoice = "all"
    seed: int = 0
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that are not among the choices."""
        choice("--scope", self.scope, SCOPES)
        choice("--dtype", self.dtype, (None, *DTYPES))
        for target in self.targets or ():
            choice("--targets", target, LINEAR_ROLES)
        if self.targets is not None and not self.targets:
            raise UsageError("--targets names no role", expected=", ".join(LINEAR_ROLES))

    @property
    def command_name(self) -> str:
        """The command that asks for this method."""
        return "split" if self.treatment.name in SPLIT_METHODS else "reparam"

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names."""
        return {
            "method": self.treatment.name,
            **asdict(self.treatment),  # type: ignore[call-overload]  # all of them are dataclasses
            "targets": None if self.targets is None else list(self.targets),
            "scope": self.scope,
            "seed": self.seed,
            "dtype": self.dtype,
        }

    def command(self, model: str, output: str | None) -> str:
        """Return the shell command that asks for the same."""
        defaults = {"scale": 1.0, "solver": "fast", "tolerance": 1e-3, "scope": "all", "seed": 0}
        words = ["surgery", self.command_name, model]
        for name, value in self.plain().items():
            if value is None or value == defaults.get(name):
                continue
            text = ",".join(value) if isinstance(value, list) else f"{value}"
            words += ["--" + name.replace("_", "-"), text]
        if output is not None:
            words += ["-o", output]
        return shlex.join(words)


def split_treatment(
    method: str,
    rank: int,
    *,
    scale: float = 1.0,
    solver: Solver = "fast",
    tolerance: float = 1e-3,
) -> Treatment:
    """Return a split with its settings.

    Raises:
        UsageError: A setting is out of its range.
    """
    choice("--method", method, SPLIT_METHODS)
    choice("--solver", solver, SOLVERS)
    if rank < 1:
        raise UsageError("--rank is not positive", found=rank)
    if not 0 < scale < float("inf"):
        raise UsageError("--scale is not a positive number", found=scale)
    if not 0 < tolerance < 1:
        raise UsageError("--tolerance is not between 0 and 1", found=tolerance)
    kind = Sorsa if method == "sorsa" else Pissa
    return kind(rank=rank, scale=float(scale), solver=solver, tolerance=tolerance)


def reparam_treatment(method: str, reflections: int | None = None) -> Treatment:
    """Return a re-parameterisation with its settings.

    Raises:
        UsageError: A setting is out of its range, or not one of the method's.
    """
    choice("--method", method, REPARAM_METHODS)
    if method == "hra":
        count = 8 if reflections is None else reflections
        if count < 2 or count % 2:
            raise UsageError(
                "HRA cannot start from the model itself with this many reflections",
                where="--reflections",
                found=count,
                expected="an even number, since reflections start in pairs that cancel",
            )
        return Hra(count)
    if reflections is not None:
        raise UsageError(
            f"{method} has no reflections to count",
            where="--reflections",
            hint="its number of rotations follows from the width of each map",
        )
    return Goft() if method == "goft" else Qgoft()
