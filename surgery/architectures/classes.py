"""Which of transformers' model classes a checkpoint is, and whether it is whole as one of them.

transformers fills what a file lacks with random numbers, and leaves out what a class has no place
for. So a checkpoint that is not exactly one of its family's classes is refused before anything is
made of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any

from surgery.architectures.base import Architecture, ModelClass, Shape
from surgery.architectures.config import Config, value
from surgery.errors import CheckpointError, first_few

SHOWN = 3  # names in a message before it says how many more there are


def class_of(
    family: Architecture, config: Config, names: Collection[str], prefix: str, *, where: str
) -> ModelClass | None:
    """Return the class that config.json names, or else the first that has what is stored.

    Args:
        family: The family.
        config: The parsed configuration.
        names: Every tensor of the checkpoint but those of small parts.
        prefix: What its body's tensors carry in front.
        where: The checkpoint's name, for messages.

    Returns:
        ``None`` where the family's data lists no classes.

    Raises:
        CheckpointError: No class is named, and the tensors are those of none.
    """
    known = {one.name: one for one in family.classes}
    for name in names_of(getattr(config, "architectures", None)):
        if name in known:
            return known[name]
    if not known:
        return None
    beside = {name for name in map(_today, names) if not _is_body(family, name, prefix)}
    towers = {tower for tower in family.towers if _has(family, tower, names, prefix)}
    useless = {name for name in beside if matches(name, family.ignored, prefix)}
    for extra in (set(), useless):
        for one in family.classes:
            allowed = {place(name, prefix) for name in _beside(family, one, config)}
            needed = {name for name in allowed if not _tied(one, config, name, names, prefix)}
            if (
                towers == set(family.towers) - {*one.without}
                and needed <= beside - extra <= allowed
            ):
                return one
    raise CheckpointError(
        "config.json names no model class, and the tensors are those of none",
        where=where,
        found=first_few(sorted(beside), SHOWN) if beside else "a body without a head",
        expected="those of " + ", ".join(known),
        hint='name the class in config.json: "architectures": ["' + next(iter(known)) + '"]',
    )


def names_of(named: Any) -> list[str]:
    """Return the classes that config.json names under ``architectures``."""
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def check_whole(
    family: Architecture,
    config: Config,
    one: ModelClass | None,
    names: Collection[str],
    prefix: str,
    attention: Collection[str],
    *,
    where: str,
) -> None:
    """Require every tensor of the class beside attention, and none that it has no place for.

    Raises:
        CheckpointError: Names them.
    """
    stored, attention = set(map(_today, names)), set(attention)
    needed = {place(name, prefix) for name in expected(family, config, one)}
    lacking = sorted(needed - stored)
    if one is not None:
        lacking = [name for name in lacking if not _tied(one, config, name, names, prefix)]
    title = f"a {family.title} model" if one is None else one.name
    if lacking:
        more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise CheckpointError(
            f"Tensor {lacking[0]} is missing{more}",
            where=where,
            expected=f"every tensor of {title}: transformers fills in random numbers for the rest",
            hint=_remedy(family, one, lacking, prefix),
        )
    spare = [
        name
        for name in stored - needed - attention
        if one is not None and not matches(name, family.ignored, prefix)
    ]
    if spare:
        raise CheckpointError(
            "The checkpoint holds tensors that its model class has no place for",
            where=where,
            found=first_few(sorted(spare), SHOWN),
            expected=f"those of {title}, by architectures in config.json",
            hint="name the class in architectures that these tensors are of, or remove them",
        )


def expected(family: Architecture, config: Config, one: ModelClass | None) -> dict[str, Shape]:
    """Return every tensor beside attention that a class has, below the prefix, with its shape."""
    without = () if one is None else one.without
    found: dict[str, Shape] = {}
    for template, shape in family.tensors.items():
        if _depends(family, template, config) and not in_towers(family, template, without):
            found |= dict.fromkeys(_each_layer(family, template, config), shape)
    return found if one is None else found | _beside(family, one, config)


def sizes(shape: Shape, config: Config) -> tuple[int, ...] | None:
    """Return a shape in numbers; ``None`` where the configuration does not say them all."""
    known = tuple(size for one in shape if (size := value(config, one)) is not None)
    return known if len(known) == len(shape) else None


def place(name: str, prefix: str) -> str:
    """Return the whole name of a tensor or pattern that is told below the prefix."""
    return name[1:] if name.startswith("/") else prefix + name


def matches(name: str, globs: Collection[str], prefix: str) -> bool:
    """Whether a tensor is one of these patterns."""
    return any(fnmatchcase(name, place(glob, prefix)) for glob in globs)


def in_towers(family: Architecture, path: str, towers: Collection[str]) -> bool:
    """Whether a path below the prefix is in one of these towers."""
    return any(fnmatchcase(path, family.towers[tower]) for tower in towers)


def _today(name: str) -> str:
    """Return what transformers makes of a norm's names from the time of TensorFlow."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.replace(old, new)
    return name


def _beside(family: Architecture, one: ModelClass, config: Config) -> dict[str, Shape]:
    return {n: shape for n, shape in one.beside.items() if _depends(family, n, config)}


def _depends(family: Architecture, name: str, config: Config) -> bool:
    return name not in family.when or bool(getattr(config, family.when[name], False))


def _each_layer(family: Architecture, template: str, config: Config) -> Iterator[str]:
    start, layered, _ = template.partition("{layer}")
    if not layered:
        yield template
        return
    kind = next(kind for kind in family.attentions if kind.path.partition("{layer}")[0] == start)
    for layer in range(int(getattr(config, kind.layers))):
        yield template.replace("{layer}", str(layer))


def _is_body(family: Architecture, name: str, prefix: str) -> bool:
    templates = (*family.tensors, *(f"{kind.path}.*" for kind in family.attentions))
    globs = [template.replace("{layer}", "*") for template in templates]
    return matches(name, [*globs, *(g for each in family.linears.values() for g in each)], prefix)


def _has(family: Architecture, tower: str, names: Collection[str], prefix: str) -> bool:
    return any(fnmatchcase(name, prefix + family.towers[tower]) for name in names)


def _tied(one: ModelClass, config: Config, name: str, names: Collection[str], prefix: str) -> bool:
    """Whether a tensor need not be stored: what it is tied to, in either direction, is."""
    if not getattr(config, "tie_word_embeddings", False):
        return False
    pairs = [(place(a, prefix), place(b, prefix)) for a, b in one.tied.items()]
    return any((name == a and b in names) or (name == b and a in names) for a, b in pairs)


def _remedy(
    family: Architecture, one: ModelClass | None, lacking: Collection[str], prefix: str
) -> str:
    ways = []
    if one is not None and {*lacking} <= {
        place(n, prefix) for pair in one.tied.items() for n in pair
    }:
        ways = ['"tie_word_embeddings": true where the output layer is the embedding']
    if one is not None and not any(_is_body(family, name, prefix) for name in lacking):
        bodies = [each.name for each in family.classes if not each.beside and not each.without]
        ways += [f'"architectures": ["{name}"] where there is no head' for name in bodies]
    if ways:
        return "in config.json, " + ", or ".join(ways)
    return "fetch the checkpoint anew, or use the config.json that belongs to it"
