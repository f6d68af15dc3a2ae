"""The options that say where to cut, shared by every command that plans one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from surgery.errors import UsageError
from surgery_cli.common import Dtype, Scope

if TYPE_CHECKING:
    from surgery.engine.cut.calibrate import Calibrate
    from surgery.engine.cut.options import Options
    from surgery.methods import Pair, Rule


class Layout(StrEnum):
    """Which heads share a rank."""

    ragged = "ragged"
    block = "block"
    tied = "tied"
    model = "model"


class Of(StrEnum):
    """What a fraction is of."""

    qkvo = "qkvo"
    tower = "tower"
    model = "model"


class Preset(StrEnum):
    """Whose budget."""

    paper = "paper"


class Baseline(StrEnum):
    """What to compare with."""

    magnitude = "magnitude"


def fraction(text: str) -> float:
    """Parse ``25%`` or ``0.25``.

    Raises:
        typer.BadParameter: It is neither.
    """
    value = increase(text)
    if value > 1:
        raise typer.BadParameter(f"{text!r} is not between 0% and 100% (a quarter: 25% or 0.25)")
    return value


def increase(text: str) -> float:
    """Parse ``150%`` or ``1.5``: a share that may exceed the whole.

    Raises:
        typer.BadParameter: It is neither, or negative.
    """
    words = text.strip()
    try:
        value = float(words.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no fraction: write 25% or 0.25") from None
    if words.endswith("%"):
        value /= 100
    if not 0 <= value < float("inf"):
        raise typer.BadParameter(f"{text!r} is not between 0% and 100% (a quarter: 25% or 0.25)")
    return value


_WHERE = "Where to cut (default: the family's preset, or less where that harms)"
_WHAT = "What to cut, and how"

Lossless = Annotated[
    bool, typer.Option("--lossless", help="Restructure only; cut nothing.", rich_help_panel=_WHERE)
]
ByWeights = Annotated[
    bool,
    typer.Option(
        "--by-weights",
        help="Decide by the weights alone: needs no input, and may ruin the model.",
        rich_help_panel=_WHERE,
    ),
]
PresetOption = Annotated[
    Preset | None,
    typer.Option(help="paper: the thresholds that a paper gives.", rich_help_panel=_WHERE),
]
UpTo = Annotated[
    float | None,
    typer.Option(
        parser=fraction,
        metavar="F",
        help="Remove this fraction, or as much less as does little harm: an error of 0.1, "
        "a perplexity 10 % higher.",
        rich_help_panel=_WHERE,
    ),
]
ThresholdQK = Annotated[
    float | None,
    typer.Option(min=0.0, help="Cut QK singular values at or below this.", rich_help_panel=_WHERE),
]
ThresholdVO = Annotated[
    float | None,
    typer.Option(min=0.0, help="Cut VO singular values at or below this.", rich_help_panel=_WHERE),
]
Energy = Annotated[
    float | None,
    typer.Option(
        parser=fraction,
        metavar="F",
        help="Keep this fraction of what every head does: of its squared singular values.",
        rich_help_panel=_WHERE,
    ),
]
Remove = Annotated[
    float | None,
    typer.Option(
        parser=fraction,
        metavar="F",
        help="Remove this fraction of the attention parameters in scope, with --pairs of that "
        "pair's: 25% or 0.25.",
        rich_help_panel=_WHERE,
    ),
]
OfOption = Annotated[
    Of,
    typer.Option(
        help="With --remove: a fraction of the attention (or pair) in scope, of its encoder or "
        "decoder, or of the model.",
        rich_help_panel=_WHERE,
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Remove as much as keeps the output's error on real input below this.",
        rich_help_panel=_WHERE,
    ),
]
MaxWerIncrease = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="POINTS",
        help="As much as costs at most so many points of word error rate.",
        rich_help_panel=_WHERE,
    ),
]
MaxPplIncrease = Annotated[
    float | None,
    typer.Option(
        parser=increase,
        metavar="F",
        help="As much as raises perplexity by at most this: 2% or 0.02.",
        rich_help_panel=_WHERE,
    ),
]
PerPair = Annotated[
    bool,
    typer.Option(
        "--per-pair", help="With --remove: QK and VO lose F each.", rich_help_panel=_WHERE
    ),
]
ScopeOption = Annotated[
    Scope | None, typer.Option(help="Which attention blocks.", rich_help_panel=_WHAT)
]
PairsOption = Annotated[
    str | None,
    typer.Option(metavar="qk,vo", help="Which pairs: qk, vo, or both.", rich_help_panel=_WHAT),
]
LayoutOption = Annotated[
    Layout,
    typer.Option(
        help="ragged: every head its own ranks. block: one QK and one VO rank a block. "
        "tied: one rank a block. model: one QK and one VO rank for all blocks.",
        rich_help_panel=_WHAT,
    ),
]
Multiple = Annotated[
    int, typer.Option(min=1, help="Ranks are multiples of this, or full.", rich_help_panel=_WHAT)
]
BaselineOption = Annotated[
    Baseline | None,
    typer.Option(help="Prune without decomposing, to compare with.", rich_help_panel=_WHAT),
]


def make_options(
    *,
    lossless: bool,
    threshold_qk: float | None,
    threshold_vo: float | None,
    energy: float | None,
    remove: float | None,
    per_pair: bool,
    of: Of,
    up_to: float | None,
    by_weights: bool,
    preset: Preset | None,
    max_error: float | None,
    max_wer_increase: float | None,
    max_ppl_increase: float | None,
    scope: Scope | None,
    pairs: str | None,
    layout: Layout,
    multiple: int,
    calibrate: Calibrate | None,
    baseline: Baseline | None = None,
    dtype: Dtype | None = None,
) -> Options:
    """Return the library's options.

    Raises:
        UsageError: Rules contradict each other, or a pair is unknown.
    """
    from surgery.engine.cut.options import Options

    words = None
    if pairs is not None:
        words = tuple(word.strip().lower() for word in pairs.split(",") if word.strip())
    return Options(
        rule=_rule(
            lossless=lossless,
            thresholds=(threshold_qk, threshold_vo),
            energy=energy,
            remove=remove,
            per_pair=per_pair,
            of=of,
            up_to=up_to,
            bounds=(max_error, max_wer_increase, max_ppl_increase),
        ),
        scope=None if scope is None else scope.value,
        pairs=cast("tuple[Pair, ...] | None", words),
        layout=layout.value,
        multiple=multiple,
        baseline=None if baseline is None else baseline.value,
        dtype=None if dtype is None else dtype.value,
        calibrate=calibrate,
        by_weights=by_weights,
        preset=None if preset is None else "paper",
    )


def _rule(
    *,
    lossless: bool,
    thresholds: tuple[float | None, float | None],
    energy: float | None,
    remove: float | None,
    per_pair: bool,
    of: Of,
    up_to: float | None,
    bounds: tuple[float | None, float | None, float | None],
) -> Rule | None:
    from surgery import methods

    max_error, max_wer_increase, max_ppl_increase = bounds
    given: dict[str, Rule] = {}
    if lossless:
        given["--lossless"] = methods.Lossless()
    if thresholds != (None, None):
        given["--threshold-qk/--threshold-vo"] = methods.Thresholds(*thresholds)
    if energy is not None:
        given["--energy"] = methods.Energy(energy)
    if remove is not None:
        given["--remove"] = methods.Remove(remove, per_pair, of.value)
    if up_to is not None:
        given["--up-to"] = methods.UpTo(up_to)
    if max_error is not None:
        given["--max-error"] = methods.MaxError(max_error)
    if max_wer_increase is not None:
        given["--max-wer-increase"] = methods.MaxWerIncrease(max_wer_increase)
    if max_ppl_increase is not None:
        given["--max-ppl-increase"] = methods.MaxPplIncrease(max_ppl_increase)
    if len(given) > 1:
        raise UsageError(
            "Two rules say where to cut", found=" and ".join(given), expected="one of them"
        )
    if per_pair and remove is None:
        raise UsageError("--per-pair says how --remove cuts, and there is no --remove")
    if of is not Of.qkvo and remove is None:
        raise UsageError("--of says what --remove is a fraction of, and there is no --remove")
    return next(iter(given.values()), None)
