"""Data that tuned a model must not measure it: what was calibrated on, against what is asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.calibration.statistics import CalibratedOn
from surgery.checkpoint.directory import ADAPTER
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.input import (
    EMBEDDED,
    EMBEDDED_CLIPS,
    check_data,
    data_kind,
    embedded,
)
from surgery.errors import CheckpointError, UsageError
from surgery.evaluation.fingerprints import Overlap, data_fingerprints, overlap
from surgery.evaluation.kinds import Kind
from surgery.stored.adapted import AdaptedSource
from surgery.stored.block import read_operations

ALLOW = "--allow-leakage"


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint's operation was calibrated on.

    Attributes:
        name: Of the data.
        kind: ``audio`` or ``text``.
        samples: Fingerprints, or of many a sketch.
    """

    name: str
    kind: str
    samples: frozenset[str]


def calibrations(config: Mapping[str, Any], *, where: str) -> list[Calibration]:
    """Return what each operation of a checkpoint was calibrated on; none for most.

    Args:
        config: The parsed config.json.
        where: The file, for messages.

    Raises:
        CheckpointError: The block is malformed.
    """
    found = []
    for operation in read_operations(config, where=where):
        entry = operation["provenance"].get("calibration")
        if entry is None:
            continue
        found.append(_calibration(entry, where))
    return found


def known_to(source: TensorSource) -> list[Calibration]:
    """Return what a checkpoint was calibrated on, and an adapter trained on.

    Raises:
        CheckpointError: A record is malformed.
    """
    found = calibrations(source.config, where=f"{source.name}: config.json")
    trained_on = (
        source.adapter.provenance.get("data") if isinstance(source, AdaptedSource) else None
    )
    if isinstance(trained_on, Mapping) and "samples" in trained_on:
        found.append(_calibration(trained_on, f"{source.name}: {ADAPTER}"))
    return found


def _calibration(entry: Any, where: str) -> Calibration:
    try:
        samples = frozenset(map(str, entry["samples"]))
        return Calibration(str(entry["name"]), str(entry["kind"]), samples)
    except (LookupError, TypeError) as error:
        raise CheckpointError(
            "The record of what a checkpoint was calibrated on cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint="without it nobody can say whether the data is new to the model",
        ) from error


def shared_samples(
    known: list[Calibration], kind: Kind, evaluation: Mapping[str, frozenset[str]]
) -> Overlap:
    """Count the samples of some data that a checkpoint was calibrated on."""
    samples = {each for one in known if one.kind == kind for each in one.samples}
    return overlap(samples, evaluation)


def check_leakage(
    source: TensorSource,
    asked: str,
    data: str | Path | None,
    on: Callable[[], CalibratedOn],
    *,
    allow: bool,
) -> int:
    """Return how many samples would be both calibrated and measured on.

    Args:
        source: The model.
        asked: What the user called it.
        on: Returns what it is calibrated on; called where there is something to compare.
        data: What is to be measured on; without any, the embedded model's own clips are.
        allow: Count them, instead of refusing them.

    Raises:
        UsageError: There are such samples, and they are not allowed.
        SurgeryError: Data cannot be read.
    """
    if data is None:
        if source.name != EMBEDDED:
            return 0
        with embedded(EMBEDDED_CLIPS) as clips:
            return check_leakage(source, asked, clips, on, allow=allow)
    check_data(source, data)
    seen = on()
    found = overlap(seen.samples, data_fingerprints(Path(data), seen.kind))
    if not allow:
        refuse_leakage(found, model=asked, data=str(data))
    return found.shared


def check_unseen(source: TensorSource, data: str | Path) -> None:
    """Refuse to measure a checkpoint on samples that one of its operations was calibrated on.

    Raises:
        UsageError: There are such samples.
        SurgeryError: Data cannot be read.
    """
    known = known_to(source)
    if not known:
        return
    kind = data_kind(source)
    found = shared_samples(known, kind, data_fingerprints(Path(data), kind))
    label = shlex.join(["surgery", "evaluate", "…", "--data", str(data), ALLOW])
    refuse_leakage(found, model=source.name, data=str(data), label=label)


def refuse_leakage(found: Overlap, *, model: str, data: str, label: str = ALLOW) -> None:
    """Refuse to measure a model on what it was calibrated on.

    Args:
        found: What they share.
        model: What to call the model.
        data: What to call the data.
        label: What measures all the same, and says so.

    Raises:
        UsageError: They share a sample.
    """
    if found.shared:
        names = ", ".join(found.examples) + (", …" if found.shared > len(found.examples) else "")
        raise UsageError(
            "The model was calibrated on some of the data it would be measured on",
            where=f"{model} on {data}",
            found=f"{found.shared} of {found.of} samples: {names}",
            expected="data that the calibration has not seen",
            hint=f"measure on other data, or label the figures with {label}",
        )
