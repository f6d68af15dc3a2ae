"""Where a run starts: what is to be trained of a checkpoint, and the base that carries it."""

from __future__ import annotations

import shlex

from surgery.choices.common import choice
from surgery.choices.parts import PARTS
from surgery.errors import UnsupportedModelError, UsageError
from surgery.runtime.manifest import ABSORB_DECOMPOSE
from surgery.stored.stored import Stored
from surgery.training.preparation import Preparation

PRUNED = "core"
"""What is trained of a pruned checkpoint without small parts, as in CLOVER's healing."""


def what_is_trained(stored: Stored, train: str | None) -> str:
    """Return the method: what the checkpoint carries, or what it is to be given.

    Raises:
        UsageError: Nobody says what, or the checkpoint carries something else already.
        UnsupportedModelError: The model is neither a causal language model nor a Whisper with a
            text head.
    """
    _check_learns(stored)
    choice("--train", train, (None, *PARTS))
    carried = sorted({linear.method for linear in stored.linears.values()})
    if not carried:
        if train is not None:
            return train
        if any(operation["method"] == ABSORB_DECOMPOSE for operation in stored.operations):
            return PRUNED
        raise UsageError(
            "This checkpoint has no small parts, so say what is to be trained",
            where=f"{stored.source.name}/config.json",
            expected="--train " + "|".join(PARTS),
        )
    if len(carried) == 1 and train in (None, carried[0]):
        return carried[0]
    merging = shlex.join(["surgery", "merge", stored.source.name, "--steps", "1"])
    raise UsageError(
        "A run trains one kind of small part, and the checkpoint carries "
        + ("several" if len(carried) > 1 else "another"),
        where=f"{stored.source.name}/config.json",
        found=", ".join(carried),
        expected=train,
        hint=f"merge one back first: {merging}",
    )


def _check_learns(stored: Stored) -> None:
    one, known = stored.claims.model_class, stored.family.classes
    if one is None or not one.predicts_next:
        raise UnsupportedModelError(
            "Only causal language models and Whisper can be tuned",
            where=f"{stored.source.name}/config.json: architectures",
            found="nothing" if one is None else one.name,
            expected=" or ".join(each.name for each in known if each.predicts_next),
        )


def carries_parts(stored: Stored, method: str) -> bool:
    """Whether the checkpoint itself is the base, because nothing has to be put into it."""
    return bool(stored.linears) or PARTS[method].command == "tune"


def lora_paths(stored: Stored, preparation: Preparation) -> list[str]:
    """Return the linear maps that LoRA is put on, all of them by default.

    Raises:
        UsageError: There is none.
    """
    targets, scope, layers = preparation.targets, preparation.scope, preparation.layers
    found = [
        one.path
        for one in stored.maps.values()
        if scope in ("all", one.scope)
        and (targets is None or set(one.roles) & set(targets))
        and (layers is None or one.layer in layers)
        and one.in_features
        and one.out_features  # not those of a block that has lost all of its neurons
    ]
    if not found:
        raise UsageError(
            "No linear map is in scope",
            where="--targets, --scope, --layers",
            found=", ".join(f"{name} {value}" for name, value in preparation.given().items()),
            expected=", ".join(dict.fromkeys(one.role for one in stored.maps.values())),
        )
    partly = [
        stored.maps[path] for path in found if set(stored.maps[path].roles) - {*(targets or ())}
    ]
    if targets is not None and partly:
        raise UsageError(
            f"A {stored.family.title} model stores {partly[0].role} as one fused map",
            where="--targets",
            found=",".join(targets),
            expected=f"all of {partly[0].role}, or none of them",
        )
    return found
