"""From shapes and ranks to parameters, bytes and FLOPs: counting, and nothing else.

Every figure is a pure function of the architecture's description and of tensor shapes, so
that what a plan predicts and what a run reports come from the same lines. Conventions:

* One multiply-add is two FLOPs. Softmax, norms and biases are not counted.
* *Stored* is what the file holds. *Executed* is what a forward pass multiplies by, with the
  default attention implementation (SDPA): the projections run packed, at exactly their stored
  widths, while scores and contexts are computed at the widths of :func:`executed_ranks`.
* Causal masks are not credited: a full block computes every query-key product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from surgery.architectures.base import ROLES, AttentionSite, Role, Scope
from surgery.architectures.config import Config
from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.report.model import Quantity, Saving

TensorInfo = tuple[tuple[int, ...], int]
"""Shape of a stored tensor, and its bytes per element."""

WINDOW_TOKENS = 1000
"""Context length the per-token figures assume, where the model reaches that far."""


def executed_ranks(ranks: SiteRanks, scope: Scope) -> SiteRanks:
    """Return the widths that the runtime computes scores and contexts at.

    Over a sequence (``encoder``), one width for QK and V, equal within a group of heads. For one
    new token (``decoder``, ``cross``), the ranks themselves where they are uniform; else every
    head's row is as wide as the packed cache.
    """
    # late: the runtime brings torch with it, and counting needs none of that
    from surgery.runtime.groups import executed_widths
    from surgery.runtime.steps import token_widths

    widths = (executed_widths if scope == "encoder" else token_widths)(ranks.qk, ranks.vo)
    return SiteRanks(qk=tuple(each.qk for each in widths), vo=tuple(each.v for each in widths))


def _widths(site: AttentionSite, ranks: SiteRanks) -> dict[Role, int]:
    """Packed width of each projection: query heads repeat their key/value head's rank."""
    qk, vo = sum(ranks.qk), sum(ranks.vo)
    return {"q": site.groups * qk, "k": qk, "v": vo, "o": site.groups * vo}


def executed_parameters(site: AttentionSite, ranks: SiteRanks) -> int:
    """Return the parameters a forward pass multiplies by: exactly those stored.

    The runtime keeps projections and caches packed, and pads only the activations between
    them; its FLOPs are counted in :func:`attention_flops`.
    """
    return site_parameters(site, ranks)


def _projection_shape(site: AttentionSite, role: Role, width: int) -> tuple[int, int]:
    """Return ``(out, in)`` of a projection whose head side has ``width`` rows or columns."""
    stored = site.projection(role)
    if role == "o":
        return stored.out_features, width
    return width, stored.in_features


def site_parameters(site: AttentionSite, ranks: SiteRanks) -> int:
    """Return the number of q, k, v and o parameters, biases included, at ``ranks``."""
    total = 0
    for role, width in _widths(site, ranks).items():
        rows, columns = _projection_shape(site, role, width)
        total += rows * columns + (rows if site.projection(role).bias is not None else 0)
    return total


def restructured(
    infos: Mapping[str, TensorInfo],
    sites: Iterable[AttentionSite],
    ranks: Mapping[str, SiteRanks],
) -> dict[str, TensorInfo]:
    """Predict the tensors of a checkpoint after surgery.

    Args:
        infos: Every tensor of the checkpoint before.
        sites: Attention blocks; those without an entry in ``ranks`` stay as they are.
        ranks: Kept ranks, by ``site.path``.

    Returns:
        ``infos`` with the shapes of restructured projections replaced.
    """
    after = dict(infos)
    for site in sites:
        if site.path not in ranks:
            continue
        widths = _widths(site, ranks[site.path])
        rows: dict[str, int] = {}
        for role in ROLES:
            stored = site.projection(role)
            out, columns = _projection_shape(site, role, widths[role])
            # fused maps lie side by side along the output dimension
            rows[stored.weight] = rows.get(stored.weight, 0) + out
            shape = (rows[stored.weight], columns)
            after[stored.weight] = (
                shape[::-1] if stored.transposed else shape,
                infos[stored.weight][1],
            )
            if stored.bias is not None:
                after[stored.bias] = ((rows[stored.weight],), infos[stored.bias][1])
    return after


