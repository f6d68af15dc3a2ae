"""The base that an adapter belongs on: found by a hint, proved by its hash."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from surgery.checkpoint.directory import ADAPTER
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError, ModelNotFoundError, SurgeryError
from surgery.events import Event, Progress, ignore
from surgery.stored.adapter_content import Adapter


def open_base(
    adapter: Adapter, given: Path | str | None = None, *, progress: Progress = ignore
) -> TensorSource:
    """Open the base an adapter belongs on, proved by the hash of its weights.

    Args:
        adapter: The adapter.
        given: Where the base is. By default where the adapter says that it was, or what its
            name stands for: an embedded model, or one on the hub.
        progress: Called around the hashing, which reads the whole base.

    Raises:
        CheckpointError: The weights there are other ones.
        ModelNotFoundError: There is no base at that place.
    """
    source = find_base(adapter, given)
    try:
        progress(Event("Hashing the base", 0, 1, source.name))
        found = source.sha256()
        progress(Event("Hashing the base", 1, 1, source.name))
    except BaseException:
        source.close()
        raise
    if sorted(found.values()) != sorted(adapter.sha256.values()):
        source.close()
        raise CheckpointError(
            "This is not the base that the adapter was trained on, or the base has changed",
            where=source.directory or source.name,
            found=_listed(found),
            expected=f"{adapter.base_name}: {_listed(adapter.sha256)}",
            hint="give the base it was trained on with --base DIRECTORY",
        )
    return source


def find_base(adapter: Adapter, given: Path | str | None = None) -> TensorSource:
    """Open what should be the base, unproved: :func:`open_base` compares its hash.

    Raises:
        ModelNotFoundError: There is nothing at that place.
        CheckpointError: What is there cannot be read.
    """
    if given is not None:
        return resolve(str(given))
    where, tried = adapter.directory / ADAPTER, adapter.base_name
    try:
        if adapter.base_path is None:
            return resolve(adapter.base_name)
        tried = adapter.base_path
        # Of the real directory: a link to an adapter must not change what ".." means.
        path = adapter.directory.resolve() / adapter.base_path
        if path.exists():
            return resolve(str(path))
        cause: SurgeryError | None = None
    except ModelNotFoundError as error:
        cause = error
    raise ModelNotFoundError(
        "The base that the adapter belongs on is not where it was",
        where=where,
        found=f"nothing at {tried}",
        expected=f"{adapter.base_name}: {_listed(adapter.sha256)}",
        hint="say where it is with --base DIRECTORY",
    ) from cause


def path_to(base: TensorSource, directory: Path) -> str | None:
    """Return where the base is from the adapter; ``None`` where its name says how to find it."""
    files = base.files()
    if base.directory is not None:
        place, named = base.directory.resolve(), base.name == base.directory.resolve().name
    elif files:
        place, named = files[0].resolve(), True
    else:
        return None
    if not named:  # embedded, or in the hub's cache
        return None
    try:
        return Path(os.path.relpath(place, directory.resolve())).as_posix()
    except ValueError:  # on another drive
        return None


def _listed(digests: Mapping[str, str]) -> str:
    shown = [f"{file} sha256 {digest}" for file, digest in list(digests.items())[:3]]
    return "; ".join(shown + (["…"] if len(digests) > 3 else []))
