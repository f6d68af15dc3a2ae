"""Whisper: encoder self-, decoder self- and cross-attention; q, v, o biased, k not."""

from __future__ import annotations

from surgery.architectures.base import (
    Architecture,
    AttentionKind,
    Preset,
    Projection,
    Published,
    Scope,
)


def _attention(scope: Scope, path: str, tower: str, *, causal: bool = False) -> AttentionKind:
    return AttentionKind(
        scope=scope,
        path=path,
        layers=f"{tower}_layers",
        heads=f"{tower}_attention_heads",
        kv_heads=f"{tower}_attention_heads",
        width="d_model",
        q=Projection("q_proj", bias=True),
        k=Projection("k_proj"),
        v=Projection("v_proj", bias=True),
        o=Projection("out_proj", bias=True),
        causal=causal,
    )


WHISPER = Architecture(
    model_type="whisper",
    title="Whisper",
    prefixes=("model.", ""),
    attentions=(
        _attention("encoder", "encoder.layers.{layer}.self_attn", "encoder"),
        _attention("decoder", "decoder.layers.{layer}.self_attn", "decoder", causal=True),
        _attention("cross", "decoder.layers.{layer}.encoder_attn", "decoder"),
    ),
    linears={
        "up": ("encoder.layers.*.fc1.*", "decoder.layers.*.fc1.*"),
        "down": ("encoder.layers.*.fc2.*", "decoder.layers.*.fc2.*"),
    },
    shapes={
        "encoder.layers.*.fc1.weight": ("encoder_ffn_dim", "d_model"),
        "encoder.layers.*.fc2.weight": ("d_model", "encoder_ffn_dim"),
        "decoder.layers.*.fc1.weight": ("decoder_ffn_dim", "d_model"),
        "decoder.layers.*.fc2.weight": ("d_model", "decoder_ffn_dim"),
        "encoder.embed_positions.weight": ("max_source_positions", "d_model"),
        "decoder.embed_positions.weight": ("max_target_positions", "d_model"),
        "decoder.embed_tokens.weight": ("vocab_size", "d_model"),
    },
    untouched=(
        "encoder.conv?.*",
        "encoder.embed_positions.weight",
        "encoder.layers.*_layer_norm.*",
        "encoder.layer_norm.*",
        "decoder.embed_tokens.weight",
        "decoder.embed_positions.weight",
        "decoder.layers.*_layer_norm.*",
        "decoder.layer_norm.*",
        "/proj_out.weight",
        "/projector.*",
        "/classifier.*",
        "/layer_weights",
    ),
    towers={"encoder": "encoder.*", "decoder": "decoder.*"},
    convolutions={"encoder.conv1.weight": 2, "encoder.conv2.weight": 1},  # conv2 has stride 2
    defaults={
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "max_source_positions": 1500,
        "max_target_positions": 448,
    },
    preset=Preset(
        scope="encoder",
        pairs=("qk", "vo"),
        fraction=0.464,
        reason="as much of the encoder's attention as the CLOVER paper takes (arXiv 2411.17426)",
    ),
    published=Published(
        scope="encoder",
        threshold_qk=5e-3,
        threshold_vo=6e-3,
        reason="the CLOVER paper's thresholds for Whisper-large-v3's encoder (arXiv 2411.17426)",
    ),
)
