"""From a family and a checkpoint's claims to concrete feed-forward blocks, and the seam of each.

A plain block is ``y = D act(W x)`` (Whisper, BERT, GPT-2), a gated one ``y = D (act(G x) ⊙ (W x))``
(the LLaMA kind), each map with a bias or without: W is ``up``, G ``gate``, D ``down``. Between
them stand the block's *neurons*. One that goes takes a row of up and of gate with it, their biases'
entries, and a column of down. Which tensors play which role a family says by its ``linears``;
nothing is added to it for this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from surgery.architectures.base import Architecture, FeedForwardRole, Scope, StoredProjection
from surgery.architectures.classes import expected, place, sizes
from surgery.architectures.config import Config
from surgery.architectures.linears import layer_of, tower_of
from surgery.architectures.seams import Seam
from surgery.architectures.sites import Claims
from surgery.errors import CheckpointError

SEAM = "ffn"


@dataclass(frozen=True)
class FeedForwardSite:
    """One feed-forward block of one checkpoint, at its dense shape.

    Attributes:
        path: Path of the smallest module that holds the block, as the checkpoint spells it:
            ``model.layers.0.mlp``; the layer's where a block has no module of its own (Whisper,
            BERT).
        scope: The tower it is in.
        layer: Its layer.
        neurons: f.
        width: Model width d.
        gate: The gate's map; ``None`` in a plain block.
        up: The other map into the neurons.
        down: The map out of them.
    """

    path: str
    scope: Scope
    layer: int
    neurons: int
    width: int
    gate: StoredProjection | None
    up: StoredProjection
    down: StoredProjection

    def projections(self) -> dict[FeedForwardRole, StoredProjection]:
        """Return its maps by role, in the order a block computes them."""
        plain: dict[FeedForwardRole, StoredProjection] = {"up": self.up, "down": self.down}
        return plain if self.gate is None else {"gate": self.gate, **plain}

    def axes(self) -> dict[str, tuple[int, int]]:
        """Return which axis of each of its tensors is its neurons', and how often they lie there.

        Twice where gate and up are fused, first all of the gate's. The bias of down has none.
        """
        found: dict[str, tuple[int, int]] = {}
        for role, stored in self.projections().items():
            outputs = role != "down"
            axis = int(outputs == stored.transposed)
            found[stored.weight] = axis, found.get(stored.weight, (axis, 0))[1] + 1
            if outputs and stored.bias is not None:
                found[stored.bias] = 0, found[stored.weight][1]
        return found

    def at(self, neurons: int) -> FeedForwardSite:
        """Return this block with another number of neurons."""
        gate = self.gate and replace(self.gate, out_features=neurons)
        up, down = replace(self.up, out_features=neurons), replace(self.down, in_features=neurons)
        return replace(self, neurons=neurons, gate=gate, up=up, down=down)

    def tensors(self) -> tuple[str, ...]:
        """Names of every tensor of this block, once, in the order of :meth:`projections`."""
        every = (name for each in self.projections().values() for name in (each.weight, each.bias))
        return tuple(dict.fromkeys(name for name in every if name is not None))


def feed_forward_sites(
    family: Architecture, config: Config, claims: Claims, *, where: str = "config.json"
) -> tuple[FeedForwardSite, ...]:
    """Return every feed-forward block of a checkpoint, by tower, then by layer.

    Args:
        family: The family.
        config: The parsed configuration.
        claims: Roles of the checkpoint's tensors.
        where: The configuration's name, for messages.

    Raises:
        CheckpointError: The configuration does not say how wide a block is, or maps of a block do
            not fit together.
    """
    shapes = {
        place(name, claims.prefix): sizes(shape, config)
        for name, shape in expected(family, config, claims.model_class).items()
    }
    layers: dict[tuple[Scope, int], dict[str, str]] = {}
    for name, roles in claims.linears.items():
        for role in roles if name.endswith(".weight") else ():
            layers.setdefault((tower_of(claims, name), layer_of(name)), {})[role] = name
    transposed = family.attentions[0].o.transposed  # a family stores all its maps one way
    towers = [*dict.fromkeys(kind.scope for kind in family.attentions)]
    ordered = sorted(layers, key=lambda each: (towers.index(each[0]), each[1]))
    return tuple(
        _site(*each, layers[each], claims.linears, shapes, transposed, where) for each in ordered
    )


def width_keys(
    family: Architecture, config: Config, claims: Claims, sites: Iterable[FeedForwardSite]
) -> dict[Scope, str]:
    """Return where config.json says the width of each tower's blocks."""
    told = expected(family, config, claims.model_class)
    keys: dict[Scope, str] = {}
    for site in sites:
        axis, _ = site.axes()[site.down.weight]
        name = str(told[site.down.weight.removeprefix(claims.prefix)][axis])
        keys[site.scope] = family.aliases.get(name, name)
    return keys


