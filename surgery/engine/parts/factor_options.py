"""What a user can ask of ``core`` and ``diagonal``, checked and in a form to be written down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.choices.common import DTYPES, SCOPES, ScopeChoice, choice
from surgery.choices.option import DTYPE, SCOPE, SEAMS, asked, spelled
from surgery.choices.rules import ATTENTION_SEAMS, SeamName
from surgery.choices.settings import FORMS, Form
from surgery.errors import UsageError

if TYPE_CHECKING:
    from surgery.architectures import Architecture

UP_BLOCK = 64
"""Rows of ``up`` that share a core in the paper's recipe, which is for families with RoPE."""


@dataclass(frozen=True)
class FactorOptions:
    """Options of one run.

    Attributes:
        form: What is trained: ``core`` or ``diagonal``.
        pairs: ``qk``, ``vo`` or both; ``None``: both.
        scope: Which blocks.
        up_block: Rows of an ``up`` map that share a core, 0 for none; ``None``: 64 for ``core`` in
            families with RoPE, else 0.
        dtype: Output dtype of the frozen weights; ``None`` keeps every tensor's own.
    """

    command: ClassVar[str] = "reparam"

    form: Form
    pairs: tuple[SeamName, ...] | None = asked(
        None,
        "core, diagonal: behind keys (qk), values (vo), or (default) both.",
        *SEAMS,
        reads="words",
        metavar="qk,vo",
    )
    scope: ScopeChoice = asked("all", SCOPE)
    up_block: int | None = asked(
        None,
        f"core: rows of up that share a block, 0: none; default {UP_BLOCK} with RoPE, else 0.",
        least=0,
    )
    dtype: str | None = asked(None, DTYPE, among=DTYPES)

    def __post_init__(self) -> None:
        """Refuse values that are not among the choices."""
        choice("--method", self.form, FORMS)
        choice("--scope", self.scope, SCOPES)
        choice("--dtype", self.dtype, (None, *DTYPES))
        for pair in self.pairs or ():
            choice("--seams", pair, ATTENTION_SEAMS)
        if self.pairs is not None and not self.pairs:
            raise UsageError("--seams names no pair", expected="qk, vo, or qk,vo")
        if self.up_block is not None and self.up_block < 0:
            raise UsageError("--up-block is negative", found=self.up_block)
        if self.up_block and self.form == "diagonal":
            raise UsageError(
                "An up map has no singular values of heads to train",
                where="--up-block",
                found=self.up_block,
                hint="--method core trains blocks of its rows",
            )

    def resolve(self, family: Architecture) -> FactorOptions:
        """Fill what was left open by the paper's recipe for the family."""
        rotary = any("rope" in kind.between for kind in family.attentions)
        usual = UP_BLOCK if rotary and self.form == "core" else 0
        up_block = usual if self.up_block is None else self.up_block
        return replace(self, pairs=self.pairs or ATTENTION_SEAMS, up_block=up_block)

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names."""
        plain = {
            "method": self.form,
            "pairs": list(self.pairs or ATTENTION_SEAMS),
            "scope": self.scope,
            "dtype": self.dtype,
        }
        return plain if self.form == "diagonal" else {**plain, "up_block": self.up_block}

    def words(self, *, shown: bool = False) -> list[str]:  # noqa: ARG002 (no paths among them)
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        return ["--method", self.form, *spelled(self)]
