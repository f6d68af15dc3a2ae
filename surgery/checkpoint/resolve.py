"""From what a user types to a checkpoint that can be read."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

from surgery.checkpoint import hub
from surgery.checkpoint.directory import (
    INDEX,
    SINGLE,
    DirectorySource,
    index_shards,
    is_adapter,
    read_json,
)
from surgery.checkpoint.names import EMBEDDED, SHORT_NAMES, known_names, unknown_name
from surgery.checkpoint.openai_whisper import OpenAIWhisperSource
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError

__all__ = ["known_names", "resolve"]


def resolve(
    model: str,
    *,
    revision: str | None = None,
    headers_only: bool = False,
    cache_dir: Path | None = None,
) -> TensorSource:
    """Open the checkpoint that ``model`` names.

    What exists on disk goes first: a directory, an openai-whisper ``.pt``, a safetensors
    file. Then the embedded models, the short names, and hub ids.

    Args:
        model: Path, name or hub id (``owner/name``).
        revision: Branch, tag or commit on the hub.
        headers_only: Of a model on the hub, fetch only what says its shapes.
        cache_dir: The hub client's cache; default where it always is.

    Raises:
        ModelNotFoundError: It names nothing, or nothing that can be reached.
        CheckpointError: It is there, and cannot be read.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        _refuse_adapter(path)
        return DirectorySource(path)
    if path.is_file():
        return _open_file(path)
    name = model.strip().lower()
    if name in EMBEDDED:
        return _embedded(name)
    repo = SHORT_NAMES.get(name, model.strip())
    if not _is_hub_id(repo):
        raise unknown_name(model, _path_message(model))
    source = hub.fetch(repo, revision=revision, headers_only=headers_only, cache_dir=cache_dir)
    source.revision = revision
    return source


def _refuse_adapter(directory: Path) -> None:
    if is_adapter(directory):
        raise CheckpointError(
            "This is an adapter: it holds what was trained, and not the model.",
            where=directory,
            hint=f"merge it into its base first: surgery merge {shlex.quote(str(directory))}",
        )


def _open_file(path: Path) -> TensorSource:
    if path.suffix == ".pt":
        return OpenAIWhisperSource(path)
    _refuse_adapter(path.parent)
    if path.name == INDEX:
        return DirectorySource(path.parent)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            "The file is no checkpoint that can be read.",
            where=path,
            expected="a .safetensors file, an openai-whisper .pt, or a directory",
        )
    index = path.parent / INDEX
    if path.name == SINGLE:
        return DirectorySource(path.parent)
    if index.is_file() and path.name in index_shards(read_json(index), index).values():
        return DirectorySource(path.parent)
    return DirectorySource(path.parent, name=path.stem, weights=path.name)


def _embedded(name: str) -> DirectorySource:
    directory = Path(str(resources.files("surgery").joinpath("data", EMBEDDED[name])))
    if not directory.is_dir():
        raise CheckpointError(
            "The embedded model is missing from the installed package.",
            where=directory,
            hint="install the package again",
        )
    return DirectorySource(directory, name=name, alone=True)  # its test clips lie beside it


def _is_hub_id(model: str) -> bool:
    owner, slash, name = model.partition("/")
    return bool(slash and owner and name) and "/" not in name and not model.startswith((".", "~"))


def _path_message(model: str) -> str | None:
    """Say "no such file" where a path was meant."""
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        return f"There is no such file or directory: {model!r}."
    if model.endswith((".pt", ".safetensors")):
        return f"There is no such file: {model!r}."
    return None
