"""What tests of whole runs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time, and the report's own tests draw them."""
    monkeypatch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")
