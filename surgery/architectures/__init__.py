"""Model families as data: which tensors play q, k, v and o, and what stands between them."""

from surgery.architectures.base import Architecture, AttentionSite, Preset, StoredProjection
from surgery.architectures.config import Config
from surgery.architectures.linears import LINEAR_ROLES, LinearMap, linear_maps
from surgery.architectures.registry import ARCHITECTURES, architecture_of
from surgery.architectures.sites import Claims, attention_sites, check_shapes, claim

__all__ = [
    "ARCHITECTURES",
    "LINEAR_ROLES",
    "Architecture",
    "AttentionSite",
    "Claims",
    "Config",
    "LinearMap",
    "Preset",
    "StoredProjection",
    "architecture_of",
    "attention_sites",
    "check_shapes",
    "claim",
    "linear_maps",
]
