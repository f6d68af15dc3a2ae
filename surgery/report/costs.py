"""From shapes and ranks to bytes and FLOPs: counting, and nothing else.

* One multiply-add is two FLOPs. Softmax, norms, biases and rotations are not counted.
* *Executed* is what a forward pass multiplies by, with the default attention implementation
  (SDPA): the projections run packed, at exactly their stored widths, while scores and contexts
  are computed at the widths of :func:`executed_ranks`.
* Causal masks are not credited: a full block computes every query-key product.
* An encoder is all there is between its input and its last hidden states. Of a decoder its layers
  are counted, for one new token: not the vocabulary, nor the keys and values of the encoder's
  output, which are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod

from surgery.architectures.base import ROLES, Architecture, AttentionSite, Role, Scope
from surgery.architectures.config import Config
from surgery.architectures.linears import linear_maps
from surgery.architectures.sites import Claims
from surgery.report.accounting import TensorInfo, full_ranks, projection_shape, projection_widths
from surgery.report.model.report import Quantity
from surgery.runtime.groups import executed_widths
from surgery.runtime.heads import SiteRanks
from surgery.runtime.steps import token_widths

WINDOW_TOKENS = 1000
"""Context length the per-token figures assume, where the model reaches that far."""


def executed_ranks(ranks: SiteRanks, scope: Scope) -> SiteRanks:
    """Return the widths that the runtime computes scores and contexts at.

    Over a sequence (``encoder``), one width for QK and V, equal within a group of heads. For one
    new token (``decoder``, ``cross``), the ranks themselves where they are uniform; else every
    head's row is as wide as the packed cache.
    """
    widths = (executed_widths if scope == "encoder" else token_widths)(ranks)
    return SiteRanks(qk=tuple(each.qk for each in widths), vo=tuple(each.v for each in widths))


def sequence_lengths(config: Config) -> dict[Scope, int]:
    """Return the sequence length each kind of attention is counted at.

    An audio encoder sees its whole window (Whisper: 1,500 frames, 30 s); everything else
    :data:`WINDOW_TOKENS` positions, or as many as the model has.
    """

    def positions(*names: str) -> int | None:
        values = (getattr(config, name, None) for name in names)
        return next((int(value) for value in values if value), None)

    text = min(
        positions("max_target_positions", "max_position_embeddings", "n_positions")
        or WINDOW_TOKENS,
        WINDOW_TOKENS,
    )
    frames = positions("max_source_positions") or text
    return {"encoder": frames, "decoder": text, "cross": frames}


def attention_flops(
    site: AttentionSite, ranks: SiteRanks, length: int, *, executed: bool = False
) -> int:
    """Return the FLOPs of one attention block: projections, scores and contexts.

    Encoder blocks: a whole sequence of ``length`` positions at once. Decoder blocks: one
    new token that sees ``length`` positions. Cross-attention: one new token that sees
    ``length`` encoder positions, whose keys and values were projected before (not counted).

    Args:
        executed: Scores and contexts at the widths the runtime computes them at.
    """
    widths = projection_widths(site, ranks)
    roles: tuple[Role, ...] = ("q", "o") if site.scope == "cross" else ROLES
    projections = sum(2 * prod(projection_shape(site, role, widths[role])) for role in roles)
    run = executed_ranks(ranks, site.scope) if executed else ranks
    # one query position against every key: g query heads a key/value head
    row = 2 * length * site.groups * (sum(run.qk) + sum(run.vo))
    positions = length if site.scope == "encoder" else 1
    return positions * (projections + row)


def cache_elements(ranks: SiteRanks) -> int:
    """Return the cached key and value elements of one position."""
    return sum(ranks.qk) + sum(ranks.vo)


def beside_attention(
    family: Architecture, claims: Claims, shapes: Mapping[str, tuple[int, ...]]
) -> dict[Scope, int]:
    """Return the FLOPs of a position of each tower that are no attention's.

    These are the family's feed-forward maps and convolutions, which surgery on attention leaves
    as they are.

    Args:
        family: Says which tensors are kernels, and how many positions they give.
        claims: Roles of the checkpoint's tensors.
        shapes: Every tensor's shape.
    """
    found: dict[Scope, int] = {}
    for one in linear_maps(family, claims, shapes):
        if one.weight in claims.linears:
            flops = 2 * one.out_features * one.in_features
            found[one.scope] = found.get(one.scope, 0) + flops
    for glob, positions in family.convolutions.items():
        for name in claims.untouched:
            if fnmatchcase(name, claims.prefix + glob):
                found["encoder"] = found.get("encoder", 0) + 2 * positions * prod(shapes[name])
    return found


_ATTENTION: Mapping[Scope, str] = {
    "encoder": "Encoder attention, {length:,} positions",
    "decoder": "Decoder attention, a token that sees {length:,}",
    "cross": "Cross-attention, a token that sees {length:,}",
}
_TOWERS: Mapping[str, tuple[str, tuple[Scope, ...]]] = {
    "encoder": ("Whole encoder, {length:,} positions", ("encoder",)),
    "decoder": ("All decoder layers, a token", ("decoder", "cross")),
}


def quantities(
    sites: Sequence[AttentionSite],
    ranks: Mapping[str, SiteRanks],
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    lengths: Mapping[Scope, int],
    beside: Mapping[Scope, int],
) -> list[Quantity]:
    """Count bytes and FLOPs before and after.

    Args:
        sites: Every attention block of the model, in scope of the surgery or not.
        ranks: Kept ranks after it, by ``site.path``; a missing block counts as untouched.
        before: Every tensor of the checkpoint before.
        after: Every tensor of the checkpoint after.
        lengths: Sequence length of each scope, see :func:`sequence_lengths`.
        beside: FLOPs a position that are no attention's, see :func:`beside_attention`.

    Returns:
        Weight bytes, key/value cache bytes, FLOPs of attention and of whole towers; only kinds
        the model has.
    """
    old = {site.path: full_ranks(site) for site in sites}
    new = {site.path: ranks.get(site.path, old[site.path]) for site in sites}

    def cache(scope: Scope, positions: int, kept: Mapping[str, SiteRanks]) -> int:
        # keys and values are cached in the dtype the weights are stored in
        return sum(
            positions * cache_elements(kept[site.path]) * before[site.k.weight][1]
            for site in sites
            if site.scope == scope
        )

    def flops(scope: Scope, kept: Mapping[str, SiteRanks], *, executed: bool = False) -> int:
        return sum(
            attention_flops(site, kept[site.path], lengths[scope], executed=executed)
            for site in sites
            if site.scope == scope
        )

    scopes = {site.scope for site in sites}
    result = [
        Quantity(
            "disk_bytes",
            "Weights on disk",
            "bytes",
            sum(prod(shape) * size for shape, size in before.values()),
            sum(prod(shape) * size for shape, size in after.values()),
        )
    ]
    if "decoder" in scopes:
        tokens = WINDOW_TOKENS
        title = f"KV cache, {tokens:,} tokens"
        was, now = cache("decoder", tokens, old), cache("decoder", tokens, new)
        result.append(Quantity("kv_bytes_per_1000_tokens", title, "bytes", was, now))
    if "cross" in scopes:
        frames = lengths["cross"]
        title = f"Cross cache, {frames:,} positions"
        was, now = cache("cross", frames, old), cache("cross", frames, new)
        result.append(Quantity("cross_kv_bytes", title, "bytes", was, now))
    for tower, (template, members) in _TOWERS.items():
        inside = [scope for scope in members if scope in scopes]
        counted = {
            scope: (flops(scope, old), flops(scope, new), flops(scope, new, executed=True))
            for scope in inside
        }
        for scope, figures in counted.items():
            title = _ATTENTION[scope].format(length=lengths[scope])
            result.append(_flops(f"flops_{scope}", title, figures))
        if inside:
            length = lengths[members[0]]
            rest = (length if tower == "encoder" else 1) * beside.get(members[0], 0)
            was, now, run = (rest + sum(one[at] for one in counted.values()) for at in range(3))
            title = template.format(length=length)
            result.append(_flops(f"flops_whole_{tower}", title, (was, now, run)))
    return result


def _flops(name: str, title: str, figures: tuple[int, int, int]) -> Quantity:
    was, now, run = figures
    return Quantity(name, title, "FLOPs", was, now, run if run != now else None)
