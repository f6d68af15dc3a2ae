"""What was given for one of PEFT's adapters and is none: what it is instead, and the way on."""

from __future__ import annotations

import re
from pathlib import Path

from surgery.checkpoint.directory import is_adapter
from surgery.errors import CheckpointError, first_few

CONFIG = "adapter_config.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_is_adapter(directory: Path) -> None:
    """Require a folder that PEFT saved an adapter in.

    Raises:
        CheckpointError: It is something else; says what, as far as can be seen.
    """
    if (directory / CONFIG).is_file():
        return
    message, found, hint = _instead(directory)
    raise CheckpointError(
        message,
        where=directory,
        found=found,
        expected=f"a folder with {CONFIG} and adapter_model.safetensors, as PEFT saves it",
        hint=hint,
    )


def _instead(directory: Path) -> tuple[str, str | None, str]:
    if not directory.exists():
        named = _HUB_NAME.fullmatch(str(directory))
        fetch = f"if it is on a hub, fetch it first: hf download {directory} --local-dir adapter"
        return "There is no such adapter", None, fetch if named else "look for a slip in the path"
    if not directory.is_dir():
        return "An adapter is a folder, and this is a file", None, f"give {directory.parent}"
    if is_adapter(directory):
        found = "adapter.json, which surgery itself wrote"
        hint = f"surgery merge {directory} makes one checkpoint of it and its base"
        return "This adapter needs no import", found, hint
    if (directory / "config.json").is_file():
        hint = "the model comes first: surgery import MODEL --adapter ADAPTER"
        return "This is a model, and no adapter", "config.json", hint
    below = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG}"))
    if below:
        return "The folder holds no adapter, but its subfolders do", first_few(below), "give one"
    names = sorted(path.name for path in directory.iterdir())
    hint = "save the adapter again with PEFT's save_pretrained, or fetch all of it"
    return "The folder holds no adapter", first_few(names) or "nothing", hint
