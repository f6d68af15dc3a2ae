"""GPT-2: q, k and v fused in ``c_attn``, all maps stored transposed (``Conv1D``), all biased."""

from __future__ import annotations

from surgery.architectures.base import (
    BASE,
    CAUSAL,
    Architecture,
    AttentionKind,
    ModelClass,
    Preset,
    Projection,
    Shape,
)
from surgery.architectures.shapes import affine, norm, transposed

OUTPUT: dict[str, Shape] = {"/lm_head.weight": ("vocab_size", "hidden_size")}
TIED = {"/lm_head.weight": "wte.weight"}


FUSED = Projection("c_attn", bias=True, transposed=True)

GPT2 = Architecture(
    model_type="gpt2",
    title="GPT-2",
    input="text",
    predicts="next token",
    pipeline="text-generation",
    prefixes=("transformer.", ""),
    attentions=(
        AttentionKind(
            scope="decoder",
            path="h.{layer}.attn",
            layers="num_hidden_layers",
            heads="num_attention_heads",
            kv_heads="num_attention_heads",
            width="hidden_size",
            q=FUSED,
            k=FUSED,
            v=FUSED,
            o=Projection("c_proj", bias=True, transposed=True),
            causal=True,
        ),
    ),
    linears={"up": ("h.*.mlp.c_fc.*",), "down": ("h.*.mlp.c_proj.*",)},
    tensors={
        "wte.weight": ("vocab_size", "hidden_size"),
        "wpe.weight": ("max_position_embeddings", "hidden_size"),
        **norm("h.{layer}.ln_1", "hidden_size"),
        **norm("h.{layer}.ln_2", "hidden_size"),
        **transposed("h.{layer}.mlp.c_fc", "n_inner", "hidden_size"),
        **transposed("h.{layer}.mlp.c_proj", "hidden_size", "n_inner"),
        **norm("ln_f", "hidden_size"),
    },
    untouched=(
        "wte.weight",
        "wpe.weight",
        "h.*.ln_1.*",
        "h.*.ln_2.*",
        "ln_f.*",
        "/lm_head.weight",
        "/score.weight",
        "/classifier.*",
        "/qa_outputs.*",
        "/multiple_choice_head.*",
    ),
    towers={"decoder": "h.*"},
    preset=Preset(
        scope="decoder",
        pairs=("qk", "vo"),
        fraction=0.25,
        reason="a quarter of all attention",
    ),
    classes=(
        ModelClass("GPT2LMHeadModel", OUTPUT, TIED, autos=(CAUSAL, "AutoModelForPreTraining")),
        ModelClass(
            "GPT2DoubleHeadsModel",
            {**OUTPUT, **affine("/multiple_choice_head.summary", 1, "hidden_size")},
            TIED,
        ),
        ModelClass(
            "GPT2ForSequenceClassification",
            {"/score.weight": ("num_labels", "hidden_size")},
            autos=("AutoModelForSequenceClassification",),
        ),
        ModelClass(
            "GPT2ForTokenClassification",
            affine("/classifier", "num_labels", "hidden_size"),
            autos=("AutoModelForTokenClassification",),
        ),
        ModelClass(
            "GPT2ForQuestionAnswering",
            affine("/qa_outputs", 2, "hidden_size"),
            autos=("AutoModelForQuestionAnswering",),
        ),
        ModelClass("GPT2Model", autos=(BASE,)),
    ),
    # causal masks that old checkpoints carry
    ignored=("h.*.attn.bias", "h.*.attn.masked_bias"),
    defaults={
        "tie_word_embeddings": True,
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "vocab_size": 50257,
        "n_positions": 1024,
    },
    derived={"n_inner": "4 * hidden_size"},
    aliases={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
    },
    by_layer={"scale_attn_by_inverse_layer_idx": ("decoder", "number")},
    undescribed={
        "add_cross_attention": (
            False,
            "cross-attention blocks of GPT-2 decoders are not described",
        ),
    },
)
