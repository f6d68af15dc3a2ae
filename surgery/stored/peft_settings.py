"""What ``adapter_config.json`` says of the tensors beside it, held to what they are.

PEFT builds the modules that the configuration names, and then fills them: tensors of other modules
are left out without an error. So an adapter whose configuration does not cover its tensors is none
that PEFT would run as it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any

from surgery.errors import CheckpointError
from surgery.runtime.entries import is_single

TEXT, NUMBER, SWITCH, TABLE = (str,), (int, float), (bool,), (dict,)
NAMES = (str, list)
SELECTING = ("target_modules", "exclude_modules", "layers_to_transform")

KINDS: Mapping[str, tuple[type, ...]] = {
    "alpha_pattern": TABLE,
    "apply_GS": SWITCH,
    "auto_mapping": TABLE,
    "base_model_name_or_path": TEXT,
    "corda_config": TABLE,
    "ensure_weight_tying": SWITCH,
    "eva_config": TABLE,
    "exclude_modules": NAMES,
    "fan_in_fan_out": SWITCH,
    "inference_mode": SWITCH,
    "init_lora_weights": (bool, str),
    "init_weights": SWITCH,
    "layers_pattern": NAMES,
    "layers_to_transform": (int, list),
    "loftq_config": TABLE,
    "lora_alpha": NUMBER,
    "lora_dropout": NUMBER,
    "lora_ga_config": TABLE,
    "megatron_core": TEXT,
    "peft_type": TEXT,
    "peft_version": TEXT,
    "qalora_group_size": (int,),
    "r": (int,),
    "rank_pattern": TABLE,
    "revision": TEXT,
    "target_modules": NAMES,
    "task_type": TEXT,
    "use_rslora": SWITCH,
}
"""Settings that are understood, or do not change what is computed, by their types."""


def check_kinds(config: Mapping[str, Any], where: object) -> None:
    """Require of every known setting a value of its type, or null.

    Raises:
        CheckpointError: Names the setting.
    """
    for key, value in config.items():
        kinds = KINDS.get(key)
        # To Python, a bool is an int.
        wrong = isinstance(value, bool) and kinds is not None and bool not in kinds
        if value is not None and kinds is not None and (wrong or not isinstance(value, kinds)):
            raise _refused(key, value, where, " or ".join(kind.__name__ for kind in kinds))
    numbers = {key: config.get(key) for key, kinds in KINDS.items() if kinds == NUMBER}
    for key in ("alpha_pattern", "rank_pattern"):
        numbers |= {f"{key}: {path}": value for path, value in (config.get(key) or {}).items()}
    for key, value in numbers.items():
        if value is None and ": " not in key:
            continue
        if isinstance(value, bool) or not (isinstance(value, int | float) and is_single(value)):
            raise _refused(key, value, where, "a finite number of single precision")
    if not 0 <= (config.get("lora_dropout") or 0) <= 1:
        raise _refused("lora_dropout", config["lora_dropout"], where, "a number from 0 to 1")
    for key, kinds in KINDS.items():
        entries = config.get(key)
        if isinstance(entries, list):
            expected = int if int in kinds else str
            if any(type(entry) is not expected for entry in entries):
                raise _refused(key, entries, where, f"a list of {expected.__name__}")


def check_covers(config: Mapping[str, Any], stored: Iterable[str], where: object) -> None:
    """Require that the configuration builds every module that has tensors.

    Args:
        config: ``adapter_config.json``, checked by :func:`check_kinds`.
        stored: Paths of the modules that have.
        where: The file, for messages.

    Raises:
        CheckpointError: Says which module is left out, by which setting.
    """
    layers, pattern = config.get("layers_to_transform"), config.get("layers_pattern")
    if pattern and layers is None:
        raise _refused("layers_pattern", pattern, where, "layers_to_transform beside it")
    if config.get("target_modules") is None:  # PEFT takes what it thinks usual for the family
        raise _refused("target_modules", None, where, "the modules that the tensors are of")
    for path in stored:
        for setting in SELECTING:
            if targets(config, path, setting) is False:
                raise _refused(
                    setting, config[setting], where, f"what has {path} among the modules"
                )


def check_complete(
    config: Mapping[str, Any], paths: Iterable[str], stored: Collection[str], where: object
) -> None:
    """Require tensors of every map of the model that the configuration names.

    Args:
        config: As of :func:`check_covers`.
        paths: Every linear map of the model.
        stored: Those that the adapter has tensors of.
        where: The adapter, for messages.

    Raises:
        CheckpointError: Names one that has none.
    """
    for path in paths:
        named = [targets(config, path, setting) for setting in SELECTING]
        if path not in stored and named[0] and False not in named:
            raise CheckpointError(
                "The adapter lacks the tensors of a module that its configuration names",
                where=where,
                found=f"no tensors of {path}",
                expected=f"target_modules = {config['target_modules']!r}"[:300],
                hint="save the adapter again, or fetch all of it",
            )


def targets(config: Mapping[str, Any], path: str, setting: str) -> bool | None:
    """Whether PEFT builds a module at a path as far as one setting says; ``None``: it does not say.

    A single text is a regular expression to PEFT, or a word for all maps: none to run here.
    """
    names = config.get(setting)
    if setting == "layers_to_transform":
        chosen = [names] if isinstance(names, int) else names
        return _layer(path, config.get("layers_pattern")) in chosen if chosen else None
    if not names or isinstance(names, str):
        return None
    within = any(_is_end(path, name) for name in names)
    return not within if setting == "exclude_modules" else within


def _layer(path: str, pattern: str | list[str] | None) -> int | None:
    """Return the layer that PEFT finds in a path: its first number, or that behind a pattern."""
    names = [pattern] if isinstance(pattern, str) else pattern or []
    parts = path.split(".")
    for before, part in pairwise(parts):
        if part.isdecimal() and (not names or before in names):
            return int(part)
    return None


def _is_end(path: str, words: str) -> bool:
    return path == words or path.endswith(f".{words}")


def _refused(key: str, found: object, where: object, expected: str) -> CheckpointError:
    return CheckpointError(
        "The adapter's configuration does not belong to its tensors",
        where=where,
        found=f"{key} = {found!r}"[:300],
        expected=expected,
        hint="give the adapter_config.json that PEFT saved with these tensors",
    )
