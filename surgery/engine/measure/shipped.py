"""What comes with the package for calibrating on: text, speech, and whisper-micro's tones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files

from surgery.calibration.data import CalibrationData, open_data
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.input import EMBEDDED, data_kind

NAMES = {"text": "calibration/text.txt", "audio": "calibration/speech"}
TONES = "whisper_micro/calibration"


@contextmanager
def shipped_data(source: TensorSource, limit: int | None = None) -> Iterator[CalibrationData]:
    """Yield what the package has for a model: its files are there while this is entered.

    Args:
        source: The model.
        limit: Keep only the first so many recordings or documents.
    """
    kind = data_kind(source)
    own = source.name == EMBEDDED
    with as_file(files("surgery") / "data" / (TONES if own else NAMES[kind])) as path:
        name = "tones" if own else "speech" if kind == "audio" else "text"
        yield replace(open_data(path, kind, limit), name=f"surgery's own {name}")
