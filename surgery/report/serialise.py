"""Report to JSON and back: stable order, rounded figures, a schema number."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from surgery.errors import CheckpointError
from surgery.report.model.planned import ModelPlan
from surgery.report.model.report import Report

T = typing.TypeVar("T")
SCHEMA = 1
"""Version of ``report.json``. Raised when a field changes its meaning or goes away."""

_DIGITS = 7
# spectra are a picture's worth of numbers, and nine tenths of the file
_FEWER_DIGITS = {"spectrum": 5, "moved": 6}
_LISTS = (
    "sites",
    "linears",
    "feed_forward",
    "steps",
    "held_out",
    "moved",
    "tried",
    "curve",
)  # written an entry a line
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(report: Report | ModelPlan) -> str:
    """Return a report or a plan as JSON: fields in their order, floats to 7 significant digits.

    Spectra are rounded to 5 digits, singular values before and after tuning to 6. NaN and
    infinities become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, since JSON has
    no such numbers.
    """
    document = {"schema": SCHEMA, **_encode(report, _DIGITS)}
    # one line a top-level entry, a block and a linear map: readable diffs without a line per number
    return _lines(document) + "\n"


def _entry(key: str, value: Any) -> str:
    if key in _LISTS and value:
        return "[\n" + ",\n".join(_compact(item) for item in value) + "\n]"
    if key == "tuning" and value:
        return _lines(value)
    return _compact(value)


def _lines(document: dict[str, Any]) -> str:
    entries = (f"{json.dumps(key)}: {_entry(key, value)}" for key, value in document.items())
    return "{\n" + ",\n".join(entries) + "\n}"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _encode(value: Any, digits: int) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encode(
                getattr(value, field.name),
                _FEWER_DIGITS.get(field.name, digits),
            )
            for field in fields(value)
        }
    if isinstance(value, dict):
        return {str(key): _encode(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, digits) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return next(name for name, number in _NON_FINITE.items() if repr(number) == repr(value))
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
        rounded = float(f"{value:.{digits}g}")
        # as it would be written when read back
        return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
    return str(value)


def from_json(text: str, *, where: object = "report.json") -> Report:
    """Read a report back.

    Unknown fields are ignored, so that a newer minor version's file can be shown.

    Raises:
        CheckpointError: The text is not JSON, not a report, or of another schema.
    """
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            "The report is not valid JSON", where=where, found=str(error)
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise CheckpointError(
            "The report is of a schema this version does not read",
            where=where,
            found=f"schema = {schema!r}",
            expected=f"schema = {SCHEMA}",
            hint="read it with the version of surgery that wrote it",
        )
    report: Report = _decode(Report, document, where, "report")
    return report


def decoded(kind: type[T], value: Any) -> T:
    """Build a part of a report, a dataclass, from its JSON value.

    Raises:
        ValueError: It is of another shape.
    """
    try:
        found: T = _decode(kind, value, "", kind.__name__)
    except CheckpointError as error:
        raise ValueError(error.message) from error
    return found


def _decode(kind: Any, value: Any, where: object, path: str) -> Any:
    """Build ``kind`` from parsed JSON; ``path`` names the place in messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        if value is None:
            return None
        return _decode(arguments[0], value, where, path)
    if is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(kind, value, where, path)
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {
            key: _decode(arguments[1], item, where, f"{path}.{key}") for key, item in value.items()
        }
    if kind is float:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        # an integer stays one: bytes and FLOPs have more digits than floats are written with
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise CheckpointError(
        "The report does not have the shape it should",
        where=where,
        found=f"{type(value).__name__} at {path}",
        expected=getattr(kind, "__name__", str(kind)),
    )


def _decode_dataclass(kind: Any, value: dict[str, Any], where: object, path: str) -> Any:
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in value:
            given[field.name] = _decode(
                hints[field.name], value[field.name], where, f"{path}.{field.name}"
            )
        elif field.default is MISSING and field.default_factory is MISSING:
            raise CheckpointError(
                "The report lacks a field", where=where, expected=f"{path}.{field.name}"
            )
    return kind(**given)
