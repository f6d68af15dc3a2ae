"""The table of families on the first page is what their files make of it."""

from __future__ import annotations

from benchmarks.families import PAGE, with_table
from surgery.architectures import ARCHITECTURES
from tests.conftest import ROOT


def test_the_table_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "run python -m benchmarks.families"


def test_readme_names_every_family() -> None:
    models = (ROOT / "README.md").read_text(encoding="utf-8").partition("| Models |")[2]
    listed = models.partition("\n")[0].partition(";")[0].strip().split(", ")
    assert sorted(listed) == sorted(family.title for family in ARCHITECTURES.values())
