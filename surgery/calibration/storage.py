"""Statistics as a file: safetensors, with everything else as JSON in its metadata.

The same statistics give the same bytes, so the file's SHA-256 identifies them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from surgery.calibration.moments import MOMENTS, Moments
from surgery.calibration.statistics import CalibratedOn, Statistics
from surgery.calibration.witness import OUTPUTS
from surgery.checkpoint.commit import fsync_path
from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.header import Header, read_header
from surgery.errors import CheckpointError, SurgeryError, TargetError

KEY = "surgery_statistics"
"""The one metadata entry: several would be written in any order."""

VERSION = 1


def statistics_sha256(statistics: Statistics) -> str:
    """Return the SHA-256 that a file of these statistics has."""
    return sha256(_serialised(statistics)).hexdigest()


def write_statistics(path: Path, statistics: Statistics) -> str:
    """Write statistics in one step: a reader finds the old file or the new one.

    Args:
        path: The file; statistics that are there are replaced, anything else is not.
        statistics: What to write.

    Returns:
        Its SHA-256.

    Raises:
        TargetError: It cannot be written, or something else is in its place.
    """
    if path.exists() and not _is_ours(path):
        raise TargetError(
            "There is something else where the statistics are to be written.",
            where=path,
            expected="statistics, or nothing",
            hint="give --statistics another file name",
        )
    content = _serialised(statistics)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with target_errors(path, needed=len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            fsync_path(partial)
            partial.replace(path)
            fsync_path(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return sha256(content).hexdigest()


def read_statistics(path: Path, *, source_sha256: Mapping[str, str]) -> Statistics:
    """Read statistics of one model.

    Args:
        path: The file.
        source_sha256: SHA-256 of the model's weight files, by name.

    Raises:
        CheckpointError: The file is absent, malformed, or holds something else.
        UsageError: They were taken of another model; says which file differs.
    """
    if not path.is_file():
        raise CheckpointError(
            "There is no such file of statistics.",
            where=path,
            hint="give --calibrate DIR|FILE as well: they are taken then, and written there",
        )
    header, _ = read_header(path)
    described = _described(header, path)
    try:
        sites = {
            name: (float(entry["queries"]), int(entry["sequences"]))
            for name, entry in described["sites"].items()
        }
        data = described["data"]
        padding_weight = float(described["padding_weight"])
        ridge = described["ridge"]
        statistics = Statistics(
            _moments(load_file(path), sites, path),
            _strings(described["source_sha256"]),
            CalibratedOn(
                str(data["name"]),
                data["kind"],
                tuple(map(str, data["samples"])),
                int(data["count"]),
            ),
            padding_weight,
            bool(described["varied"]),
            None if ridge is None else float(ridge),
            described["output"],
            {
                (site, pair): [(float(dropped), float(damage)) for dropped, damage in trials]
                for site, pairs in described["trials"].items()
                for pair, trials in pairs.items()
            },
            None if (fitted := described.get("fitted")) is None else str(fitted),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        _malformed(path, f"{type(error).__name__}: {error}")
    if statistics.output not in (None, *OUTPUTS):
        _malformed(path, f"output {statistics.output!r}")
    if statistics.data.kind not in ("audio", "text") or not math.isfinite(padding_weight):
        _malformed(path, f"data of kind {data['kind']!r}, padding weight {padding_weight}")
    statistics.check_source(source_sha256, where=path)
    return statistics


def _serialised(statistics: Statistics) -> bytes:
    tensors: dict[str, Tensor] = {}
    sites: dict[str, dict[str, float]] = {}
    for path, moments in sorted(statistics.sites.items()):
        for name in MOMENTS:
            tensors[f"{path}/{name}"] = getattr(moments, name).contiguous()
        sites[path] = {"queries": moments.queries, "sequences": moments.sequences}
    trials: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (path, pair), found in statistics.trials.items():
        trials.setdefault(path, {})[pair] = found
    data = statistics.data
    described = {
        "version": VERSION,
        "source_sha256": dict(statistics.source_sha256),
        "data": {
            "name": data.name,
            "kind": data.kind,
            "samples": list(data.samples),
            "count": data.count,
        },
        "padding_weight": statistics.padding_weight,
        "varied": statistics.varied,
        "ridge": statistics.ridge,
        "output": statistics.output,
        "trials": trials,
        "sites": sites,
        "fitted": statistics.fitted,
    }
    return save(tensors, {KEY: json.dumps(described, sort_keys=True)})


def _is_ours(path: Path) -> bool:
    try:
        return path.is_file() and KEY in read_header(path)[0].metadata
    except SurgeryError:
        return False


def _described(header: Header, path: Path) -> dict[str, Any]:
    if KEY not in header.metadata:
        raise CheckpointError(
            "This file holds no calibration statistics.",
            where=path,
            found="another safetensors file",
            expected="a file that --statistics wrote",
        )
    try:
        described = json.loads(header.metadata[KEY])
    except (ValueError, RecursionError) as error:
        _malformed(path, error)
    if not isinstance(described, dict):
        _malformed(path, type(described).__name__)
    if described.get("version") != VERSION:
        raise CheckpointError(
            "These statistics were written by another version of this package.",
            where=path,
            found=f"version {described.get('version')!r}",
            expected=f"version {VERSION}",
            hint="calibrate again, or update the package",
        )
    return described


def _moments(
    tensors: Mapping[str, Tensor], sites: Mapping[str, tuple[float, int]], path: Path
) -> dict[str, Moments]:
    expected = {f"{site}/{name}" for site in sites for name in MOMENTS}
    if set(tensors) != expected:
        _malformed(path, f"tensor {min(set(tensors) ^ expected)} is missing or unexpected")
    found: dict[str, Moments] = {}
    for site, (queries, sequences) in sites.items():
        if not (math.isfinite(queries) and queries > 0 and sequences > 0):
            _malformed(path, f"{site}: weight {queries} of {sequences} sequences")
        own = {name: tensors[f"{site}/{name}"] for name in MOMENTS}
        for name, value in own.items():
            _check(value, f"{site}/{name}", path)
        if len({tuple(value.shape) for value in own.values()}) != 1:
            _malformed(path, f"{site}: moments of different shapes")
        found[site] = Moments(own["q"], own["k"], own["c"], queries, sequences)
    return found


def _check(value: Tensor, name: str, path: Path) -> None:
    if value.dtype != torch.float64 or value.dim() != 3 or value.shape[1] != value.shape[2]:
        _malformed(path, f"{name}: {value.dtype}, shape {list(value.shape)}")
    symmetric = torch.equal(value, value.mT)  # NaN is not equal to itself
    squares = value.diagonal(dim1=1, dim2=2)
    if not symmetric or bool(value.isinf().any()) or bool((squares < 0).any()):
        _malformed(path, f"{name}: no second moment")


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise TypeError("no map of weight files")
    if not all(isinstance(digest, str) for digest in value.values()):
        raise TypeError("a weight file's digest is no text")
    return value


def _malformed(path: Path, found: object) -> NoReturn:
    raise CheckpointError(
        "This file of statistics is damaged.", where=path, found=found, hint="calibrate again"
    )
