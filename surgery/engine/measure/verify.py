"""Verify: how far a result is from its original, head by head and on real input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surgery.architectures import AttentionSite
from surgery.architectures.dropping import by_tower
from surgery.engine.measure.heads import unmeasured
from surgery.engine.measure.input import check_data
from surgery.engine.measure.measure import measure
from surgery.engine.measure.tokens import TokensVerification, verify_tokens
from surgery.errors import CheckpointError
from surgery.events import Event, Progress, ignore
from surgery.linalg import product_error
from surgery.methods import AttentionWeights, prepare
from surgery.report.model.report import Measurement
from surgery.report.wording import ranges
from surgery.runtime.manifest import COMPRESS
from surgery.stored.adapted import open_model
from surgery.stored.pack import read_site
from surgery.stored.shallower import ShallowerSource, layers_gone
from surgery.stored.stored import Stored, read_stored
from surgery.stored.trimmed import trimmed_like


@dataclass(frozen=True)
class SiteVerification:
    """Relative Frobenius error of each head's products in one block, in float64, in full.

    ``output_bias`` is the relative difference of o's bias once v's has been moved into it. Where
    ``qk_maps`` is set something stands between queries and keys (RoPE), and ``qk`` holds the larger
    error of the two maps themselves.
    """

    path: str
    qk: list[float]
    vo: list[float]
    output_bias: float
    qk_maps: bool = False


@dataclass(frozen=True)
class Verification:
    """Everything :func:`verify` found.

    ``linears`` gives the relative Frobenius error of every other linear map, by path, where
    either model carries a small part beside it (merged for the comparison, in float64).
    ``changed`` names tensors outside attention that differ in any bit; surgery never touches
    those (a cast to another dtype does). ``notes`` say what of the outputs was not measured.
    ``tokens`` says what of a smaller vocabulary was proved on real input.
    """

    original: str
    result: str
    sites: list[SiteVerification]
    linears: dict[str, float]
    changed: list[str]
    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokens: TokensVerification | None = None

    @property
    def worst(self) -> float:
        """The largest error of any head's product or linear map."""
        heads = (e for site in self.sites for e in (*site.qk, *site.vo))
        return max((*heads, *self.linears.values()), default=0.0)


