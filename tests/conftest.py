"""Fixtures shared by every test."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.architectures import ARCHITECTURES

FIRST = ("whisper", "llama", "qwen2", "qwen3", "olmo2", "bert", "gpt2")
"""Families that the whole matrix is tried of, one of every kind of attention and of seam."""

QUICK: dict[str, dict[str, object]] = {
    "test_outputs_equal_the_zero_padded_model": {"layout": "ragged", "attention": "sdpa"},
    "test_generates_what_the_zero_padded_model_generates": {"layout": "ragged", "mode": "greedy"},
    "test_a_ragged_model_is_the_dense_one_with_neurons_zeroed": {"widths": (7, 24, 40)},
    "test_lossless_is_the_original_within_three_times_its_rounding": {"dtype": "fp32"},
    "test_pruned_models_compute_the_same_to_the_bit": {},
}
"""What is tried of every family, and at which of its parameters."""

CLASSES = {one.name: kind for kind, each in ARCHITECTURES.items() for one in each.classes}
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tests what is tried of every family, but for the first and :data:`QUICK`.

    A family that joins the matrix costs half a minute there, and shows few faults that others do
    not. What is cheap is tried of all: ``tests/architectures``, and once each a result that is run.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        given = item.callspec.params
        further = any(family_named(value) not in (None, *FIRST) for value in given.values())
        quick = QUICK.get(item.originalname)
        once = quick is not None and all(given[name] == quick[name] for name in quick)
        if further and not once and "architectures" not in item.path.parts:
            item.add_marker(pytest.mark.slow)


def family_named(value: object) -> str | None:
    """Return the family that a test's parameter names, or one of whose classes it names."""
    if not isinstance(value, str):
        return None
    start = value.partition("-")[0]
    return start if start in ARCHITECTURES else CLASSES.get(value)


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
