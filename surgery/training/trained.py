"""What is trained: everything is frozen but the small parts, and what is asked for beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from surgery.errors import CheckpointError
from surgery.runtime.linears import PartedLinear
from surgery.runtime.spelling import spelled_in
from surgery.stored.stored import Stored
from surgery.training.options import Also

Parameters = dict[str, nn.Parameter]


def parted_linears(model: nn.Module) -> dict[str, Any]:
    """Return every linear map with a small part, by its path in the model."""
    return {name: one for name, one in model.named_modules() if isinstance(one, PartedLinear)}


def freeze(model: nn.Module, *, also: Sequence[Also] = ()) -> Parameters:
    """Freeze a model but for its small parts, and return what is trained, by name.

    Args:
        model: The model.
        also: ``biases``, ``norms``: trained beside them.

    Returns:
        The parameters that gradients reach, by their names in the model.
    """
    model.requires_grad_(False)
    parts = (part for one in parted_linears(model).values() for part in one.parts().values())
    for parameter in (*parts, *_beside(model, also)):
        parameter.requires_grad_(True)
    return trained(model)


def trained(model: nn.Module) -> Parameters:
    """Return the parameters that are trained, by name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def _beside(model: nn.Module, also: Collection[Also]) -> Iterator[nn.Parameter]:
    for module in model.modules():
        norm = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
        for name, parameter in module.named_parameters(recurse=False):
            if ("norms" in also and norm) or ("biases" in also and not norm and name == "bias"):
                yield parameter


def names_in_file(
    model: nn.Module, parameters: Parameters, known: Collection[str]
) -> list[tuple[nn.Parameter, list[str]]]:
    """Return every name that a checkpoint has for each parameter of a model.

    An output layer that is tied to the embedding is one parameter with two names, of which a file
    holds either or both: all of them must change with it.

    Args:
        model: The model.
        parameters: Some of its parameters, by a name of each.
        known: Every tensor of the checkpoint.

    Raises:
        CheckpointError: The checkpoint has no such tensor.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    prefix = str(getattr(model, "base_model_prefix", ""))
    found = []
    for name, parameter in parameters.items():
        every = (spelled_in(known, one, prefix) for one in aliases[id(parameter)])
        spelled = [one for one in every if one is not None]
        if not spelled:
            raise _unnamed(name)
        found.append((parameter, spelled))
    return found


def stored_names(names: Sequence[str], known: Collection[str], prefix: str) -> dict[str, str]:
    """Return what a checkpoint calls each parameter of a model, or the other way about.

    Args:
        names: As one side spells them.
        known: Every name of the other side.
        prefix: ``base_model_prefix`` of the model.

    Raises:
        CheckpointError: The other side has no such tensor.
    """
    found = {}
    for name in names:
        match = spelled_in(known, name, prefix)
        if match is None:
            raise _unnamed(name)
        found[name] = match
    return found


def _unnamed(name: str) -> CheckpointError:
    return CheckpointError(
        "Model and checkpoint do not name the same parameters",
        where=name,
        found="no such tensor",
    )


def stored_paths(carried: Stored, model: Any, paths: Iterable[str]) -> dict[str, str]:
    """Return what a checkpoint calls each of a model's linear maps."""
    weights = [f"{path}.weight" for path in paths]
    names = stored_names(weights, carried.source.infos, model.base_model_prefix)
    return {one.removesuffix(".weight"): n.removesuffix(".weight") for one, n in names.items()}
