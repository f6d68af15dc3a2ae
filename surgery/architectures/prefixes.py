"""What stands in front of a checkpoint's tensor names, and which wrappers leave something there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from surgery.architectures.base import Architecture
from surgery.errors import CheckpointError

WRAPPERS: Mapping[str, str] = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel, DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
    "base_layer": "PEFT",
    "base_model": "PEFT",
}
"""What a module is called inside a wrapper, and whose that is."""


def find_prefix(family: Architecture, names: Collection[str], *, where: str) -> str:
    """Return the tensor-name prefix this checkpoint of ``family`` carries.

    Raises:
        CheckpointError: No attention tensor is found under any known prefix.
    """
    probes = [f"{kind.path.format(layer=0)}.{kind.q.module}.weight" for kind in family.attentions]
    _refuse_wrapped(family, names, where)
    for prefix in family.prefixes:
        if any(prefix + probe in names for probe in probes):
            return prefix
    ends = [(name, probe) for name in names for probe in probes if name.endswith(f".{probe}")]
    for name, probe in ends:
        raise CheckpointError(
            f"The tensors' names carry more than a {family.title} model's do",
            where=where,
            found=name,
            expected=" or ".join(prefix + probe for prefix in family.prefixes),
            hint=f"take {name.removesuffix(probe)!r} out of every tensor's name, or what of it is "
            "too much",
        )
    raise CheckpointError(
        f"No {family.title} attention found in this checkpoint",
        where=where,
        found=", ".join(sorted(names)[:3]) + ", …",
        expected=family.prefixes[0] + probes[0],
        hint="config.json and the weights seem to belong to different models",
    )


def _refuse_wrapped(family: Architecture, names: Collection[str], where: str) -> None:
    """Refuse names of modules inside wrappers, however many of them are.

    Raises:
        CheckpointError: With the part that is too much, and whose it is.
    """
    for name in names:
        wrapped = list(dict.fromkeys(word for word in name.split(".") if word in WRAPPERS))
        if wrapped:
            raise CheckpointError(
                f"The tensors' names carry more than a {family.title} model's do",
                where=where,
                found=name,
                expected=".".join(word for word in name.split(".") if word not in WRAPPERS),
                hint=_unwrap(wrapped),
            )


def _unwrap(wrapped: Collection[str]) -> str:
    words = " and ".join(f"'{word}.'" for word in wrapped)
    owners = ", ".join(dict.fromkeys(WRAPPERS[word] for word in wrapped))
    return (
        f"save the model that is inside the wrapper, or take {words} out of every tensor's name: "
        f"that is left by {owners}"
    )
