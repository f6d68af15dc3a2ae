"""Verify: how far a result is from its original, head by head and on real input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surgery.architectures import AttentionSite
from surgery.architectures.ranks import SiteRanks
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.engine.block import read_ranks
from surgery.engine.measure import measure
from surgery.engine.merge import check_stored
from surgery.engine.pack import read_site
from surgery.engine.plan import describe
from surgery.errors import CheckpointError
from surgery.events import Event, Progress, ignore
from surgery.linalg import product_error
from surgery.methods import AttentionWeights, prepare
from surgery.report.model import Measurement


@dataclass(frozen=True)
class SiteVerification:
    """Relative Frobenius error of each head's products in one block, in float64.

    ``output_bias`` is the relative difference of o's bias once v's has been moved into it.
    """

    path: str
    qk: list[float]
    vo: list[float]
    output_bias: float


@dataclass(frozen=True)
class Verification:
    """Everything :func:`verify` found.

    ``changed`` names tensors outside attention that differ in any bit; surgery never touches
    those (a cast to another dtype does).
    """

    original: str
    result: str
    sites: list[SiteVerification]
    changed: list[str]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The largest error of any head's product."""
        return max((e for site in self.sites for e in (*site.qk, *site.vo)), default=0.0)


def verify(
    original: str | Path,
    result: str | Path,
    *,
    data: str | Path | None = None,
    weights_only: bool = False,
    progress: Progress = ignore,
) -> Verification:
    """Compare a result (restructured, merged or dense) with its original.

    Args:
        original: The model before.
        result: The checkpoint after; any dtype.
        data: Audio folder or text file; by default what the package ships.
        weights_only: Leave out the run on real input.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        CheckpointError: The two are not the same model.
    """
    with resolve(str(original)) as before, resolve(str(result)) as after:
        sites, old_ranks = _open(before)
        new_sites, new_ranks = _open(after)
        _check_same_model(before, sites, after, new_sites)
        found = []
        for index, (path, site) in enumerate(sites.items()):
            progress(Event("Comparing heads", index, len(sites), path))
            old = read_site(before.tensor, site, old_ranks.get(path))
            new = read_site(after.tensor, site, new_ranks.get(path))
            found.append(_compare(site, old, new))
        progress(Event("Comparing heads", len(sites), len(sites)))
        attention = {name for site in sites.values() for name in site.tensors()}
        changed = [
            name
            for name in before.infos
            if name not in attention
            and (
                before.infos[name].dtype != after.infos[name].dtype
                or not _same_bytes(before.raw(name), after.raw(name))
            )
        ]
        measured: list[Measurement] = []
        if not weights_only and after.directory is not None:
            measured = measure(before, after.directory, data, progress, sample=True)
        return Verification(before.name, after.name, found, changed, measured)


def _check_same_model(
    before: TensorSource,
    sites: Mapping[str, AttentionSite],
    after: TensorSource,
    new_sites: Mapping[str, AttentionSite],
) -> None:
    """Refuse to compare what does not correspond tensor by tensor.

    Raises:
        CheckpointError: Says what differs.
    """
    found: object = None
    attention = {name for site in sites.values() for name in site.tensors()}
    if before.config["model_type"] != after.config["model_type"]:
        found, expected = after.config["model_type"], before.config["model_type"]
    elif sites.keys() != new_sites.keys() or set(before.infos) != set(after.infos):
        found = f"{len(after.infos)} tensors, {len(new_sites)} attention blocks"
        expected = f"the {len(before.infos)} tensors, {len(sites)} blocks of {before.name}"
    for path in sites if found is None else ():
        if sites[path] != new_sites[path]:
            found, expected = (
                f"{path}: {site.heads} heads, {site.kv_heads} key/value heads, "
                f"head dimension {site.head_dim}, width {site.width}"
                for site in (new_sites[path], sites[path])
            )
            break
    others = [name for name in before.infos if name not in attention]
    for name in others if found is None else ():
        shapes = [list(each.infos[name].shape) for each in (after, before)]
        if shapes[0] != shapes[1]:
            found, expected = (f"{name} of shape {shape}" for shape in shapes)
            break
    if found is not None:
        raise CheckpointError(
            "These are not two forms of one model",
            where=after.name,
            found=found,
            expected=expected,
        )


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    """Compare at memory speed; ``memoryview``'s own comparison looks at one byte at a time."""
    if one.nbytes != other.nbytes:
        return False
    if not one.nbytes:
        return True
    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))


def _open(source: TensorSource) -> tuple[dict[str, AttentionSite], Mapping[str, SiteRanks]]:
    _, _, claims = describe(source)
    ranks = read_ranks(source.config, claims.sites, where=f"{source.name}/config.json")
    sites = {site.path: site for site in claims.sites}
    check_stored(source, {path: sites[path] for path in ranks}, ranks)
    return sites, ranks


def _compare(site: AttentionSite, old: AttentionWeights, new: AttentionWeights) -> SiteVerification:
    plain_scores = not site.between
    old, new = (prepare(weights, qk=plain_scores, vo=True) for weights in (old, new))
    # Across RoPE equal products do not make equal scores: there the maps themselves count.
    qk = product_error if plain_scores else _map_error
    bias = 0.0
    if old.o_bias is not None and new.o_bias is not None:
        scale = float(old.o_bias.norm()) or 1.0
        bias = float(torch.linalg.vector_norm(new.o_bias - old.o_bias)) / scale
    return SiteVerification(
        path=site.path,
        qk=qk(*old.qk_factors(), *new.qk_factors()).tolist(),
        vo=product_error(*old.vo_factors(), *new.vo_factors()).tolist(),
        output_bias=bias,
    )


def _map_error(left: Tensor, right: Tensor, new_left: Tensor, new_right: Tensor) -> Tensor:
    """Return the larger relative difference of the two maps themselves, per key/value head."""
    errors = []
    for old, new in ((left, new_left), (right, new_right)):
        norm = torch.linalg.matrix_norm(old)
        difference: Tensor = torch.linalg.matrix_norm(new - old)
        errors.append(difference / torch.where(norm > 0, norm, torch.ones_like(norm)))
    return torch.maximum(*errors)
