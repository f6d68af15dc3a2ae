"""Fixtures of whole runs."""

from __future__ import annotations

import gc
import logging

import pytest


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """No pictures, no sweeping of the whole process's memory before and after every run."""
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)
    logging.getLogger("transformers").setLevel(logging.ERROR)
