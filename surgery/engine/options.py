"""What a user can ask of Absorb-Decompose, checked and in a form that can be written down."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from surgery.architectures import Architecture, Preset
from surgery.engine.calibrate import FRACTION, PADDING_WEIGHT, Calibrate
from surgery.errors import UsageError
from surgery.methods import (
    LAYOUTS,
    OF,
    PAIRS,
    RIDGE,
    Bound,
    Energy,
    Layout,
    Lossless,
    MaxError,
    MaxPplIncrease,
    MaxWerIncrease,
    Pair,
    Remove,
    Rule,
    Thresholds,
)

ScopeChoice = Literal["encoder", "decoder", "cross", "all"]
Baseline = Literal["magnitude"]
SCOPES: tuple[ScopeChoice, ...] = ("encoder", "decoder", "cross", "all")
DTYPES = ("float32", "float16", "bfloat16")
DEFAULTS = {
    "layout": "ragged",
    "multiple": 1,
    "of": "qkvo",
    "padding_weight": PADDING_WEIGHT,
    "ridge": RIDGE,
    "language": "en",
}
"""What a command need not spell out."""


@dataclass(frozen=True)
class Options:
    """Options of one run.

    Attributes:
        rule: Where to cut; ``None`` takes the preset of the model.
        layout: Which heads share a rank: ``ragged``, ``block``, ``tied`` or ``model``.
        scope: Which attention blocks; ``None`` takes the preset's (lossless: all).
        pairs: ``qk``, ``vo`` or both; ``None`` takes the preset's (else both).
        multiple: Ranks are multiples of this, or full.
        baseline: ``magnitude`` prunes without decomposing, for comparison.
        dtype: Output dtype; ``None`` keeps every tensor's own.
        preset: Where the rule came from, when it came from a preset.
        calibrate: Decide by what attention computes on real input; ``None``: by weights alone.
    """

    rule: Rule | None = None
    layout: Layout = "ragged"
    scope: ScopeChoice | None = None
    pairs: tuple[Pair, ...] | None = None
    multiple: int = 1
    baseline: Baseline | None = None
    dtype: str | None = None
    preset: str | None = None
    calibrate: Calibrate | None = None

    def __post_init__(self) -> None:
        """Refuse values that are not among the choices."""
        choice("--layout", self.layout, LAYOUTS)
        choice("--scope", self.scope, (None, *SCOPES))
        choice("--baseline", self.baseline, (None, "magnitude"))
        choice("--dtype", self.dtype, (None, *DTYPES))
        for pair in self.pairs or ():
            choice("--pairs", pair, PAIRS)
        if self.pairs is not None and not self.pairs:
            raise UsageError("--pairs names no pair", expected="qk, vo, or qk,vo")
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
        if self.calibrate is None:
            if isinstance(self.rule, Bound):
                raise UsageError(
                    "A bound on the damage needs real input to measure it on",
                    hint="give --calibrate DIR|FILE",
                )
            return
        if isinstance(self.rule, Thresholds):
            raise UsageError(
                "Absolute thresholds are of singular values of the weights alone",
                hint="with --calibrate, use --remove, --energy or --max-error",
            )
        if self.baseline is not None:
            raise UsageError(
                "A baseline that prunes by weights has no use for calibration",
                found=f"--baseline {self.baseline} with --calibrate or --statistics",
            )

    def resolve(self, family: Architecture, model: str) -> Options:
        """Fill what was left open from the preset of the model or its family."""
        named = model in family.model_presets
        preset = family.model_presets[model] if named else family.preset
        if isinstance(self.rule, Lossless):
            return replace(self, scope=self.scope or "all", pairs=self.pairs or PAIRS)
        if self.rule is not None:
            return replace(self, scope=self.scope or preset.scope, pairs=self.pairs or PAIRS)
        if self.calibrate is not None:
            return replace(
                self,
                rule=Remove(FRACTION),
                scope=self.scope or preset.scope,
                pairs=self.pairs or PAIRS,
                preset=f"calibrated: {FRACTION:.0%} of the attention parameters in scope",
            )
        return replace(
            self,
            rule=_rule_of(preset),
            scope=self.scope or preset.scope,
            pairs=self.pairs or preset.pairs,
            preset=f"{model if named else family.title}: {preset.reason}",
        )

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names."""
        rule = self.rule
        plain: dict[str, Any] = {
            "layout": self.layout,
            "scope": self.scope,
            "pairs": list(self.pairs or ()),
            "multiple": self.multiple,
            "baseline": self.baseline,
            "dtype": self.dtype,
        }
        match rule:
            case Lossless():
                plain["lossless"] = True
            case Thresholds(qk, vo):
                plain |= {"threshold_qk": qk, "threshold_vo": vo}
            case Energy(fraction):
                plain["energy"] = fraction
            case Remove(fraction, per_pair, of):
                plain |= {"remove": fraction, "per_pair": per_pair, "of": of}
            case MaxError(error):
                plain["max_error"] = error
            case MaxWerIncrease(points):
                plain["max_wer_increase"] = points
            case MaxPplIncrease(fraction):
                plain["max_ppl_increase"] = fraction
        if self.calibrate is not None:
            plain |= self.calibrate.plain()
        return plain

    def command(self, model: str, output: str | None, *, as_typed: bool = False) -> str:
        """Return the shell command that asks for the same, the preset spelled out.

        Args:
            model: What to call the source.
            output: Where the result goes, if anywhere.
            as_typed: Name calibration's files as the user did: not for others' eyes.
        """
        words = ["surgery", "absorb-decompose", model]
        plain = self.plain()
        if as_typed and self.calibrate is not None:
            plain |= {"calibrate": self.calibrate.data, "statistics": self.calibrate.statistics}
        for name, value in plain.items():
            flag = "--" + name.replace("_", "-")
            if value is None or value is False or value == DEFAULTS.get(name):
                continue
            if value is True:
                words.append(flag)
            else:
                words += [
                    flag,
                    ",".join(value)
                    if isinstance(value, Sequence) and not isinstance(value, str)
                    else f"{value}",
                ]
        if output is not None:
            words += ["-o", output]
        return shlex.join(words)


def _rule_of(preset: Preset) -> Rule:
    if preset.energy is not None:
        return Energy(preset.energy)
    return Thresholds(preset.threshold_qk, preset.threshold_vo)


def choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        UsageError: It is not.
    """
    if value not in allowed:
        raise UsageError(
            f"{name} is not one of its choices",
            found=value,
            expected=", ".join(str(choice) for choice in allowed if choice is not None),
        )
