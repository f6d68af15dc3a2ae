"""What families of the LLaMA kind share: one decoder, grouped queries, RoPE between q and k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import (
    BASE,
    Architecture,
    AttentionKind,
    ModelClass,
    Preset,
    Projection,
    Shape,
)
from surgery.architectures.shapes import affine

HEADS = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
LLAMA_FORMS: Mapping[str, str] = {"gguf": "llama", "hf": "mimo_v2_flash"}
"""What runs a model that computes as LLaMA does, its attention aside: see ``exports``."""
LAYER_NORMS: Mapping[str, Shape] = {
    "input_layernorm": ("hidden_size",),
    "post_attention_layernorm": ("hidden_size",),
}
SANDWICHED: Mapping[str, Shape] = {
    **LAYER_NORMS,
    "pre_feedforward_layernorm": ("hidden_size",),
    "post_feedforward_layernorm": ("hidden_size",),
}
"""Norms before and behind both blocks of a layer."""
GATED: Mapping[str, str] = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""The maps of a feed-forward block by their roles."""


def rotary_decoder(
    model_type: str,
    title: str,
    classes: str,
    *,
    defaults: Mapping[str, Any],
    qkv: str | None = None,
    qkv_bias: bool | str = False,
    o_bias: bool | str = False,
    mlp: Mapping[str, str] = GATED,
    mlp_bias: str | None = None,
    norms: Mapping[str, Shape] = LAYER_NORMS,
    norm_bias: bool = False,
    qk_norms: Mapping[str, Shape] | None = None,
    derived: Mapping[str, str] | None = None,
    heads: tuple[str, ...] = HEADS,
    causal: str | None = None,
    exports: Mapping[str, str] = LLAMA_FORMS,
    bounds: tuple[str, ...] = (),
) -> Architecture:
    """Return a family of the LLaMA kind.

    Args:
        model_type: ``config.json``'s ``model_type``.
        title: The family's name as people write it.
        classes: How the names of its classes begin in transformers.
        defaults: Layers, heads and widths that an absent key stands for.
        qkv: The module that q, k and v are fused in; ``None``: each has its own.
        qkv_bias: Whether q, k and v have a bias, or the attribute that decides.
        o_bias: Whether o has one.
        mlp: The maps of a feed-forward block, by role.
        mlp_bias: The attribute that decides whether the MLP maps have one; ``None``: they never do.
        norms: The norms of a layer, and their shapes.
        norm_bias: Whether norms, the last one too, have biases.
        qk_norms: Norms behind q and k by their module's name, and their shapes; queries' first.
        derived: See :class:`Architecture`.
        heads: Its model classes beside the base model, by what follows the family's name.
        causal: The class that predicts the next token, where its name does not begin like others'.
        exports: Its architecture in llama.cpp (``gguf``), and the family of transformers' that runs
            it with narrower values (``hf``), where they compute the same.
        bounds: Keys that hold the first layer that something is true of.
    """
    behind = dict(qk_norms or {})
    q_norm, k_norm = behind or (None, None)
    maps = {role: f"layers.{{layer}}.mlp.{name}" for role, name in mlp.items()}
    kinds = ("weight", "bias") if norm_bias else ("weight",)
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
                q=Projection(qkv or "q_proj", bias=qkv_bias, norm=q_norm),
                k=Projection(qkv or "k_proj", bias=qkv_bias, norm=k_norm),
                v=Projection(qkv or "v_proj", bias=qkv_bias),
                o=Projection("o_proj", bias=o_bias),
                between=("rope",),
                causal=True,
            ),
        ),
        linears={role: (f"layers.*.mlp.{name}.*",) for role, name in mlp.items()},
        tensors={
            "embed_tokens.weight": ("vocab_size", "hidden_size"),
            **{f"norm.{kind}": ("hidden_size",) for kind in kinds},
            **{f"layers.{{layer}}.{n}.{kind}": norms[n] for n in norms for kind in kinds},
            **{f"layers.{{layer}}.self_attn.{name}.weight": behind[name] for name in behind},
            **_mlp(maps, biased=mlp_bias is not None),
        },
        untouched=(
            "embed_tokens.weight",
            *(f"layers.*.{name}.{kind}" for name in norms for kind in kinds),
            *(f"layers.*.self_attn.{name}.weight" for name in behind),
            *(f"norm.{kind}" for kind in kinds),
            "/lm_head.weight",
            "/score.weight",
            "/score.bias",
            "/qa_outputs.*",
        ),
        towers={"decoder": "layers.*"},
        exports=exports,
        classes=_classes(classes, heads, causal),
        ignored=("layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
        when={} if mlp_bias is None else {f"{path}.bias": mlp_bias for path in maps.values()},
        defaults={"tie_word_embeddings": False, **defaults},
        derived=derived or {},
        by_layer={
            "layer_types": ("decoder", "list"),
            **dict.fromkeys(bounds, ("decoder", "bound")),
        },
        preset=Preset(
            scope="decoder",
            pairs=("vo",),
            fraction=0.25,
            reason="a quarter of VO; QK stands across "
            + ("a norm" if behind else "RoPE")
            + " and stays as it was",
        ),
    )


def named(model_type: str, title: str, classes: str, heads: tuple[str, ...]) -> dict[str, Any]:
    """Return what a family is called, for one that is another's under a name of its own."""
    return {
        "model_type": model_type,
        "title": title,
        "classes": _classes(classes, heads, None),
    }


def _mlp(paths: Mapping[str, str], *, biased: bool) -> dict[str, Shape]:
    every: dict[str, Shape] = {}
    for role, path in paths.items():
        fused = [*paths.values()].count(path)
        neurons = "intermediate_size" if fused == 1 else f"{fused} * intermediate_size"
        sizes = (neurons, "hidden_size")
        every |= affine(path, *(sizes[::-1] if role == "down" else sizes))
    return {name: shape for name, shape in every.items() if biased or not name.endswith(".bias")}


def _classes(family: str, heads: tuple[str, ...], causal: str | None) -> tuple[ModelClass, ...]:
    output: dict[str, Shape] = {"/lm_head.weight": ("vocab_size", "hidden_size")}
    score = affine("/score", "num_labels", "hidden_size")
    beside: dict[str, dict[str, Shape]] = {
        "CausalLM": output,
        "SequenceClassification": {"/score.weight": score["/score.weight"]},
        "TokenClassification": score,
        "QuestionAnswering": affine("/qa_outputs", 2, "hidden_size"),
    }
    tied = {"CausalLM": {"/lm_head.weight": "embed_tokens.weight"}}
    names = {task: f"{family}For{task}" for task in heads}
    if causal is not None:
        names["CausalLM"] = causal
    made = [
        ModelClass(name, beside[task], tied.get(task, {}), autos=(f"AutoModelFor{task}",))
        for task, name in names.items()
    ]
    return (*made, ModelClass(f"{family}Model", autos=(BASE,)))
