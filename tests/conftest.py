"""Fixtures shared by every test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_directory() -> Path | None:
    """Return the folder with real checkpoints, speech and text, or ``None`` where absent."""
    named = os.environ.get("SURGERY_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    return folder if (folder / "checkpoints").is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    """Run slow tests that are named, hear Ctrl-C, and give every worker of pytest-xdist one core.

    A shell that runs tests in the background makes them, and all they start, deaf to Ctrl-C, and
    some of them press it. Kernels that share cores wait for each other.
    """
    if config.option.markexpr == "not slow" and any("::" in name for name in config.args):
        config.option.markexpr = ""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Let no sweep look again at modules and tests, which live to the end: it costs a tenth."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let libraries clean up after themselves, as they do at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """No test cuts the power, so none waits for the disk: ``fsync`` only checks its handle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real checkpoints, speech and text; skips where there is none."""
    folder = shared_directory()
    if folder is None:
        pytest.skip("needs the real checkpoints: set SURGERY_SHARED to the folder that holds them")
    return folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time, and the report's own tests draw them."""
    monkeypatch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")
