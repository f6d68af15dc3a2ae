"""Tiny models as accounts see them: shapes, bytes a number, and the role of every tensor."""

from __future__ import annotations

from surgery.architectures import architecture_of, claim
from surgery.architectures.base import AttentionSite
from surgery.architectures.sites import Claims
from surgery.report.accounting import TensorInfo
from surgery.runtime.heads import SiteRanks
from tests.models import tiny_model


def counted(name: str) -> tuple[dict[str, TensorInfo], Claims]:
    """Return the tensors of a tiny model and what they are."""
    model = tiny_model(name)
    infos = {
        key: (tuple(value.shape), value.element_size()) for key, value in model.state_dict().items()
    }
    return infos, claim(architecture_of(model.config.to_dict()), model.config, list(infos))


def ragged(site: AttentionSite) -> SiteRanks:
    """Every head another rank."""
    qk = tuple(1 + (3 * head + site.layer) % site.head_dim for head in range(site.kv_heads))
    vo = tuple(1 + (5 * head + 2) % site.head_dim for head in range(site.kv_heads))
    return SiteRanks(qk, vo)
