"""An adapter directory: the tensors that were trained, and the base they belong on, by hash.

``adapter.safetensors`` holds nothing but what differs from the base, under the base's names;
``adapter.json`` says which base, what operation the new tensors make, and where they came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from surgery.checkpoint.directory import ADAPTER, read_json
from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.header import TensorInfo, read_header
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.checkpoint.writer import ShardWriter, TensorSpec
from surgery.errors import CheckpointError
from surgery.stored.adapter_base import path_to
from surgery.stored.adapter_content import WEIGHTS, Adapter
from surgery.stored.adapter_fields import Fields, part_names, read_operation

FORMAT_VERSION = 1


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter's description and the header of its tensors.

    Raises:
        CheckpointError: A file is missing or malformed, or of a newer format; says where.
    """
    place = directory / ADAPTER
    fields = Fields(read_json(place), place)
    version = fields.count("format_version")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            "The adapter was written in a newer format than this version can read",
            where=f"{place}: format_version",
            found=version,
            expected=f"at most {FORMAT_VERSION}",
            hint="upgrade model-surgery",
        )
    base, trained = fields.inside("base"), fields.inside("trained")
    operation = None if fields.is_null("operation") else read_operation(fields.inside("operation"))
    header, _ = read_header(directory / WEIGHTS)
    path = None if base.is_null("path") else base.text("path")
    if path is not None and (PurePosixPath(path).anchor or PureWindowsPath(path).anchor):
        raise base.malformed("path", path, "a path relative to the adapter's directory")
    return Adapter(
        directory=directory,
        base_name=base.text("name"),
        base_path=path,
        sha256=base.digests("sha256"),
        operation=operation,
        trained={"method": trained.text("method"), "parameters": trained.count("parameters")},
        options=fields.inside("options").raw,
        provenance=fields.inside("provenance").raw,
        infos=header.tensors,
    )


def write_adapter(
    directory: Path,
    tensors: Mapping[str, Tensor],
    *,
    base: TensorSource,
    method: str,
    operation: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    base_path: str | None = None,
) -> None:
    """Write ``adapter.json`` and ``adapter.safetensors`` into a directory that exists.

    Nothing here is all or nothing: give a directory that a transaction swaps in.

    Args:
        directory: Where to; the final one, or a sibling that will take its name.
        tensors: What was trained, any floating dtype and device, by the names that the base's
            files have for it; what the base lacks, by the names of ``operation``'s small parts.
        base: The base; its weight files are hashed.
        method: What was trained, to show.
        operation: ``method``, ``options``, ``provenance`` and ``sites`` of the small parts
            that the base lacks.
        options: The run's, as JSON values.
        provenance: Where the tensors came from, as JSON values. ``data`` with ``name``,
            ``kind`` and ``samples`` (as a calibration's) lets leakage be noticed.
        base_path: Where the base is, relative to the final directory; worked out by default.

    Raises:
        CheckpointError: The tensors do not fit the base, or are not finite.
        TargetError: The files cannot be written.
    """
    if operation is not None:
        operation = read_operation(Fields(dict(operation), directory, "operation"))
    specs = [TensorSpec(name, each.dtype, tuple(each.shape)) for name, each in tensors.items()]
    check_fits({spec.name: spec for spec in specs}, operation, base, where=directory)
    document = {
        "format_version": FORMAT_VERSION,
        "base": {
            "name": base.name,
            "path": path_to(base, directory) if base_path is None else base_path,
            "sha256": base.sha256(),
        },
        "operation": operation,
        "trained": {"method": method, "parameters": sum(spec.numel for spec in specs)},
        "options": dict(options or {}),
        "provenance": dict(provenance or {}),
    }
    with ShardWriter(directory / WEIGHTS, specs) as writer:
        for name in writer.remaining:
            check_finite(name, tensors[name])
            writer.write(name, tensors[name])
    with target_errors(directory / ADAPTER):
        text = json.dumps(document, indent=2) + "\n"
        (directory / ADAPTER).write_text(text, encoding="utf-8", newline="\n")


def check_fits(
    tensors: Mapping[str, TensorInfo] | Mapping[str, TensorSpec],
    operation: Mapping[str, Any] | None,
    base: TensorSource,
    *,
    where: object,
) -> None:
    """Require that every tensor replaces one of the base, or is a part of the operation.

    Shapes of new parts are left to whoever reads base and operation together.

    Raises:
        CheckpointError: A name is unknown, a shape or dtype does not fit, a part is missing.
    """
    added = part_names(operation)
    message: str | None = None
    found: object = None
    expected: object = None
    for name, info in tensors.items():
        known = base.infos.get(name)
        if not info.dtype.is_floating_point:
            message, found, expected = "is no trained weight", info.dtype, "floating-point numbers"
        elif known is None and name not in added:
            message, found = "belongs to nothing in the base", f"no {name} in {base.name}"
            expected = "names as in the base's files, or of the operation's small parts"
        elif known is not None and name in added:
            message, found = "is in the base already", f"{name} in {base.name}"
        elif known is not None and known.shape != info.shape:
            message = "has another shape than the base's"
            found, expected = (f"shape {list(each.shape)}" for each in (info, known))
        if message is not None:
            raise CheckpointError(
                f"Tensor {name} of the adapter {message}",
                where=where,
                found=found,
                expected=expected,
            )
    missing = sorted(added - tensors.keys())
    if missing or not tensors:
        raise CheckpointError(
            "The adapter lacks a tensor of its operation" if missing else "The adapter is empty",
            where=where,
            found="no " + (missing[0] if missing else "tensors"),
        )
