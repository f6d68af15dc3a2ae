"""Model families as data: which tensors play q, k, v and o, and what stands between them."""

from surgery.architectures.base import (
    Architecture,
    AttentionSite,
    ModelClass,
    Preset,
    StoredProjection,
)
from surgery.architectures.classes import class_of
from surgery.architectures.config import Config
from surgery.architectures.feed_forward import (
    FeedForwardSite,
    feed_forward_seam,
    feed_forward_sites,
)
from surgery.architectures.linears import LINEAR_ROLES, LinearMap, linear_maps
from surgery.architectures.prefixes import find_prefix
from surgery.architectures.registry import ARCHITECTURES, architecture_of
from surgery.architectures.sites import Claims, attention_sites, check_shapes, claim

__all__ = [
    "ARCHITECTURES",
    "LINEAR_ROLES",
    "Architecture",
    "AttentionSite",
    "Claims",
    "Config",
    "FeedForwardSite",
    "LinearMap",
    "ModelClass",
    "Preset",
    "StoredProjection",
    "architecture_of",
    "attention_sites",
    "check_shapes",
    "claim",
    "class_of",
    "feed_forward_seam",
    "feed_forward_sites",
    "find_prefix",
    "linear_maps",
]
