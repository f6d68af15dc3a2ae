"""What a Whisper's tensors are called in CTranslate2, and which of them are stacked there.

Self-attention stores q, k and v as one map, cross-attention k and v. All heads of a block must
have one width, the same for queries, keys and values: CTranslate2 splits the stacked outputs
into equal heads. What the heads lack is filled with zeros, which changes nothing: a zero row of
q and k adds zero to every score, a zero row of v and column of o zero to every output. The scores
are divided by the square root of d_model / heads, whatever the width, as in the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from surgery.architectures.base import AttentionSite, Role, tower_holding
from surgery.export.ct2.model import Variable
from surgery.export.whisper.form import embedding, output
from surgery.report.accounting import full_ranks
from surgery.runtime.heads import SiteRanks
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored

REVISION = 3
GELU = 3
"""Number of the activation x Φ(x), which every Whisper has."""

FLAGS: Mapping[str, tuple[int, torch.dtype]] = {
    "decoder/activation": (GELU, torch.int8),
    "decoder/alibi": (0, torch.int8),
    "decoder/alibi_use_positive_positions": (0, torch.int8),
    "decoder/alignment_heads": (1, torch.int16),
    "decoder/alignment_layer": (-1, torch.int16),
    "decoder/pre_norm": (1, torch.int8),
    "decoder/scale_alibi": (0, torch.int8),
    "decoder/scale_embeddings": (0, torch.int8),
    "decoder/start_from_zero_embedding": (0, torch.int8),
}
"""Settings of CTranslate2's general decoder that make it Whisper's."""

NORMS = {
    "self_attention": "self_attn_layer_norm",
    "attention": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}


def block_width(site: AttentionSite, ranks: SiteRanks | None) -> int:
    """Return the width that every head of a block is stored at."""
    kept = ranks or full_ranks(site)
    return max(*kept.qk, *kept.vo)


def stored_widths(stored: Stored) -> dict[str, SiteRanks]:
    """Return the ranks that each pruned block is stored at there, by path."""
    sites = [site for site in stored.claims.sites if site.path in stored.ranks]
    widths = {site.path: block_width(site, stored.ranks[site.path]) for site in sites}
    return {
        site.path: SiteRanks((widths[site.path],) * site.heads, (widths[site.path],) * site.heads)
        for site in sites
    }


def filled(stored: Stored) -> dict[str, int]:
    """Return the blocks that lack all of their neurons and are given one, of zeros."""
    return dict.fromkeys((path for path, width in stored.neurons.items() if not width), 1)


def whisper_variables(stored: Stored) -> list[Variable]:
    """Return every array of a Whisper as CTranslate2 wants it; nothing is computed yet."""
    merged = MergedTensors.pruned(stored, filled(stored))
    prefix = stored.claims.prefix

    def named(name: str, source: str, *, weight: bool = False) -> Variable:
        return Variable(name, partial(merged.tensor, source), weight)

    def number(name: str, value: int, dtype: torch.dtype) -> Variable:
        return Variable(name, partial(torch.tensor, value, dtype=dtype))

    found = [number(name, value, dtype) for name, (value, dtype) in FLAGS.items()]
    for tower in ("encoder", "decoder"):
        heads = getattr(stored.config, f"{tower}_attention_heads")
        found.append(number(f"{tower}/num_heads", heads, torch.int16))
        for name, source, weight in _tower(tower, getattr(stored.config, f"{tower}_layers")):
            found.append(named(name, prefix + source, weight=weight))
    found.append(named("decoder/embeddings/weight", embedding(stored), weight=True))
    found.append(named("decoder/projection/weight", output(stored), weight=True))
    for site in stored.claims.sites:
        found += _attention(site, stored.ranks.get(site.path), merged.tensor)
    return found


def _tower(tower: str, layers: int) -> Iterator[tuple[str, str, bool]]:
    """Yield the name there, the name here and whether it is a weight; attention maps apart."""
    yield f"{tower}/position_encodings/encodings", f"{tower}.embed_positions.weight", False
    norms = {f"{tower}/layer_norm": f"{tower}.layer_norm"}
    maps = {}
    if tower == "encoder":
        maps = {f"{tower}/conv{number}": f"{tower}.conv{number}" for number in (1, 2)}
    for layer in range(layers):
        there, here = f"{tower}/layer_{layer}", f"{tower}.layers.{layer}"
        for part, norm in NORMS.items():
            if tower == "decoder" or part != "attention":
                norms[f"{there}/{part}/layer_norm"] = f"{here}.{norm}"
        for number in (0, 1):
            maps[f"{there}/ffn/linear_{number}"] = f"{here}.fc{number + 1}"
    for name, source in norms.items():
        yield f"{name}/gamma", f"{source}.weight", False
        yield f"{name}/beta", f"{source}.bias", False
    for name, source in maps.items():
        yield f"{name}/weight", f"{source}.weight", True
        yield f"{name}/bias", f"{source}.bias", False


def _attention(
    site: AttentionSite, ranks: SiteRanks | None, tensor: Callable[[str], Tensor]
) -> Iterator[Variable]:
    """Yield the stacked maps of one block."""
    kept, width = ranks or full_ranks(site), block_width(site, ranks)
    tower = tower_holding(site.scope)
    part = "attention" if site.scope == "cross" else "self_attention"
    stacks: tuple[tuple[Role, ...], ...] = (("q", "k", "v"), ("o",))
    if site.scope == "cross":
        stacks = (("q",), ("k", "v"), ("o",))

    def of_role(role: Role) -> Sequence[int]:
        return kept.qk if role in ("q", "k") else kept.vo

    def weight(roles: tuple[Role, ...]) -> Tensor:
        if roles == ("o",):
            return widen(tensor(site.o.weight).T, kept.vo, width).T.contiguous()
        return torch.cat(
            [widen(tensor(site.projection(role).weight), of_role(role), width) for role in roles]
        )

    def bias(roles: tuple[Role, ...]) -> Tensor:
        if roles == ("o",):
            return tensor(str(site.o.bias))
        pieces = {
            role: widen(tensor(name), of_role(role), width)
            for role in roles
            if (name := site.projection(role).bias) is not None
        }
        like = next(iter(pieces.values()))
        return torch.cat([pieces.get(role, torch.zeros_like(like)) for role in roles])

    for number, roles in enumerate(stacks):
        name = f"{tower}/layer_{site.layer}/{part}/linear_{number}"
        yield Variable(f"{name}/weight", partial(weight, roles), weight=True)
        yield Variable(f"{name}/bias", partial(bias, roles))


def widen(packed: Tensor, ranks: Sequence[int], width: int) -> Tensor:
    """Give every head of a packed first axis the same width, zeros behind what it has.

    Args:
        packed: ``(sum of ranks, …)``.
        ranks: Rows of each head.
        width: Rows that each is to have.

    Returns:
        ``(heads · width, …)``.
    """
    if all(rank == width for rank in ranks):
        return packed
    wide = packed.new_zeros(len(ranks), width, *packed.shape[1:])
    for head, rows in enumerate(torch.split(packed, list(ranks))):
        wide[head, : len(rows)] = rows
    return wide.flatten(0, 1)