NARROWER = (
    "Feed-forward blocks lost neurons, and what is behind them was fitted to those that stay: "
    "their weights correspond to none of the original's, and only outputs say what that costs."
)
SHORTER = (
    "Layers of the original left the stack ({numbers}); the others were compared by the numbers "
    "that they have now."
)


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
        result: The checkpoint after, or an adapter; any dtype.
        data: Audio folder or text file; by default what the package ships: by a Whisper a few clips
            of speech are heard, and the rows say whether the result was calibrated on them.
        weights_only: Leave out the run on real input.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        CheckpointError: The two are not the same model.
        UsageError: The result was calibrated on some of the data.
    """
    with (
        open_model(original, progress=progress) as before,
        open_model(result, progress=progress) as after,
    ):
        if data is not None and not weights_only:
            from surgery.engine.measure.leakage import check_unseen  # late: it brings audio with it

            check_data(before, data)
            check_unseen(after, data)
        old, new = read_stored(before), read_stored(after)
        gone = layers_gone(old, new)
        if gone:
            old = read_stored(ShallowerSource(old, gone))
        trimmed = trimmed_like(old, new)
        if trimmed is not None:
            old = read_stored(trimmed[0])
        narrower = _narrower(old, new)
        _check_same_model(old, new, narrower)
        found = []
        sites = old.claims.sites
        for index, site in enumerate(sites):
            progress(Event("Comparing heads", index, len(sites), site.path))
            weights = (
                read_site(each.tensor, site, each.ranks.get(site.path)) for each in (old, new)
            )
            found.append(_compare(site, *weights))
        progress(Event("Comparing heads", len(sites), len(sites)))
        progress(Event("Comparing other weights", 0, 1))
        differing = [name for name in _differing(old, new) if name not in narrower]
        owners = {one.weight: path for path, one in old.maps.items()} | _treated(old, new)
        linears: dict[str, float] = {}
        for name in differing:
            if name in owners:
                error = _tensor_error(old, new, name)
                linears[owners[name]] = max(error, linears.get(owners[name], 0.0))
        changed = [name for name in differing if name not in owners]
        progress(Event("Comparing other weights", 1, 1))
        measured: list[Measurement] = []
        notes = [NARROWER] if narrower else list[str]()
        if gone:
            numbers = "; ".join(f"{s}: {ranges(n)}" for s, n in by_tower(gone).items())
            notes.append(SHORTER.format(numbers=numbers))
        tokens: TokensVerification | None = None
        if not weights_only and after.directory is not None:
            if trimmed is not None:
                progress(Event("Comparing tokens", 0, 1))
                tokens = verify_tokens(before, after.directory, *trimmed[1:], data, sample=after)
                progress(Event("Comparing tokens", 1, 1))
            measured = measure(before, after.directory, data, progress, sample=after)
            notes += filter(None, [unmeasured(before)])
        return Verification(
            before.name, after.name, found, linears, changed, measured, notes, tokens
        )


def _narrower(old: Stored, new: Stored) -> frozenset[str]:
    """Return the tensors of feed-forward blocks that lost neurons: they correspond to none."""
    if all(operation["method"] != COMPRESS for operation in new.operations):
        return frozenset()
    shapes = ({name: info.shape for name, info in each.source.infos.items()} for each in (old, new))
    before, after = shapes
    owners = {name.rpartition(".")[0] for name in old.claims.linears}
    if all(before[name] == after.get(name) for name in old.claims.linears):
        return frozenset()  # nothing but layers left
    return frozenset(
        name
        for name in before
        if name in after and (before[name] != after[name] or name.rpartition(".")[0] in owners)
    )


def _check_same_model(old: Stored, new: Stored, narrower: Collection[str]) -> None:
    """Refuse to compare what does not correspond tensor by tensor.

    Raises:
        CheckpointError: Says what differs.
    """
    found: object = None
    before, after = old.source, new.source
    sites, new_sites = ({site.path: site for site in each.claims.sites} for each in (old, new))
    names, new_names = (set(each.source.infos) - each.part_tensors for each in (old, new))
    if before.config["model_type"] != after.config["model_type"]:
        found, expected = after.config["model_type"], before.config["model_type"]
    elif sites.keys() != new_sites.keys() or names != new_names:
        found = f"{len(new_names)} tensors, {len(new_sites)} attention blocks"
        expected = f"the {len(names)} tensors, {len(sites)} blocks of {before.name}"
    for path in sites if found is None else ():
        if sites[path] != new_sites[path]:
            found, expected = (
                f"{path}: {site.heads} heads, {site.kv_heads} key/value heads, "
                f"head dimension {site.head_dim}, width {site.width}"
                for site in (new_sites[path], sites[path])
            )
            break
    for name in _outside_attention(old) if found is None else ():
        if name in narrower:
            continue
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


def _outside_attention(stored: Stored) -> list[str]:
    """Return every tensor that plays no part in attention and is no small part."""
    attention = {name for site in stored.claims.sites for name in site.tensors()}
    return [
        name
        for name in stored.source.infos
        if name not in attention and name not in stored.part_tensors
    ]


def _differing(old: Stored, new: Stored) -> list[str]:
    """Return the tensors outside attention that differ in a bit, or carry a small part."""
    treated = _treated(old, new)
    return [
        name
        for name in _outside_attention(old)
        if name in treated
        or old.source.infos[name].dtype != new.source.infos[name].dtype
        or not _same_bytes(old.source.raw(name), new.source.raw(name))
    ]


def _treated(old: Stored, new: Stored) -> dict[str, str]:
    """Return which map each tensor belongs to that a small part changes in either model."""
    return {
        name: path
        for each in (old, new)
        for path, one in each.linears.items()
        for name in each.merged_tensors(one)
    }


def _tensor_error(old: Stored, new: Stored, name: str) -> float:
    """Return the relative Frobenius difference of a weight or bias, small parts merged in."""
    before, after = (each.tensor(name).double() for each in (old, new))
    norm = torch.linalg.vector_norm(before)
    difference = torch.linalg.vector_norm(after - before)
    return float(difference / norm) if norm > 0 else float(difference)


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    """Compare at memory speed; ``memoryview``'s own comparison looks at one byte at a time."""
    if one.nbytes != other.nbytes:
        return False
    if not one.nbytes:
        return True
    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))


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
        qk_maps=not plain_scores,
    )


def _map_error(left: Tensor, right: Tensor, new_left: Tensor, new_right: Tensor) -> Tensor:
    """Return the larger relative difference of the two maps themselves, per key/value head."""
    errors = []
    for old, new in ((left, new_left), (right, new_right)):
        norm = torch.linalg.matrix_norm(old)
        difference: Tensor = torch.linalg.matrix_norm(new - old)
        errors.append(difference / torch.where(norm > 0, norm, torch.ones_like(norm)))
    return torch.maximum(*errors)
