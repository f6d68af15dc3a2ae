"""The modelling file inside a checkpoint: transformers runs the result without this package.

The file is the runtime's own source, as much of it as the checkpoint needs, in one module that
imports torch and transformers only. ``auto_map`` in config.json says which classes are in it.
``surgery.load`` never runs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.architectures.known import auto_classes
from surgery.carried.flatten import flatten
from surgery.carried.pieces import Wanted
from surgery.runtime.families import HOMES
from surgery.runtime.manifest import ABSORB_DECOMPOSE, COMPRESS, TRIM_VOCABULARY
from surgery.runtime.parts import LINEAR_METHODS, REGISTERED
from surgery.runtime.releases import NEWEST, OLDEST, RUNTIME
from surgery.version import VERSION

MODULE = "modeling_surgery"
FILE = f"{MODULE}.py"

HEADER = """A restructured {family} for transformers ({methods}).

Written by model-surgery {version} out of the source of its own runtime, as much of it as this
checkpoint needs. It needs nothing but torch and transformers (it was tested with
{oldest} to {newest}), which runs it where it is trusted:

    AutoModel.from_pretrained(directory, trust_remote_code=True)

``surgery.load(directory)`` does the same with the code of the installed package, and never runs
this file. Changes belong there: this file is generated, and `surgery refresh directory` renews it.

Runtime: {runtime}

SPDX-License-Identifier: Apache-2.0
"""
FOOTER = """# What auto_map in config.json names; registered, so that weights are saved with it:
# some releases of transformers do not see to that where they have a class of that name."""
_RUNTIME = re.compile(r"^Runtime: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class RemoteCode:
    """What a checkpoint carries to be run without this package.

    Attributes:
        source: Text of :data:`FILE`.
        auto_map: The entry of config.json that names its classes.
    """

    source: str
    auto_map: dict[str, str]


def place_code(config: dict[str, Any]) -> str | None:
    """Let ``auto_map`` in a config name what the result carries, and nothing that it does not.

    Code of a source never comes along with its weights, so its ``auto_map`` goes in any case.

    Args:
        config: The parsed config.json of the result; changed in place.

    Returns:
        The text of :data:`FILE`; ``None`` where the result carries none.
    """
    config.pop("auto_map", None)
    code = remote_code(config)
    if code is None:
        return None
    config["auto_map"] = code.auto_map
    return code.source


def runtime_of(source: str) -> int:
    """Return which runtime a :data:`FILE` is of; 1 where it is from before they were counted.

    One below :data:`~surgery.runtime.releases.RUNTIME` may run wrongly where this package does not.
    """
    found = _RUNTIME.search(source)
    return 1 if found is None else int(found[1])


def remote_code(config: Mapping[str, Any]) -> RemoteCode | None:
    """Return the modelling file of a checkpoint that operations are left in.

    Of one version of this package, the same family, classes and methods always give the same
    bytes.

    Args:
        config: The parsed config.json, with its ``surgery`` block.

    Returns:
        ``None`` where there is no such block, or nothing here runs a model of its family, or one
            of its methods is registered from elsewhere.
    """
    block = config.get("surgery") or {"operations": ()}
    methods = dict.fromkeys(operation["method"] for operation in block["operations"])
    narrow = any(one["method"] == COMPRESS and one["sites"] for one in block["operations"])
    if not narrow:
        methods.pop(COMPRESS, None)  # a stock model runs that
    methods.pop(TRIM_VOCABULARY, None)
    autos = auto_classes(config)
    family = config.get("model_type")
    pruned = ABSORB_DECOMPOSE in methods
    ours = REGISTERED.isdisjoint(methods) and (not pruned or family in HOMES)
    if not methods or not autos or not ours:
        return None
    wanted = Wanted(
        lazy=frozenset([HOMES[str(family)]] * pruned + ["narrow"] * narrow),
        keys=frozenset(methods),
        table=frozenset(LINEAR_METHODS) - REGISTERED,
        refusal=("errors", "LoadError"),
    )
    header = HEADER.format(
        family=family,
        methods=", ".join(methods),
        version=VERSION,
        oldest=OLDEST,
        newest=NEWEST,
        runtime=RUNTIME,
    )
    lines = [f"{name} = restructured_class(transformers.{name})" for name in {*autos.values()}]
    owners = {name: auto for auto, name in autos.items()}
    saved = [f'{name}.register_for_auto_class("{auto}")' for name, auto in owners.items()]
    footer = "\n".join([FOOTER, *sorted(lines), *sorted(saved)])
    source = flatten("surgery.runtime", ("model", "restructured_class"), wanted, header, footer)
    return RemoteCode(source, {auto: f"{MODULE}.{name}" for auto, name in autos.items()})
