"""What the tests of reports share."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.report.model.report import Report
from tests.report.drawn import MAKERS


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out of pages: they take most of the time, and other tests draw them."""

    def nothing(report: Report) -> list[Any]:
        return []

    for page, names in MAKERS.items():
        for name in names:
            monkeypatch.setattr(page, name, nothing)
