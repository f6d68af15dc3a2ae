"""``config.json`` of what is written for transformers without remote code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.export.hf.forms import MIMO, Native, mimo_class
from surgery.export.output_layer import word_layers

OURS = ("surgery", "auto_map")
"""What only a checkpoint of this package has a use for."""

SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""What MiMoV2Flash means by these is what LLaMA, Mistral and Qwen2 mean."""


def plain_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a dense model."""
    return {key: value for key, value in raw.items() if key not in OURS}


def as_stored(raw: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    """Return a configuration that says of tied tensors what the file holds.

    Where it says that the output layer is the token embedding, and both are stored and differ,
    transformers 5 takes the stored one, and others drop it.

    Args:
        raw: The checkpoint's config.json.
        source: The checkpoint.
    """
    import transformers

    named = (raw.get("architectures") or [""])[0]
    tied = getattr(getattr(transformers, str(named), None), "_tied_weights_keys", None) or {}
    if any(name not in source.infos for pair in tied.items() for name in pair):
        return dict(raw)
    found = [word_layers(source, embedding, output) for output, embedding in tied.items()]
    apart = any(layers is not None and not layers.tied for layers in found)
    return {**raw, "tie_word_embeddings": False} if apart else dict(raw)


def native_config(raw: Mapping[str, Any], form: Native, *, biased: bool) -> dict[str, Any]:
    """Return the configuration of a smaller model.

    Args:
        raw: The checkpoint's config.json.
        form: What it is made.
        biased: Whether q, k and v have biases.
    """
    plain = plain_config(raw)
    rope = _rope(plain, form)
    if form.mimo:
        return _mimo_config(plain, form, rope, biased=biased)
    plain.pop("rope_parameters", None)
    return {
        **plain,
        "head_dim": form.head_dim,
        # Read by transformers 4 and 5 alike, unlike ``rope_parameters``.
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope,
    }


def _mimo_config(
    plain: Mapping[str, Any], form: Native, rope: Mapping[str, Any], *, biased: bool
) -> dict[str, Any]:
    config = effective(plain)
    layers: int = config.num_hidden_layers
    dtype = {key: plain[key] for key in ("dtype", "torch_dtype") if key in plain}
    return {
        "architectures": [mimo_class(plain)],
        "model_type": MIMO,
        **{key: getattr(config, key) for key in SHARED},
        **dtype,
        "head_dim": form.head_dim,
        "v_head_dim": form.value_dim,
        "attention_bias": biased,
        # All that makes a MiMoV2Flash other than a LLaMA is switched off.
        "attention_value_scale": None,
        "layer_types": ["full_attention"] * layers,
        "mlp_layer_types": ["dense"] * layers,
        "rope_parameters": {"full_attention": {**rope, "partial_rotary_factor": 1.0}},
    }


def _rope(plain: Mapping[str, Any], form: Native) -> dict[str, Any]:
    """Return the RoPE of a form: its own frequencies as factors of the usual ones."""
    config = effective(plain)
    rope: dict[str, Any] = config.rope_parameters
    theta, kind = float(rope["rope_theta"]), rope["rope_type"]
    if form.pairs is None and kind == "default":
        return {"rope_type": "default", "rope_theta": theta}
    original = int(rope.get("original_max_position_embeddings", config.max_position_embeddings))
    short, attention = frequencies(config, theta, kind, None)
    long, _ = frequencies(config, theta, kind, original + 1)
    kept = list(range(form.full // 2)) if form.pairs is None else list(form.pairs)
    usual = theta ** (torch.arange(0, form.head_dim, 2).float() / form.head_dim)

    def factors(table: Tensor) -> list[float]:
        found: list[float] = (1 / (table[kept].double() * usual.double())).tolist()
        return found

    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": factors(short),
        "long_factor": factors(long),
        "factor": 1.0,
        "attention_factor": float(attention),
        "original_max_position_embeddings": original,
    }


def frequencies(config: Any, theta: float, kind: str, length: int | None) -> tuple[Tensor, float]:
    """Return inverse frequencies (d/2), and the factor of cosines and sines, at some length."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind == "default":
        d: int = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        return 1 / theta ** (torch.arange(0, d, 2).float() / d), 1.0
    found: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
    return found


def effective(plain: Mapping[str, Any]) -> Any:
    """Return the configuration as transformers reads it, defaults filled in."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[plain["model_type"]].from_dict(dict(plain))
