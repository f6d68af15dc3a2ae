"""The documentation's tables of methods say what the tables of the code say."""

from __future__ import annotations

import re

import pytest

from surgery.choices.parts import PARTS, by_command, recipes
from surgery.choices.small_part import Recipe
from tests.conftest import ROOT

PAGES = ROOT / "docs" / "pages"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table whose first heading this is, by the name in the first cell."""
    lines = (PAGES / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        found[first.strip("`")] = others
    return found


def test_what_can_be_trained_is_listed_with_its_usual_maps() -> None:
    listed = rows("tune.md", "`--train`")
    assert {*listed} == {*PARTS}
    for name, part in PARTS.items():
        if part.treatment is not None:
            settings = {"rank": 1} if "rank" in part.settings else {}
            usual = part.treatment(**settings).usual_targets
            assert listed[name][2] == (", ".join(usual) or "all"), name
        assert bool(listed[name][3]) == bool(part.penalty), name


@pytest.mark.parametrize("recipe", recipes().values(), ids=lambda one: one.name)
def test_a_recipe_is_listed_with_its_numbers(recipe: Recipe) -> None:
    cells = rows("tune.md", "`--recipe`")[recipe.name]
    told = [cell.removesuffix(", ours") for cell in cells]
    assert float(told[0]) == recipe.learning_rate and told[1] == recipe.schedule
    warmup = recipe.warmup if recipe.warmup >= 1 else 100 * recipe.warmup
    assert float(told[2].split()[0]) == warmup
    assert ("steps" in told[2]) == (recipe.warmup >= 1)
    assert (float(told[3]), float(told[4])) == (recipe.batch, recipe.epochs)
    assert (float(told[5]) if told[5] else None) == recipe.penalty
    papers = re.findall(r"\d{4}\.\d{5}", recipe.source)
    assert cells[6].startswith("ours") or papers[0] in cells[6]


def test_every_method_of_a_command_is_on_its_page() -> None:
    for command in ("split", "reparam"):
        page = (PAGES / f"{command}.md").read_text(encoding="utf-8")
        words = (PAGES / "command-line.md").read_text(encoding="utf-8")
        for name in by_command(command):
            assert re.search(rf"\b{name}\b", page, re.IGNORECASE), (command, name)
            assert name in words
