"""What tests of whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.real import RealWhisper


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time, and the report's own tests draw them."""
    monkeypatch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")


@pytest.fixture(scope="session")
def real(shared: Path) -> RealWhisper:
    """The real Whisper, what it hears and what it writes; tests must not change it."""
    return RealWhisper.load(shared)
