"""Checkpoints on the Hugging Face hub: one set of weights, or the headers alone.

Only the one safetensors set that a transformers user would load, the config, and the files that
come along with the weights are fetched; a repository's other precisions and frameworks stay there.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from surgery.checkpoint.directory import (
    INDEX,
    SINGLE,
    DirectorySource,
    index_shards,
    read_config,
    read_json,
)
from surgery.checkpoint.disk import FULL
from surgery.checkpoint.header import TensorInfo, layout
from surgery.checkpoint.names import unknown_name
from surgery.checkpoint.sidecars import LARGEST, sort_out
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError, ModelNotFoundError, TargetError


class HubHeaders(TensorSource):
    """A hub checkpoint of which only config and safetensors headers were fetched.

    Every :class:`TensorInfo` counts its offset from the end of the header.
    """

    remote = True

    def __init__(self, repo: str, config: dict[str, Any], infos: dict[str, TensorInfo]) -> None:
        super().__init__(repo, None, config, infos, {"format": "pt"})

    def tensor(self, name: str) -> torch.Tensor:
        """Raise: there are no tensors here."""
        self._refuse(name)

    def raw(self, name: str) -> memoryview:
        """Raise: there are no tensors here."""
        self._refuse(name)

    def files(self) -> list[Path]:
        """None."""
        return []

    def identity(self) -> dict[str, Any]:
        """Name and config: nothing is made from a source without tensors."""
        return {"name": self.name, "config": self.config, "files": {}}

    def sidecars(self) -> list[Path]:
        """None."""
        return []

    def write_sidecars(self, directory: Path) -> list[str]:  # noqa: ARG002 (the interface)
        """Write nothing."""
        return []

    def _refuse(self, name: str) -> NoReturn:
        raise CheckpointError(
            "Only the headers of this checkpoint were fetched.",
            where=f"{self.name}: {name}",
            hint="download the weights first",
        )


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    headers_only: bool = False,
    cache_dir: Path | None = None,
) -> TensorSource:
    """Download what is needed of a repository, or take it from the cache when offline.

    Args:
        repo: Hub id, ``owner/name``.
        revision: Branch, tag or commit; default the main branch.
        headers_only: Fetch no weights, only what says their shapes.
        cache_dir: The hub client's cache; default where it always is.

    Raises:
        ModelNotFoundError: No such repository or revision, no access to it, or no network
            and nothing in the cache.
        CheckpointError: It holds no safetensors, or what was fetched is damaged.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo, revision, cache_dir, "the hub client is set to work offline")
    try:
        with _explained(repo, revision):
            files = _list_files(repo, revision)
            _require_safetensors(repo, files)
            if headers_only:
                return _headers(repo, revision, cache_dir)
            return _download(repo, revision, cache_dir, files)
    except _UnreachableError as error:
        return _from_cache(repo, revision, cache_dir, str(error))


def _list_files(repo: str, revision: str | None) -> dict[str, int]:
    """Return the bytes of every file."""
    import huggingface_hub

    # One request: list_repo_files would retry for half a minute where there is no network.
    info = huggingface_hub.HfApi().model_info(
        repo, revision=revision, timeout=10, files_metadata=True
    )
    # What has no size is not taken for small.
    return {
        sibling.rfilename: LARGEST + 1 if sibling.size is None else sibling.size
        for sibling in info.siblings or []
    }


def _download(
    repo: str, revision: str | None, cache_dir: Path | None, files: dict[str, int]
) -> DirectorySource:
    import huggingface_hub

    wanted = ["config.json", *sort_out(files).carried]
    if SINGLE in files:
        wanted.append(SINGLE)
    else:
        index = Path(
            huggingface_hub.hf_hub_download(repo, INDEX, revision=revision, cache_dir=cache_dir)
        )
        wanted += [INDEX, *sorted(set(index_shards(read_json(index), f"{repo}: {INDEX}").values()))]
    snapshot = huggingface_hub.snapshot_download(
        repo,
        revision=revision,
        cache_dir=cache_dir,
        allow_patterns=[glob.escape(file) for file in wanted],
    )
    return DirectorySource(Path(snapshot), name=repo)


def _headers(repo: str, revision: str | None, cache_dir: Path | None) -> HubHeaders:
    import huggingface_hub

    config = huggingface_hub.hf_hub_download(
        repo, "config.json", revision=revision, cache_dir=cache_dir
    )
    fetched = huggingface_hub.HfApi().get_safetensors_metadata(repo, revision=revision)
    infos: dict[str, TensorInfo] = {}
    for file in sorted(fetched.files_metadata):
        entries = {
            name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": list(tensor.data_offsets),
            }
            for name, tensor in fetched.files_metadata[file].tensors.items()
        }
        infos |= layout(entries, start=0, size=None, file=file, where=f"{repo}: {file}")
    return HubHeaders(repo, read_config(Path(config)), infos)


def _from_cache(
    repo: str, revision: str | None, cache_dir: Path | None, reason: str
) -> DirectorySource:
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(
        repo, "config.json", cache_dir=cache_dir, revision=revision
    )
    if not isinstance(config, str):
        raise ModelNotFoundError(
            "The model is not on this machine, and the hub cannot be reached.",
            where=repo,
            found=reason,
            hint="connect (or unset HF_HUB_OFFLINE) and run again, or give a directory",
        )
    try:
        return DirectorySource(Path(config).parent, name=repo)
    except CheckpointError as error:
        raise CheckpointError(
            "The copy of the model on this machine is incomplete, and the hub cannot be reached.",
            where=repo,
            found=f"{error.message} ({error.expected or error.found})",
            hint="connect (or unset HF_HUB_OFFLINE) and run again",
        ) from error


def _require_safetensors(repo: str, files: Collection[str]) -> None:
    if SINGLE in files or INDEX in files:
        return
    weights = (".bin", ".safetensors", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
    found = [file for file in files if file.endswith(weights)]
    raise CheckpointError(
        "The repository has no safetensors set that can be read.",
        where=repo,
        found=", ".join(found[:6]) or "no weights",
        expected=f"{SINGLE}, or {INDEX} with its shards",
        hint="pickled weights are never opened here: convert them with transformers, in a place "
        "you trust them, and give the directory",
    )


class _UnreachableError(Exception):
    """The hub did not answer; the message says how."""


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            "Access to this model is granted by its owner, and this machine has none.",
            where=repo,
            hint=f"accept the terms on the page of {repo}, then log in with `hf auth login` "
            "(or set HF_TOKEN), and run again",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            "The repository has no such revision.", where=repo, found=revision
        ) from error
    except errors.RepositoryNotFoundError as error:
        message = f"The hub has no repository {repo!r}, or it is private and you are not logged in."
        raise unknown_name(repo, message) from error
    except errors.HFValidationError as error:
        raise unknown_name(repo) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise _UnreachableError(str(error).splitlines()[0]) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            "The repository lacks a file.", where=repo, found=str(error).splitlines()[0]
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise TargetError(
                "The disk filled up while the model was fetched.",
                where=repo,
                found=error.strerror,
                hint="free some space, or point HF_HOME at another disk, and run again",
            ) from error
        if isinstance(error, OSError) or is_transport(error):
            raise _UnreachableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        raise


def is_transport(error: Exception) -> bool:
    """Whether an error is of the hub client's HTTP library: its own affair, and renamed before."""
    # httpx in one release, httpx2 in another.
    return any(kind.__module__.startswith("httpx") for kind in type(error).__mro__)
