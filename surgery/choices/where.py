"""Where to cut, as it is asked for on the command line: one rule, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from surgery.choices.option import asked
from surgery.choices.rules import (
    Energy,
    Lossless,
    MaxError,
    MaxPplIncrease,
    MaxWerIncrease,
    Of,
    Remove,
    Rule,
    Thresholds,
    UpTo,
)
from surgery.choices.targets import WITHIN, bound_in
from surgery.errors import UsageError

WHERE = "Where to cut (default: the family's preset, or less where that harms)"

_where: Any = partial(asked, panel=WHERE)


@dataclass(frozen=True)
class Where:
    """The rules, of which one is given; :meth:`rule` is what the library calls it."""

    lossless: bool = _where(False, "Restructure only; cut nothing.")
    threshold_qk: float | None = _where(None, "Cut QK singular values at or below this.", least=0.0)
    threshold_vo: float | None = _where(None, "Cut VO singular values at or below this.", least=0.0)
    energy: float | None = _where(
        None,
        "Keep this fraction of what every head does: of its squared singular values.",
        reads="fraction",
    )
    remove: float | None = _where(
        None,
        "Remove this fraction of the attention parameters in scope, with --seams of that "
        "pair's: 25% or 0.25.",
        reads="fraction",
    )
    per_pair: bool = _where(False, "With --remove: QK and VO lose F each.")
    of: Of = _where(
        "qkvo",
        "With --remove: a fraction of the attention (or pair) in scope, of its encoder or "
        "decoder, or of the model.",
    )
    up_to: float | None = _where(
        None,
        "Remove this fraction, or as much less as does little harm: an error of 0.1, a "
        "perplexity 10 % higher.",
        reads="fraction",
    )
    max_error: float | None = _where(
        None, "Remove as much as keeps the output's error on real input below this.", least=0.0
    )
    max_wer_increase: float | None = _where(
        None,
        "As much as costs at most so many points of word error rate.",
        least=0.0,
        metavar="POINTS",
    )
    max_ppl_increase: float | None = _where(
        None, "As much as raises perplexity by at most this: 2% or 0.02.", reads="share"
    )

    within: str | None = _where(None, f"One of these bounds in short: {WITHIN}.", metavar="BOUND")

    def rule(self) -> Rule | None:
        """Return the rule that was given.

        Raises:
            UsageError: Two were, or something belongs to one that was not.
        """
        given: dict[str, Rule] = {}
        if self.lossless:
            given["--lossless"] = Lossless()
        if (self.threshold_qk, self.threshold_vo) != (None, None):
            given["--threshold-qk/--threshold-vo"] = Thresholds(
                self.threshold_qk, self.threshold_vo
            )
        of_a_number: dict[str, Callable[[float], Rule]] = {
            "energy": Energy,
            "remove": lambda share: Remove(share, self.per_pair, self.of),
            "up_to": UpTo,
            "max_error": MaxError,
            "max_wer_increase": MaxWerIncrease,
            "max_ppl_increase": MaxPplIncrease,
        }
        for name, kind in of_a_number.items():
            if (value := getattr(self, name)) is not None:
                given["--" + name.replace("_", "-")] = kind(value)
        if self.within is not None:
            given["--within"] = bound_in(self.within)
        if len(given) > 1:
            raise UsageError(
                "Two rules say where to cut", found=" and ".join(given), expected="one of them"
            )
        if self.per_pair and self.remove is None:
            raise UsageError("--per-pair says how --remove cuts, and there is no --remove")
        if self.of != "qkvo" and self.remove is None:
            raise UsageError("--of says what --remove is a fraction of, and there is no --remove")
        return next(iter(given.values()), None)


def given_by(rule: Rule) -> dict[str, Any]:
    """Return the options that give a rule, by the names of :class:`Where`."""
    match rule:
        case Lossless():
            return {"lossless": True}
        case Thresholds(qk, vo):
            return {"threshold_qk": qk, "threshold_vo": vo}
        case Energy(fraction):
            return {"energy": fraction}
        case Remove(fraction, per_pair, of):
            return {"remove": fraction, "per_pair": per_pair, "of": of}
        case UpTo(fraction):
            return {"up_to": fraction}
        case MaxError(error):
            return {"max_error": error}
        case MaxWerIncrease(points):
            return {"max_wer_increase": points}
        case MaxPplIncrease(fraction):
            return {"max_ppl_increase": fraction}
