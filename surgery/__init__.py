"""Restructure, prune and split trained transformers offline, and measure what it cost.

Everything public is here and imported when first used, so that ``import surgery`` is quick:

>>> import surgery
>>> report = surgery.absorb_decompose("whisper-micro", "smaller")  # doctest: +SKIP
>>> model = surgery.load("smaller")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surgery.version import VERSION

if TYPE_CHECKING:
    from surgery.choices.rules import (
        Energy,
        Lossless,
        MaxError,
        MaxPplIncrease,
        MaxWerIncrease,
        Remove,
        Thresholds,
        UpTo,
    )
    from surgery.engine.compress.compress import compress
    from surgery.engine.compress.inspect import inspect
    from surgery.engine.compress.options import CompressOptions
    from surgery.engine.compress.planning import plan
    from surgery.engine.cut.absorb import absorb_decompose
    from surgery.engine.cut.calibrate import Calibrate
    from surgery.engine.cut.options import Options
    from surgery.engine.measure.evaluate import evaluate
    from surgery.engine.measure.verify import verify
    from surgery.engine.merge import merge
    from surgery.engine.parts.import_adapter import import_adapter
    from surgery.engine.parts.split import reparam, split
    from surgery.engine.refresh import refresh
    from surgery.engine.vocabulary.options import TrimOptions
    from surgery.engine.vocabulary.trim import trim_vocabulary
    from surgery.errors import SurgeryError
    from surgery.evaluation.results import Evaluation
    from surgery.export.openai_whisper.loader import load_openai_whisper
    from surgery.export.routes import export_routes
    from surgery.export.run import export_model
    from surgery.report.model.report import Report
    from surgery.stored.loading import load
    from surgery.training.options import TuneOptions
    from surgery.training.preparation import Preparation
    from surgery.training.tune import tune

__version__ = VERSION

_HOMES = {
    "absorb_decompose": "surgery.engine.cut.absorb",
    "compress": "surgery.engine.compress.compress",
    "CompressOptions": "surgery.engine.compress.options",
    "evaluate": "surgery.engine.measure.evaluate",
    "export_model": "surgery.export.run",
    "export_routes": "surgery.export.routes",
    "import_adapter": "surgery.engine.parts.import_adapter",
    "inspect": "surgery.engine.compress.inspect",
    "load": "surgery.stored.loading",
    "load_openai_whisper": "surgery.export.openai_whisper.loader",
    "merge": "surgery.engine.merge",
    "plan": "surgery.engine.compress.planning",
    "refresh": "surgery.engine.refresh",
    "reparam": "surgery.engine.parts.split",
    "split": "surgery.engine.parts.split",
    "trim_vocabulary": "surgery.engine.vocabulary.trim",
    "tune": "surgery.training.tune",
    "verify": "surgery.engine.measure.verify",
    "Calibrate": "surgery.engine.cut.calibrate",
    "Options": "surgery.engine.cut.options",
    "Preparation": "surgery.training.preparation",
    "TrimOptions": "surgery.engine.vocabulary.options",
    "TuneOptions": "surgery.training.options",
    "SurgeryError": "surgery.errors",
    "Evaluation": "surgery.evaluation.results",
    "Energy": "surgery.choices.rules",
    "Lossless": "surgery.choices.rules",
    "MaxError": "surgery.choices.rules",
    "MaxPplIncrease": "surgery.choices.rules",
    "MaxWerIncrease": "surgery.choices.rules",
    "Remove": "surgery.choices.rules",
    "Thresholds": "surgery.choices.rules",
    "UpTo": "surgery.choices.rules",
    "Report": "surgery.report.model.report",
}

__all__ = [
    "Calibrate",
    "CompressOptions",
    "Energy",
    "Evaluation",
    "Lossless",
    "MaxError",
    "MaxPplIncrease",
    "MaxWerIncrease",
    "Options",
    "Preparation",
    "Remove",
    "Report",
    "SurgeryError",
    "Thresholds",
    "TrimOptions",
    "TuneOptions",
    "UpTo",
    "__version__",
    "absorb_decompose",
    "compress",
    "evaluate",
    "export_model",
    "export_routes",
    "import_adapter",
    "inspect",
    "load",
    "load_openai_whisper",
    "merge",
    "plan",
    "refresh",
    "reparam",
    "split",
    "trim_vocabulary",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'surgery' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
