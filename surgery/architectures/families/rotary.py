"""What LLaMA, Mistral and Qwen2 share: one decoder, grouped queries, RoPE between q and k."""

from __future__ import annotations

from collections.abc import Mapping

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
from surgery.architectures.shapes import affine


def rotary_decoder(
    model_type: str,
    title: str,
    classes: str,
    *,
    defaults: Mapping[str, int],
    qkv_bias: bool | str = False,
    o_bias: bool | str = False,
    mlp_bias: str | None = None,
    gguf: str = "llama",
) -> Architecture:
    """Return a family of the LLaMA kind.

    Args:
        model_type: ``config.json``'s ``model_type``.
        title: The family's name as people write it.
        classes: How the names of its classes begin in transformers.
        defaults: Layers, heads and widths that an absent key stands for.
        qkv_bias: Whether q, k and v have a bias, or the attribute that decides.
        o_bias: Whether o has one.
        mlp_bias: The attribute that decides whether the MLP maps have one; ``None``: they never do.
        gguf: Its architecture in llama.cpp.
    """
    mlp = [f"layers.{{layer}}.mlp.{name}_proj" for name in ("gate", "up", "down")]
    return Architecture(
        model_type=model_type,
        title=title,
        input="text",
        predicts="next token",
        pipeline="text-generation",
        prefixes=("model.", "transformer.", ""),  # transformers' question answering: the second
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
        tensors={
            "embed_tokens.weight": ("vocab_size", "hidden_size"),
            "norm.weight": ("hidden_size",),
            "layers.{layer}.input_layernorm.weight": ("hidden_size",),
            "layers.{layer}.post_attention_layernorm.weight": ("hidden_size",),
            **_mlp(mlp, biased=mlp_bias is not None),
        },
        untouched=(
            "embed_tokens.weight",
            "layers.*.input_layernorm.weight",
            "layers.*.post_attention_layernorm.weight",
            "norm.weight",
            "/lm_head.weight",
            "/score.weight",
            "/score.bias",
            "/qa_outputs.*",
        ),
        towers={"decoder": "layers.*"},
        exports={"gguf": gguf},
        classes=_classes(classes),
        ignored=("layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
        when={} if mlp_bias is None else {f"{path}.bias": mlp_bias for path in mlp},
        defaults={"tie_word_embeddings": False, **defaults},
        preset=Preset(
            scope="decoder",
            pairs=("vo",),
            fraction=0.25,
            reason="a quarter of VO; QK stands across RoPE and stays as it was",
        ),
    )


def _mlp(paths: list[str], *, biased: bool) -> dict[str, Shape]:
    gate, up, down = paths
    every = {
        **affine(gate, "intermediate_size", "hidden_size"),
        **affine(up, "intermediate_size", "hidden_size"),
        **affine(down, "hidden_size", "intermediate_size"),
    }
    return {name: shape for name, shape in every.items() if biased or not name.endswith(".bias")}


def _classes(family: str) -> tuple[ModelClass, ...]:
    output: dict[str, Shape] = {"/lm_head.weight": ("vocab_size", "hidden_size")}
    score = affine("/score", "num_labels", "hidden_size")
    heads: dict[str, dict[str, Shape]] = {
        "SequenceClassification": {"/score.weight": score["/score.weight"]},
        "TokenClassification": score,
        "QuestionAnswering": affine("/qa_outputs", 2, "hidden_size"),
    }
    tied = {"/lm_head.weight": "embed_tokens.weight"}
    return (
        ModelClass(f"{family}ForCausalLM", output, tied, autos=(CAUSAL,)),
        *(
            ModelClass(f"{family}For{task}", beside, autos=(f"AutoModelFor{task}",))
            for task, beside in heads.items()
        ),
        ModelClass(f"{family}Model", autos=(BASE,)),
    )
