"""What a user can ask of ``compress``, checked and in a form that can be written down."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.choices.common import DTYPES, SHIPPED, choice
from surgery.choices.layers import LAYER_ORDERS, LayerOrder, counted_layers, named_layers
from surgery.choices.neurons import ORDERS, RIDGE, Order
from surgery.choices.option import DTYPE, asked, flag, spelled
from surgery.choices.places import data_name, given_path
from surgery.choices.rules import ATTENTION_SEAMS, Bound, SeamName
from surgery.choices.targets import WITHIN, bound_in, bytes_in, parameters_in
from surgery.choices.where import given_by
from surgery.errors import UsageError

if TYPE_CHECKING:
    from surgery.methods.neurons import Amends

OF = ("model", "ffn")
SEAMS = (*ATTENTION_SEAMS, "ffn", "layers")
LAYOUTS = ("model", "ragged")
SCOPES = ("encoder", "decoder", "all")
MULTIPLE = 64
REMOVE = 0.1


@dataclass(frozen=True)
class CompressOptions:
    """Options of one run.

    Attributes:
        remove: Share of the parameters that goes at least, 0 to 1; what layers take counts.
            ``None``: what layers take; without layers, and without a target, it becomes
            :data:`REMOVE`.
        target_parameters: How many parameters are to be left, instead: ``90M``, or a number.
        target_size: How many bytes the weights are to take as they are written: ``100MB``.
        within: As much as keeps within a bound instead, ``WER+1``, ``ppl*1.1`` or ``error+0.1``; of
            ``remove``, where that is given too, at most that.
        drop_layers: Layers that go, such as ``14``, ``3,7`` or ``encoder:3,decoder:5``.
        layers: How many go, such as ``2`` or ``decoder:2``, the least missed first.
        layer_order: By what: ``trials`` of the model's output without each in turn, or the
            baseline ``influence``.
        of: Share of what: the ``model``, or its feed-forward blocks (``ffn``).
        layout: One width for all blocks of a tower, which stock classes load (``model``), or to
            each its own (``ragged``).
        seams: What shares the budget: ``ffn``, whole ``layers``, and with layout ``ragged`` ``qk``
            and ``vo``.
        scope: The tower whose blocks share it, or ``all``; cross-attention is the decoder's.
        multiple: Widths are multiples of this.
        order: By what neurons go; ``surgeon`` or one of the baselines.
        refit: Fit the map behind the neurons to those that stay.
        ridge: Share of white input in the moments of neurons, at least 0.
        sequential: Calibrate each layer on what the cuts before it leave.
        anchor: Fit a block behind others that were cut to what the original's block says there,
            and not to what it says itself of what they leave; wants sequential and refit.
        calibrate: Text or recordings; :data:`surgery.choices.common.SHIPPED` for what comes with
            the package.
        samples: Take only the first so many recordings or documents.
        language: What is spoken, for a multilingual Whisper's decoder; ``auto``: what it hears in
            each recording.
        device: Where the model runs; the CPU by default.
        dtype: Output dtype; ``None`` keeps every tensor's own.

    Raises:
        UsageError: A value is out of range.
    """

    command: ClassVar[str] = "compress"

    remove: float | None = asked(
        None,
        f"Share of the parameters that goes: 10% or 0.1. Default: {REMOVE:.0%}; where layers go, "
        "what they take.",
        reads="fraction",
        told=True,
    )
    target_parameters: str | int | None = asked(
        None, "Instead: how many parameters are left: 90M, 1.2B.", metavar="N"
    )
    target_size: str | int | None = asked(
        None, "Instead: how large the written weights are: 100MB, 95MiB.", metavar="SIZE"
    )
    within: str | None = asked(
        None,
        f"As much as costs no more than this, and no more than --remove: {WITHIN}.",
        metavar="BOUND",
    )
    drop_layers: str | None = asked(
        None, "Layers that leave: 14, or 3,7, or encoder:3,decoder:5.", metavar="LAYERS"
    )
    layers: str | None = asked(
        None, "How many layers leave: 2, or encoder:1,decoder:2.", metavar="NUMBER"
    )
    layer_order: LayerOrder = asked(
        "trials",
        "Which of them: by what the output minds, tried on real input; or a baseline, influence "
        "(ShortGPT).",
        metavar="ORDER",
        among=LAYER_ORDERS,
    )
    of: str = asked("model", "Of what --remove is a share.", among=OF)
    layout: str = asked(
        "model",
        "One width a tower, a stock checkpoint (model), or one a block, by what it can spare "
        "(ragged).",
        among=LAYOUTS,
    )
    seams: tuple[str, ...] = asked(
        ("ffn",),
        "What shares the budget: ffn; layers; with --layout ragged also qk,vo.",
        reads="words",
        metavar="qk,vo,ffn,layers",
    )
    scope: str = asked("all", "Which tower's blocks share it.", among=SCOPES)
    multiple: int = asked(MULTIPLE, "Widths are multiples of this.", least=1)
    order: Order = asked(
        "surgeon",
        f"By what neurons go: {ORDERS[0]}, or a baseline: {', '.join(ORDERS[1:])}.",
        metavar="ORDER",
        among=ORDERS,
    )
    refit: bool = asked(
        True, "Fit the map behind the neurons to those that stay.", "--refit/--no-refit"
    )
    ridge: float = asked(RIDGE, "Share of white input in the moments of neurons.", least=0)
    sequential: bool = asked(
        True,
        "Calibrate each layer on what the cuts before it leave; or all on the original.",
        "--sequential/--no-sequential",
    )
    anchor: bool = asked(
        False,
        "Fit blocks behind cuts to what the original's say, which wants some 100,000 tokens.",
        "--anchor/--no-anchor",
    )
    calibrate: str = asked(
        SHIPPED, "Text or recordings to calibrate on; shipped: what comes with the package."
    )
    samples: int | None = asked(None, "Only the first so many of them.", least=1)
    language: str = asked(
        "en", "What is spoken, for a multilingual Whisper; auto: what it hears in each."
    )
    device: str | None = asked(None, "cpu (the default), cuda, cuda:1, …")
    dtype: str | None = asked(None, DTYPE, among=DTYPES)

    def __post_init__(self) -> None:
        """Refuse values that are out of range, and say how much goes where nobody did."""
        self._check_budget()
        choice("--of", self.of, OF)
        choice("--scope", self.scope, SCOPES)
        choice("--layout", self.layout, LAYOUTS)
        choice("--order", self.order, ORDERS)
        choice("--layer-order", self.layer_order, LAYER_ORDERS)
        for seam in self.seams:
            choice("--seams", seam, SEAMS)
        if "ffn" not in self.seams:
            raise UsageError(
                "--seams leaves feed-forward blocks out",
                found=",".join(self.seams),
                hint="surgery absorb-decompose cuts attention alone",
            )
        if self.attention and self.layout != "ragged":
            raise UsageError(
                "No stock class holds attention whose heads differ",
                found=f"--seams {','.join(self.seams)} --layout {self.layout}",
                expected="--layout ragged, or --seams ffn,layers",
            )
        if "layers" in self.seams and (self.drop_layers is not None or self.layers is not None):
            raise UsageError(
                "--seams layers finds in the budget which layers go: name none, nor how many",
                found=f"--seams {','.join(self.seams)} beside layers to drop",
            )
        choice("--dtype", self.dtype, (None, *DTYPES))
        if self.drop_layers is not None and self.layers is not None:
            raise UsageError("--drop-layers says which layers go, and --layers how many: give one")
        if self.drop_layers is not None:
            named_layers(self.drop_layers)
        if self.layers is not None:
            counted_layers(self.layers)
        if self.anchor and not (self.sequential and self.refit):
            without = "--no-refit" if self.sequential else "--no-sequential"
            raise UsageError(
                "Blocks are fitted to the original's one behind the other",
                found=f"--anchor {without}",
                expected=f"--anchor without {without}",
            )
        if self.multiple < 1:
            raise UsageError("--multiple must be at least 1", found=self.multiple)
        if not (isfinite(self.ridge) and self.ridge >= 0):
            raise UsageError("--ridge is out of range", found=self.ridge, expected="at least 0")

    def _check_budget(self) -> None:
        given = [
            flag(name)
            for name in ("remove", "target_parameters", "target_size")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise UsageError(
                "Two options say how much goes", found=" and ".join(given), expected="one of them"
            )
        if self.within is not None:
            bound_in(self.within)
            if given and self.remove is None:
                raise UsageError(
                    "A target is reached, whatever that costs, and a bound is kept",
                    found=f"{given[0]} and --within",
                    expected="one of them, or --within and --remove for the most that goes",
                )
        elif not given and self.drop_layers is None and self.layers is None:
            object.__setattr__(self, "remove", REMOVE)
        if self.remove is not None and not 0 < self.remove < 1:
            raise UsageError("--remove is out of range", found=self.remove, expected="0 … 1")
        if self.target_parameters is not None:
            parameters_in(self.target_parameters)
        if self.target_size is not None:
            bytes_in(self.target_size)
        if self.of != "model" and self.remove is None:
            raise UsageError(
                "--of says what --remove is a share of, and there is no --remove",
                found=f"--of {self.of}{''.join(f' {name}' for name in given)}",
            )

    @property
    def bound(self) -> Bound | None:
        """What the price has to keep within."""
        return None if self.within is None else bound_in(self.within)

    @property
    def attention(self) -> tuple[SeamName, ...]:
        """The seams of attention among those that share the budget."""
        return tuple(seam for seam in ATTENTION_SEAMS if seam in self.seams)

    @property
    def minds(self) -> bool:
        """Whether it is asked what the output minds: by the order, or to compare parts."""
        return self.order == "surgeon" or self.compares

    @property
    def compares(self) -> bool:
        """Whether parts of the model are compared, to choose what goes."""
        return self.layout == "ragged" or "layers" in self.seams

    @property
    def amends(self) -> Amends:
        """What makes up for neurons that go."""
        return "refit" if self.refit else "none"

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names.

        They travel with the result, so of the data's place only its last two names are kept.
        """
        return {
            "remove": self.remove,
            "target_parameters": self.target_parameters and parameters_in(self.target_parameters),
            "target_size": self.target_size and bytes_in(self.target_size),
            **({} if self.bound is None else given_by(self.bound)),
            "drop_layers": self.drop_layers,
            "layers": self.layers,
            "layer_order": None if self.layers is None else self.layer_order,
            "of": self.of,
            "layout": self.layout,
            "seams": list(self.seams),
            "scope": self.scope,
            "multiple": self.multiple,
            "order": self.order,
            "refit": self.refit,
            "ridge": self.ridge,
            "sequential": self.sequential,
            "anchor": self.anchor,
            "calibrate": SHIPPED if self.calibrate == SHIPPED else data_name(self.calibrate),
            "samples": self.samples,
            "language": self.language,
            "dtype": self.dtype,
        }

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        as_is = not shown or self.calibrate == SHIPPED
        return spelled(self, calibrate=self.calibrate if as_is else given_path(self.calibrate))
