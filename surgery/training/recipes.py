"""Published recipes by name: learning rate, schedule, batch, penalty, and where they come from."""

from __future__ import annotations

from surgery.choices.parts import PARTS, recipes
from surgery.choices.small_part import Recipe
from surgery.errors import UsageError


def recipe_of(name: str | None, method: str) -> Recipe:
    """Return a recipe, by default the method's own.

    Raises:
        UsageError: There is no such recipe.
    """
    own = PARTS[method].recipe
    if name is None and own is not None:
        return own
    found = recipes().get(name or method)
    if found is None:
        expected = ", ".join(recipes())
        raise UsageError(
            "There is no such recipe", where="--recipe", found=name or method, expected=expected
        )
    return found
