"""What a user can ask of Absorb-Decompose, checked and in a form that can be written down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from surgery.choices.common import (
    DTYPES,
    SCOPES,
    SHIPPED,
    ScopeChoice,
    choice,
)
from surgery.choices.cutting import baselines, described
from surgery.choices.option import DTYPE, SEAMS, asked, spelled
from surgery.choices.rules import (
    ATTENTION_SEAMS,
    LAYOUTS,
    OF,
    Bound,
    Layout,
    Lossless,
    Remove,
    Rule,
    SeamName,
    Thresholds,
    UpTo,
)
from surgery.choices.where import WHERE, Where, given_by
from surgery.engine.cut.calibrate import Calibrate
from surgery.errors import UsageError

if TYPE_CHECKING:
    from surgery.architectures import Architecture

PresetChoice = Literal["paper"]
_what: Any = partial(asked, panel="What to cut, and how")


@dataclass(frozen=True)
class Options:
    """Options of one run.

    Attributes:
        rule: Where to cut; ``None`` takes the family's preset, or less where that harms more
            than a stated bound.
        layout: Which heads share a rank: ``ragged``, ``block``, ``tied`` or ``model``.
        scope: Which attention blocks; ``None`` takes the preset's (lossless: all).
        pairs: ``qk``, ``vo`` or both; ``None`` takes the preset's (else both).
        multiple: Ranks are multiples of this, or full.
        baseline: A method to compare with, by weights alone: ``magnitude`` does not decompose.
        dtype: Output dtype; ``None`` keeps every tensor's own.
        calibrate: Decide by what attention computes on real input; ``None`` takes what comes
            with the package, where the rule asks for real input at all.
        by_weights: Decide by the weights alone, without any input.
        preset: ``paper``: the thresholds that a paper gives for the family.
        reason: Where the rule came from, when nobody chose it; set by :meth:`resolve`.
    """

    command: ClassVar[str] = "absorb-decompose"

    rule: Rule | None = None
    layout: Layout = _what(
        "ragged",
        "ragged: every head its own ranks. block: one QK and one VO rank a block. "
        "tied: one rank a block. model: one QK and one VO rank for all blocks.",
    )
    scope: ScopeChoice | None = _what(None, "Which attention blocks.")
    pairs: tuple[SeamName, ...] | None = _what(
        None, "Which seams: qk, vo, or both.", *SEAMS, reads="words", metavar="qk,vo"
    )
    multiple: int = _what(1, "Ranks are multiples of this, or full.", least=1)
    baseline: str | None = _what(
        None, lambda: f"Prune without decomposing, to compare with. {described()}", among=baselines
    )
    dtype: str | None = asked(None, DTYPE, among=DTYPES)
    calibrate: Calibrate | None = None
    by_weights: bool = asked(
        False, "Decide by the weights alone: needs no input, and may ruin the model.", panel=WHERE
    )
    preset: PresetChoice | None = asked(
        None, "paper: the thresholds that a paper gives.", panel=WHERE
    )
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that are not among the choices."""
        choice("--layout", self.layout, LAYOUTS)
        choice("--scope", self.scope, (None, *SCOPES))
        choice("--baseline", self.baseline, (None, *baselines()))
        choice("--dtype", self.dtype, (None, *DTYPES))
        choice("--preset", self.preset, (None, "paper"))
        for pair in self.pairs or ():
            choice("--seams", pair, ATTENTION_SEAMS)
        if self.pairs is not None and not self.pairs:
            raise UsageError("--seams names no pair", expected="qk, vo, or qk,vo")
        self._check_rule()

    def _check_rule(self) -> None:
        """Refuse rules that need what is not asked for, or contradict it."""
        if isinstance(self.rule, Remove):
            choice("--of", self.rule.of, OF)
            if self.rule.per_pair and self.rule.of != "qkvo":
                raise UsageError(
                    "--per-pair cuts each pair by a fraction of itself",
                    found=f"--of {self.rule.of}",
                    expected="--of qkvo",
                )
        if self.preset is not None and self.rule is not None:
            raise UsageError(
                "Two rules say where to cut",
                found=f"--preset {self.preset} and another",
                expected="one of them",
            )
        if self.by_weights and isinstance(self.rule, Bound | UpTo):
            raise UsageError(
                "A bound on the damage needs real input to measure it on",
                found="--by-weights",
                hint="leave it out: without --calibrate, what comes with the package is taken",
            )
        if self.baseline is not None and isinstance(self.rule, Bound | UpTo):
            raise UsageError(
                "A baseline that prunes by weights keeps no bound on the damage",
                found=f"--baseline {self.baseline} with a bound",
                hint="say how much is to go: --remove 25%",
            )
        if self.calibrate is not None:
            self._check_calibrated()

    def _check_calibrated(self) -> None:
        """Refuse to calibrate what is decided by weights alone."""
        if isinstance(self.rule, Thresholds) or self.preset is not None:
            raise UsageError(
                "Absolute thresholds are of singular values of the weights alone",
                hint="with --calibrate, use --remove, --energy or --max-error",
            )
        if self.baseline is not None:
            raise UsageError(
                "A baseline that prunes by weights has no use for calibration",
                found=f"--baseline {self.baseline} with --calibrate or --statistics",
            )
        if self.by_weights:
            raise UsageError(
                "To decide by weights alone takes no input",
                found="--by-weights with --calibrate or --statistics",
                expected="one of them",
            )

    @property
    def needs_input(self) -> bool:
        """Whether the rule is to be decided by real input."""
        by_weights = self.by_weights or self.baseline is not None or self.preset is not None
        return not by_weights and not isinstance(self.rule, Lossless | Thresholds)

    def resolve(self, family: Architecture) -> Options:
        """Fill what was left open from the preset of the family.

        Raises:
            UsageError: The preset that was asked for is another family's.
        """
        preset = family.preset
        if isinstance(self.rule, Lossless):
            return replace(self, scope=self.scope or "all", pairs=self.pairs or ATTENTION_SEAMS)
        if self.preset is not None:
            return self._published(family)
        calibrate = self.calibrate or (Calibrate(SHIPPED) if self.needs_input else None)
        chosen = replace(self, scope=self.scope or preset.scope, calibrate=calibrate)
        if self.rule is not None:
            return replace(chosen, pairs=self.pairs or ATTENTION_SEAMS)
        rule = UpTo(preset.fraction) if self.needs_input else Remove(preset.fraction)
        reason = f"{family.title}: {preset.reason}"
        if self.needs_input:
            reason += ", or less where that harms more than a little"
        return replace(chosen, rule=rule, pairs=self.pairs or preset.pairs, reason=reason)

    def _published(self, family: Architecture) -> Options:
        found = family.published
        if found is None:
            raise UsageError(
                "No paper gives thresholds for this family",
                where=f"--preset {self.preset}",
                found=family.title,
                hint="say how much is to go: --remove 25%",
            )
        return replace(
            self,
            rule=Thresholds(found.threshold_qk, found.threshold_vo),
            scope=self.scope or found.scope,
            pairs=self.pairs or ATTENTION_SEAMS,
            preset=None,
            reason=f"{family.title}: {found.reason}",
        )

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names."""
        plain: dict[str, Any] = {
            "layout": self.layout,
            "scope": self.scope,
            "pairs": list(self.pairs or ()),
            "multiple": self.multiple,
            "baseline": self.baseline,
            "dtype": self.dtype,
            "by_weights": self.by_weights,
        }
        if self.rule is not None:
            plain |= given_by(self.rule)
        if self.calibrate is not None:
            plain |= self.calibrate.plain()
        return plain

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        where = [] if self.rule is None else spelled(Where(**given_by(self.rule)))
        calibrate = [] if self.calibrate is None else self.calibrate.words(shown=shown)
        return [*where, *spelled(self), *calibrate]
