"""BERT: encoder self-attention with biases everywhere; o lives in ``attention.output``."""

from __future__ import annotations

from surgery.architectures.base import Architecture, AttentionKind, Preset, Projection

BERT = Architecture(
    model_type="bert",
    title="BERT",
    prefixes=("bert.", ""),
    attentions=(
        AttentionKind(
            scope="encoder",
            path="encoder.layer.{layer}.attention",
            layers="num_hidden_layers",
            heads="num_attention_heads",
            kv_heads="num_attention_heads",
            width="hidden_size",
            q=Projection("self.query", bias=True),
            k=Projection("self.key", bias=True),
            v=Projection("self.value", bias=True),
            o=Projection("output.dense", bias=True),
        ),
    ),
    linears={
        "up": ("encoder.layer.*.intermediate.dense.*",),
        "down": ("encoder.layer.*[0-9].output.dense.*",),
    },
    shapes={
        "encoder.layer.*.intermediate.dense.weight": ("intermediate_size", "hidden_size"),
        "encoder.layer.*[0-9].output.dense.weight": ("hidden_size", "intermediate_size"),
        "embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", "hidden_size"),
    },
    untouched=(
        "embeddings.*",
        "encoder.layer.*.LayerNorm.*",
        "pooler.dense.*",
        "/cls.*",
        "/classifier.*",
        "/qa_outputs.*",
    ),
    towers={"encoder": "encoder.*"},
    preset=Preset(
        scope="encoder",
        pairs=("qk", "vo"),
        fraction=0.25,
        reason="a quarter of all attention",
    ),
    defaults={
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_size": 768,
        "max_position_embeddings": 512,
    },
    inexact={
        "position_embedding_type": (
            "absolute",
            "relative position terms multiply q and k outside their product",
        ),
        "add_cross_attention": (False, "cross-attention blocks of BERT decoders are not described"),
    },
)
