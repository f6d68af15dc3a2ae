"""Checkpoints made by the naive pruner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from tests.runtime.naive import Case, attend, make_case


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Make a checkpoint of a model and layout once; tests must not change it."""
    made: dict[tuple[Any, ...], Case] = {}

    def make(name: str, layout: str, dtype: torch.dtype = torch.float64) -> Case:
        key = (name, layout, dtype)
        if key not in made:
            path = tmp_path_factory.mktemp("checkpoint")
            made[key] = make_case(name, layout, path, dtype=dtype)
        return made[key]

    return make


@pytest.fixture(scope="session")
def loaded() -> Callable[..., Any]:
    """Load a checkpoint in a dtype once, and let it attend as asked; tests must not change it."""
    known: dict[tuple[Path, torch.dtype | None], Any] = {}

    def load(made: Case, dtype: torch.dtype | None = None, attention: str = "sdpa") -> Any:
        key = (made.path, dtype)
        if key not in known:
            known[key] = surgery.load(made.path, dtype=dtype)
        attend(known[key], attention)
        return known[key]

    return load


@pytest.fixture
def own_case(tmp_path: Path) -> Callable[..., Case]:
    """Make a checkpoint that the test may change."""

    def make(name: str, layout: str = "ragged", dtype: torch.dtype = torch.float32) -> Case:
        return make_case(name, layout, tmp_path / f"{name}-{layout}", dtype=dtype)

    return make
