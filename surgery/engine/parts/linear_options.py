"""What a user can ask of the methods for linear maps, checked and in a form to be written down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from surgery.choices.common import DTYPES, SCOPES, ScopeChoice, choice
from surgery.choices.option import DTYPE, SCOPE, SEED, TARGETS, asked, spelled
from surgery.choices.parts import PARTS
from surgery.errors import UsageError

if TYPE_CHECKING:
    from surgery.methods import Treatment


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
    targets: tuple[str, ...] | None = asked(None, TARGETS, reads="words", metavar="q,v,…")
    scope: ScopeChoice = asked("all", SCOPE)
    seed: int = asked(0, SEED, least=0)
    dtype: str | None = asked(None, DTYPE, among=DTYPES)

    def __post_init__(self) -> None:
        """Refuse values that are not among the choices."""
        from surgery.architectures import LINEAR_ROLES  # which the command line need not wait for

        choice("--scope", self.scope, SCOPES)
        choice("--dtype", self.dtype, (None, *DTYPES))
        for target in self.targets or ():
            choice("--targets", target, LINEAR_ROLES)
        if self.targets is not None and not self.targets:
            raise UsageError("--targets names no role", expected=", ".join(LINEAR_ROLES))

    @property
    def command(self) -> str:
        """The command that asks for this method."""
        return PARTS[self.treatment.name].command

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

    def words(self, *, shown: bool = False) -> list[str]:  # noqa: ARG002 (no paths among them)
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        return ["--method", self.treatment.name, *spelled(self.treatment), *spelled(self)]


def treatment_of(method: str, **settings: Any) -> Treatment:
    """Return a method with its settings; those that are ``None`` have their defaults.

    Raises:
        UsageError: A setting is out of its range.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    start = PARTS[method].treatment
    if start is None:
        raise TypeError(f"{method} does not treat maps one by one")
    treatment: Treatment = start(**given)
    return treatment
