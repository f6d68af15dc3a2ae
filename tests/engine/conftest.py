"""What tests of whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.real import RealWhisper


@pytest.fixture(scope="session")
def real(shared: Path) -> RealWhisper:
    """The real Whisper, what it hears and what it writes; tests must not change it."""
    return RealWhisper.load(shared)
