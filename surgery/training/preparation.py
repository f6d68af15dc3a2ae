"""How a checkpoint is given small parts before they are trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.choices.common import ScopeChoice
from surgery.choices.option import SCOPE, SEAMS, TARGETS, asked, flag
from surgery.choices.parts import PARTS, listed, taking
from surgery.choices.rules import SeamName
from surgery.errors import UsageError

DEFAULT_RANK = 8


def _of(setting: str, told: str, *flags: str, **said: Any) -> Any:
    """Return a field that says which methods have a setting, and what it is."""
    return asked(None, lambda: f"Of {listed(taking(setting))}{told}", *flags, **said)


@dataclass(frozen=True)
class Preparation:
    """How a checkpoint without small parts is given them.

    Attributes:
        rank: Rank of ``sorsa``, ``pissa`` and ``lora``; 8 by default.
        reflections: HRA's, even.
        targets: Roles of the maps; ``None``: what is usual for the method.
        scope: Which blocks.
        layers: Of ``lora``: which layers; ``None``: all.
        pairs: Of ``diagonal`` and ``core``: ``qk``, ``vo``; both by default.
        up_block: Of ``core``: rows of a block of up projections, 0 for none; 64 by default for
            families with rotary positions.
    """

    rank: int | None = _of("rank", f"; default: {DEFAULT_RANK}.", least=1)
    reflections: int | None = _of("reflections", ", even; default: 8.", least=2)
    targets: tuple[str, ...] | None = asked(None, TARGETS, reads="words", metavar="q,v,…")
    scope: ScopeChoice = asked("all", SCOPE)
    layers: tuple[int, ...] | None = _of(
        "layers", ": which layers; default: all.", reads="numbers", metavar="0,2,…"
    )
    pairs: tuple[SeamName, ...] | None = _of(
        "pairs", ": which; default: both.", *SEAMS, reads="words", metavar="qk,vo"
    )
    up_block: int | None = _of("up_block", ": rows of a block of up projections; 0: none.", least=0)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values, by the command line's names."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def given(self) -> dict[str, Any]:
        """Return what is not the default."""
        return {key: v for key, v in self.plain().items() if v not in (None, "all")}

    def check(self, method: str) -> None:
        """Refuse settings that are not the method's.

        Raises:
            UsageError: One of them has nothing to act on.
        """
        known = {"scope", *PARTS[method].settings}
        for name in self.given():
            if name not in known:
                raise UsageError(
                    f"{flag(name)} says nothing about {method}",
                    found=getattr(self, name),
                    hint=f"leave it out; {method} takes " + ", ".join(map(flag, sorted(known))),
                )
