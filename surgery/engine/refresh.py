"""Renew the code that a checkpoint carries: its weights stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

from surgery.carried.outdated import read_code
from surgery.carried.remote_code import FILE, place_code, runtime_of
from surgery.checkpoint.commit import fsync_path
from surgery.checkpoint.directory import ADAPTER, DirectorySource
from surgery.checkpoint.disk import target_errors
from surgery.errors import UsageError
from surgery.runtime.releases import RUNTIME
from surgery.stored.stored import check_loads, read_stored


def refresh(checkpoint: str | Path) -> bool:
    """Write anew the modelling file of a checkpoint, and what config.json says of it.

    Checkpoints carry the code of the release that wrote them. Where transformers has changed
    since, that code may no longer run rightly in it; :func:`surgery.load` never uses it.

    Args:
        checkpoint: A directory that surgery wrote.

    Returns:
        Whether anything was old; otherwise nothing was written.

    Raises:
        CheckpointError: There is no checkpoint, or a damaged one.
        UsageError: It carries no code, being dense or an adapter, or newer code than there is here.
        TargetError: A file cannot be written; each is whole, the old one or the new.
    """
    directory = Path(checkpoint)
    if (directory / ADAPTER).is_file():
        raise UsageError(
            "An adapter carries no code: its base does",
            where=directory,
            hint="refresh the base that the adapter names",
        )
    with DirectorySource(directory) as source:
        config = source.config
        if "surgery" in config:
            read_stored(source)  # code that runs nothing would be no help
            check_loads(source)
    code = place_code(config)
    if code is None:
        raise UsageError(
            "This checkpoint carries no code, so there is none to renew",
            where=directory,
            expected="a checkpoint with a surgery block, of a family that is known here",
        )
    if runtime_of(read_code(directory / FILE) or "") > RUNTIME:
        raise UsageError(
            "This checkpoint carries newer code than this version of surgery has",
            where=directory / FILE,
            hint="upgrade model-surgery; surgery.load runs the checkpoint as it is",
        )
    # The code first: config.json names classes in it, which the older code has, too.
    files = {FILE: code, "config.json": json.dumps(config, indent=2) + "\n"}
    old = [name for name, text in files.items() if read_code(directory / name) != text]
    for name in old:
        _replace(directory / name, files[name])
    return bool(old)


def _replace(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole."""
    new = path.with_name(f".{path.name}.surgery-new")
    with target_errors(path):
        try:
            new.write_text(text, encoding="utf-8", newline="\n")
            fsync_path(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        fsync_path(path.parent)
