"""How one budget over a whole model was spent: plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BudgetStep:
    """A part of the model that went, or became smaller.

    Attributes:
        part: ``layer``, ``attention``, ``cross-attention`` or ``ffn``.
        scope: Its tower.
        layer: Its layer, by the number in the original.
        parameters: Those that went.
        share: What stays of the part, 0 to 1.
        cost: What that was expected to do to the model's output, beside what went before it: nats
            a token, or a squared relative error.
        tried: Whether the model was run without the part.
    """

    part: str
    scope: str
    layer: int
    parameters: int
    share: float
    cost: float
    tried: bool


@dataclass(frozen=True)
class BudgetChoice:
    """One way to spend the budget.

    Attributes:
        layers: Layers that would leave, as ``decoder:14``, in order.
        expected: Error of the output that was expected.
        measured: Error on the rows for trials; ``None`` where it was not run.
    """

    layers: list[str]
    expected: float
    measured: float | None


@dataclass(frozen=True)
class BudgetReport:
    """How a budget was spent.

    Attributes:
        unit: Of errors: ``relative`` or ``nat/token``.
        steps: What went, cheapest parameters first.
        choices: Ways that were looked at, the one that was taken first; one where layers did not
            share the budget.
    """

    unit: str
    steps: list[BudgetStep] = field(default_factory=list)
    choices: list[BudgetChoice] = field(default_factory=list)
