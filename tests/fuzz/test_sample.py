"""A small fixed sample of what ``benchmarks/fuzz.py`` runs by the thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.cases import Corpus, Place, draw
from tests.fuzz.oracle import FAULT, judge

pytestmark = pytest.mark.usefixtures("no_pictures")

SEED = 20
NAMES = ("qwen2 sharded", "gpt2 cut", "llama cut and split", "adapter of new parts", "PEFT LoRA")
NUMBERS = (
    *(*range(1, 18), 21, *range(24, 30), 34, 37, 39, 40, 43, 45, 48, 57, 59, 60, 61, 62, 65, 67),
    *(71, 72, 84, 87, 116, 124, 136, 141, 144, 146, 150, 155, 171, 185, 189, 194, 196, 215, 217),
    *(218, 243, 251),
)
"""Chosen for every way of spoiling a file, most commands, and many successes among them."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pytest.importorskip("peft")
    return Corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("number", NUMBERS)
def test_spoilt_input_ends_in_an_error_of_ours_or_the_right_result(
    number: int, corpus: Corpus, tmp_path: Path
) -> None:
    place = Place(corpus, draw(corpus, SEED, number, NAMES), tmp_path / "case")
    verdict = judge(place, place.run())
    assert verdict.kind != FAULT, f"{place.case}: {verdict.why}"


def test_a_case_is_decided_by_its_seed_and_number(corpus: Corpus, tmp_path: Path) -> None:
    again = Corpus(tmp_path / "again")
    cases = [[draw(each, SEED, at, NAMES) for at in range(8)] for each in (corpus, again)]
    assert cases[0] == cases[1]
    assert len({case.change.data for case in cases[0]}) == 8
