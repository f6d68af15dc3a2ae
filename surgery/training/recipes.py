"""Published recipes by name: learning rate, schedule, batch, penalty, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from surgery.errors import UsageError

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a paper trained its own method.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        schedule: How it falls after the warm-up.
        warmup: Steps of linear warm-up, or, below one, the share of all steps.
        batch: Sequences or recordings a step, over all processes.
        epochs: Passes over the data.
        penalty: Weight of the method's regulariser; ``None`` where it has none.
        source: Where the numbers stand, and which of them are ours.
    """

    learning_rate: float
    schedule: Schedule
    warmup: float
    batch: int
    epochs: float
    source: str
    penalty: float | None = None


RECIPES: Mapping[str, Recipe] = {
    "clover": Recipe(
        1e-4, "linear", 100, 16, 3, "CLOVER, arXiv 2411.17426: LLaMA-2-7B, commonsense"
    ),
    "sorsa": Recipe(
        3e-5, "cosine", 0.03, 128, 1, "SORSA, arXiv 2409.00055: LLaMA-2-7B, MetaMathQA", 4e-4
    ),
    "pissa": Recipe(
        2e-5, "cosine", 0.03, 128, 1, "PiSSA, arXiv 2404.02948: LLaMA-2-7B, MetaMathQA"
    ),
    "hra": Recipe(
        3e-5,
        "cosine",
        0.005,
        32,
        2,
        "HRA, arXiv 2405.17484: LLaMA-2-7B, MetaMathQA; batch and epochs are ours",
        1e-4,
    ),
    "goft": Recipe(
        1e-4,
        "linear",
        0.03,
        64,
        2,
        "GOFT, arXiv 2404.04316: LLaMA-2-7B; schedule and epochs are ours",
    ),
    "qgoft": Recipe(
        1e-4,
        "linear",
        0.03,
        64,
        2,
        "qGOFT, arXiv 2404.04316: LLaMA-2-7B; schedule and epochs are ours",
        0.01,
    ),
    "lora": Recipe(
        2e-4, "linear", 0.03, 16, 3, "usual for LoRA, arXiv 2106.09685; the numbers are ours"
    ),
    "full": Recipe(2e-5, "cosine", 0.03, 128, 1, "usual for full fine-tuning; ours"),
}
"""Every recipe, under its name on the command line."""

USUAL = {"diagonal": "clover", "core": "clover"}
"""Recipes of methods that are not called like theirs."""

PENALISED = tuple(name for name, recipe in RECIPES.items() if recipe.penalty is not None)
"""Methods whose papers add something to the loss."""


def recipe_of(name: str | None, method: str) -> tuple[str, Recipe]:
    """Return a recipe, by default the method's own, and its name.

    Raises:
        UsageError: There is no such recipe.
    """
    name = name or USUAL.get(method, method)
    if name not in RECIPES:
        raise UsageError(
            "There is no such recipe", where="--recipe", found=name, expected=", ".join(RECIPES)
        )
    return name, RECIPES[name]
