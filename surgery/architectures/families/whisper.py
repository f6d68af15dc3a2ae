"""Whisper: encoder self-, decoder self- and cross-attention; q, v, o biased, k not."""

from __future__ import annotations

from surgery.architectures.base import (
    BASE,
    CAUSAL,
    Architecture,
    AttentionKind,
    ModelClass,
    Preset,
    Projection,
    Published,
    Scope,
    Shape,
)
from surgery.architectures.shapes import affine, norm

OUTPUT: dict[str, Shape] = {"/proj_out.weight": ("vocab_size", "d_model")}
TIED = {"/proj_out.weight": "decoder.embed_tokens.weight"}


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


def _convolution(path: str, inputs: str) -> dict[str, Shape]:
    return {f"{path}.weight": ("d_model", inputs, 3), f"{path}.bias": ("d_model",)}


def _tower(tower: str) -> dict[str, Shape]:
    """Return what both towers have beside attention."""
    layer = f"{tower}.layers.{{layer}}"
    return {
        **norm(f"{layer}.self_attn_layer_norm", "d_model"),
        **affine(f"{layer}.fc1", f"{tower}_ffn_dim", "d_model"),
        **affine(f"{layer}.fc2", "d_model", f"{tower}_ffn_dim"),
        **norm(f"{layer}.final_layer_norm", "d_model"),
        **norm(f"{tower}.layer_norm", "d_model"),
    }


WHISPER = Architecture(
    model_type="whisper",
    title="Whisper",
    input="audio",
    predicts="next token",
    pipeline="automatic-speech-recognition",
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
    tensors={
        **_convolution("encoder.conv1", "num_mel_bins"),
        **_convolution("encoder.conv2", "d_model"),
        "encoder.embed_positions.weight": ("max_source_positions", "d_model"),
        **_tower("encoder"),
        "decoder.embed_tokens.weight": ("vocab_size", "d_model"),
        "decoder.embed_positions.weight": ("max_target_positions", "d_model"),
        **norm("decoder.layers.{layer}.encoder_attn_layer_norm", "d_model"),
        **_tower("decoder"),
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
    exports={"ct2": "WhisperSpec", "ggml": "whisper", "openai-whisper": "whisper"},
    classes=(
        ModelClass(
            "WhisperForConditionalGeneration", OUTPUT, TIED, autos=("AutoModelForSpeechSeq2Seq",)
        ),
        ModelClass("WhisperModel", autos=(BASE,)),
        ModelClass("WhisperForCausalLM", OUTPUT, TIED, without=("encoder",), autos=(CAUSAL,)),
        ModelClass(
            "WhisperForAudioClassification",
            {
                "/layer_weights": ("encoder_layers + 1",),
                **affine("/projector", "classifier_proj_size", "d_model"),
                **affine("/classifier", "num_labels", "classifier_proj_size"),
            },
            without=("decoder",),
            autos=("AutoModelForAudioClassification",),
        ),
    ),
    when={"/layer_weights": "use_weighted_layer_sum"},
    aliases={"num_hidden_layers": "encoder_layers"},
    by_layer={
        "alignment_heads": ("decoder", "pairs"),
        "use_weighted_layer_sum": ("encoder", "number"),
    },
    defaults={
        "tie_word_embeddings": True,
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "decoder_ffn_dim": 1536,
        "vocab_size": 51865,
        "num_mel_bins": 80,
        "classifier_proj_size": 256,
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