def _count(infos: Mapping[str, TensorInfo], names: Iterable[str]) -> int:
    return sum(prod(infos[name][0]) for name in names)


def savings(
    sites: Sequence[AttentionSite],
    ranks: Mapping[str, SiteRanks],
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    towers: Mapping[str, Collection[str]],
) -> list[Saving]:
    """Count parameters in every denominator: attention in scope, its towers, the model.

    Args:
        sites: Attention blocks in scope of the surgery.
        ranks: Kept ranks after it, by ``site.path``; a missing block counts as untouched.
        before: Every tensor of the checkpoint before.
        after: Every tensor of the checkpoint after, under the same names.
        towers: Tensor names of each tower; towers without a block in ``sites`` are left out.

    Returns:
        ``attention``, one entry a tower that was cut, and ``model``.
    """
    attention = list(dict.fromkeys(name for site in sites for name in site.tensors()))
    padding: dict[str, int] = {}
    for site in sites:
        kept = ranks.get(site.path, full_ranks(site))
        padding[site.path] = executed_parameters(site, kept) - site_parameters(site, kept)

    def saving(name: str, title: str, names: Collection[str]) -> Saving:
        members = set(names)
        stored = _count(after, names)
        extra = sum(padding[site.path] for site in sites if site.q.weight in members)
        return Saving(name, title, _count(before, names), stored, stored + extra)

    result = [saving("attention", "Attention in scope (Q, K, V, O)", attention)]
    for tower, names in towers.items():
        if not set(names).isdisjoint(attention):
            result.append(saving(tower, tower.capitalize(), names))
    result.append(saving("model", "Whole model", list(before)))
    return result


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
    widths = _widths(site, ranks)
    roles: tuple[Role, ...] = ("q", "o") if site.scope == "cross" else ROLES
    projections = sum(2 * prod(_projection_shape(site, role, widths[role])) for role in roles)
    run = executed_ranks(ranks, site.scope) if executed else ranks
    # one query position against every key: g query heads a key/value head
    row = 2 * length * site.groups * (sum(run.qk) + sum(run.vo))
    positions = length if site.scope == "encoder" else 1
    return positions * (projections + row)


def cache_elements(ranks: SiteRanks) -> int:
    """Return the cached key and value elements of one position."""
    return sum(ranks.qk) + sum(ranks.vo)


_FLOPS_TITLE: Mapping[Scope, str] = {
    "encoder": "Encoder, {length:,} positions",
    "decoder": "Decoder token, context {length:,}",
    "cross": "Cross token, {length:,} positions",
}


def quantities(
    sites: Sequence[AttentionSite],
    ranks: Mapping[str, SiteRanks],
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    lengths: Mapping[Scope, int],
    ranks_before: Mapping[str, SiteRanks] | None = None,
) -> list[Quantity]:
    """Count bytes and FLOPs before and after.

    Args:
        sites: Every attention block of the model, in scope of the surgery or not.
        ranks: Kept ranks after it, by ``site.path``; a missing block counts as untouched.
        before: Every tensor of the checkpoint before.
        after: Every tensor of the checkpoint after.
        lengths: Sequence length of each scope, see :func:`sequence_lengths`.
        ranks_before: Ranks before it; full where missing.

    Returns:
        Weight bytes, key/value cache bytes, attention FLOPs; only kinds the model has.
    """
    old = {site.path: (ranks_before or {}).get(site.path, full_ranks(site)) for site in sites}
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
    for scope, template in _FLOPS_TITLE.items():
        if scope in scopes:
            title = template.format(length=lengths[scope])
            was, now = flops(scope, old), flops(scope, new)
            run = flops(scope, new, executed=True)
            result.append(
                Quantity(f"flops_{scope}", title, "FLOPs", was, now, run if run != now else None)
            )
    return result
