"""What LLaMA, Mistral and Qwen2 share: one decoder, grouped queries, RoPE between q and k."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.architectures.base import Architecture, AttentionKind, Preset, Projection


def rotary_decoder(
    model_type: str,
    title: str,
    *,
    defaults: Mapping[str, int],
    qkv_bias: bool | str = False,
    o_bias: bool | str = False,
) -> Architecture:
    """Return a family of the LLaMA kind.

    Args:
        model_type: ``config.json``'s ``model_type``.
        title: The family's name as people write it.
        defaults: Layers, heads and widths that an absent key stands for.
        qkv_bias: Whether q, k and v have a bias, or the attribute that decides.
        o_bias: Whether o has one.
    """
    return Architecture(
        model_type=model_type,
        title=title,
        prefixes=("model.", ""),
        attentions=(
            AttentionKind(
                scope="decoder",
                path="layers.{layer}.self_attn",
                layers="num_hidden_layers",
                heads="num_attention_heads",
                kv_heads="num_key_value_heads",
                width="hidden_size",
                q=Projection("q_proj", bias=qkv_bias),
                k=Projection("k_proj", bias=qkv_bias),
                v=Projection("v_proj", bias=qkv_bias),
                o=Projection("o_proj", bias=o_bias),
                between=("rope",),
                causal=True,
            ),
        ),
        linears={
            "gate": ("layers.*.mlp.gate_proj.*",),
            "up": ("layers.*.mlp.up_proj.*",),
            "down": ("layers.*.mlp.down_proj.*",),
        },
        shapes={
            "layers.*.mlp.gate_proj.weight": ("intermediate_size", "hidden_size"),
            "layers.*.mlp.up_proj.weight": ("intermediate_size", "hidden_size"),
            "layers.*.mlp.down_proj.weight": ("hidden_size", "intermediate_size"),
            "embed_tokens.weight": ("vocab_size", "hidden_size"),
        },
        untouched=(
            "embed_tokens.weight",
            "layers.*.input_layernorm.weight",
            "layers.*.post_attention_layernorm.weight",
            "layers.*.self_attn.rotary_emb.inv_freq",
            "norm.weight",
            "/lm_head.weight",
            "/score.weight",
            "/score.bias",
            "/qa_outputs.*",
        ),
        towers={"decoder": "layers.*"},
        defaults=defaults,
        preset=Preset(
            scope="decoder",
            pairs=("vo",),
            fraction=0.25,
            reason="a quarter of VO; QK stands across RoPE and stays as it was",
        ),
    )
