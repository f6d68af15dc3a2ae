"""The methods that say which vectors of a head may go: a new one is a file and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgery.choices.table import Table, later


@dataclass(frozen=True)
class CuttingMethod:
    """A way to sort the vectors of a head by what they are worth.

    Attributes:
        name: What it is called.
        help: What it does, in half a sentence.
        decompose: From :class:`surgery.methods.AttentionWeights` and the names of the pairs to a
            :class:`surgery.methods.SiteDecomposition`; see :mod:`surgery.methods.decomposition`.
        baseline: Whether ``--baseline`` offers it, to compare with: by weights alone.
    """

    name: str
    help: str
    decompose: Callable[..., Any]
    baseline: bool = False


BY_WEIGHTS, BY_INPUT = "absorb-decompose", "activation-aware"

CUTTING = Table(
    CuttingMethod(
        BY_WEIGHTS,
        "singular values of each head's product of weights",
        later("surgery.methods.absorb_decompose:absorb_decompose"),
    ),
    CuttingMethod(
        BY_INPUT,  # which ranks frequencies where RoPE stands between queries and keys
        "singular values as real input sees them",
        later("surgery.methods.activation_aware:activation_aware"),
    ),
    CuttingMethod(
        "magnitude",
        "the vectors as they are, by their norms",
        later("surgery.methods.magnitude:magnitude"),
        baseline=True,
    ),
)
"""Every method; the first two are chosen by whether there is real input."""


def baselines() -> tuple[str, ...]:
    """Return the names that ``--baseline`` takes."""
    return tuple(name for name, method in CUTTING.items() if method.baseline)


def described() -> str:
    """Return what they are."""
    return " ".join(f"{name}: {CUTTING[name].help}." for name in baselines())
