"""Shapes and dtypes of a checkpoint as stored: what its configuration or its surgery block says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures import Architecture, Claims, Config, check_shapes
from surgery.architectures.classes import matches
from surgery.architectures.feed_forward import FeedForwardSite, at_widths, feed_forward_sites
from surgery.checkpoint.header import TensorInfo
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError
from surgery.report.accounting import full_ranks, restructured
from surgery.runtime.heads import SiteRanks


def check_stored_shapes(
    source: TensorSource,
    family: Architecture,
    config: Config,
    claims: Claims,
    ranks: Mapping[str, SiteRanks],
    neurons: Mapping[str, int],
) -> None:
    """Compare shapes with the configuration, and with what is said of restructured blocks.

    Raises:
        CheckpointError: A tensor is missing, or a shape differs.
    """
    shapes = {name: info.shape for name, info in source.infos.items()}
    cut = [site for site in claims.sites if site.path in ranks]
    narrow = _narrow(source, family, config, claims, neurons)
    held = [site.tensors() for site in cut] + [block.tensors() for block in narrow]
    for name in (tensor for tensors in held for tensor in tensors):
        if name not in shapes:
            raise CheckpointError(f"Tensor {name} is missing", where=source.name)

    def shaped(of: Mapping[str, SiteRanks], widths: Mapping[str, int]) -> dict[str, Any]:
        table = {name: (shape, 0) for name, shape in shapes.items()}
        after = restructured(table, cut, of)
        return at_widths({name: shape for name, (shape, _) in after.items()}, narrow, widths)

    for name, shape in shaped(ranks, neurons).items():
        if shapes[name] != shape:
            raise CheckpointError(
                f"The shape of {name} contradicts the surgery block",
                where=source.name,
                found=f"shape {list(shapes[name])}",
                expected=f"shape {list(shape)}",
                hint="config.json and the weights seem to belong to different results",
            )
    # Restructured blocks are right as they are: the configuration still speaks of dense ones.
    full = {site.path: full_ranks(site) for site in cut}
    dense = shaped(full, {site.path: site.neurons for site in narrow})
    check_shapes(family, config, claims, dense, where=source.name)


def _narrow(
    source: TensorSource,
    family: Architecture,
    config: Config,
    claims: Claims,
    neurons: Mapping[str, int],
) -> list[FeedForwardSite]:
    """Return the feed-forward blocks that the surgery block names, at their dense width.

    Raises:
        CheckpointError: One is unknown, or narrower in the configuration.
    """
    where = f"{source.name}/config.json"
    sites = feed_forward_sites(family, config, claims, where=where) if neurons else ()
    known = {site.path: site for site in sites}
    for path, width in neurons.items():
        if path not in known or width > known[path].neurons:
            most = f"at most {known[path].neurons} neurons" if path in known else "another path"
            raise CheckpointError(
                "The surgery block names a feed-forward block that the model does not have",
                where=where,
                found=f"{path} with {width} neurons",
                expected=most,
                hint="the file was edited, or belongs to other weights",
            )
    return [known[path] for path in neurons]


def check_floats(
    family: Architecture, infos: Mapping[str, TensorInfo], prefix: str, *, where: str
) -> None:
    """Require floating-point weights: transformers takes integers for what they are as numbers.

    Raises:
        CheckpointError: One is of another dtype, and no buffer of an older release.
    """
    for name, info in infos.items():
        if info.dtype.is_floating_point or matches(name, family.ignored, prefix):
            continue
        raise CheckpointError(
            f"Tensor {name} is not a floating-point weight",
            where=where,
            found=info.dtype,
            expected="float32, float16 or bfloat16",
            hint="use the unquantised checkpoint",
        )