def at_widths(
    shapes: Mapping[str, tuple[int, ...]],
    sites: Iterable[FeedForwardSite],
    widths: Mapping[str, int],
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors once blocks have other numbers of neurons.

    Args:
        shapes: Of every tensor.
        sites: The blocks.
        widths: Neurons by the path of the block; those that are absent stay as they are.
    """
    after = dict(shapes)
    for site in sites:
        for name, (axis, times) in site.axes().items() if site.path in widths else ():
            shape = after[name]
            after[name] = (*shape[:axis], times * widths[site.path], *shape[axis + 1 :])
    return after


def feed_forward_seam(site: FeedForwardSite) -> Seam:
    """Return the seam between up (and gate) and down: neurons are selected, and down refitted."""
    *writers, _ = site.projections()
    return Seam(
        name=SEAM,
        groups=1,
        width=site.neurons,
        step=1,
        least=0,
        mixes=False,
        why_not=None,
        writers=tuple(writers),
        readers=("down",),
        cost=site.width + sum(site.width + (each.bias is not None) for each in _into(site)),
    )


def _into(site: FeedForwardSite) -> list[StoredProjection]:
    return [each for role, each in site.projections().items() if role != "down"]


def _site(
    scope: Scope,
    layer: int,
    names: Mapping[str, str],
    biases: Collection[str],
    shapes: Mapping[str, tuple[int, ...] | None],
    transposed: bool,
    where: str,
) -> FeedForwardSite:
    stored: dict[str, StoredProjection] = {}
    for role, weight in names.items():
        shape = shapes.get(weight)
        if shape is None or len(shape) != 2:
            raise CheckpointError(
                f"The configuration does not say the shape of {weight}",
                where=where,
                expected="the width of every feed-forward block",
                hint="compare the file with the one of the original model",
            )
        rows, columns = shape[::-1] if transposed else shape
        rows //= [*names.values()].count(weight)  # a share each, where gate and up are fused
        module = weight.removesuffix(".weight")
        bias = f"{module}.bias"
        stored[role] = StoredProjection(
            weight, bias if bias in biases else None, rows, columns, transposed=transposed
        )
    down, up, gate = stored.get("down"), stored.get("up"), stored.get("gate")
    fits = down is not None and up is not None and up.out_features == down.in_features
    if down is None or up is None or not fits or (gate and gate.out_features != up.out_features):
        raise CheckpointError(
            f"The feed-forward block of layer {layer} ({scope}) is not whole",
            where=where,
            found=", ".join(f"{role} {names[role]}" for role in sorted(names)),
            expected="maps into its neurons (up, or gate and up) and out of them (down)",
        )
    return FeedForwardSite(
        path=_common(list(names.values())),
        scope=scope,
        layer=layer,
        neurons=down.in_features,
        width=down.out_features,
        gate=gate,
        up=up,
        down=down,
    )


def _common(names: list[str]) -> str:
    """Return the path of the smallest module that holds all of these tensors."""
    shared = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
