"""Tiny random models of every family, built from their transformers configurations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from surgery.architectures import ARCHITECTURES, Architecture


def _whisper() -> PreTrainedModel:
    config = transformers.WhisperConfig(
        vocab_size=48,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return transformers.WhisperForConditionalGeneration(config)


def _rotary(kind: str, model: str, width: int = 32, **extra: Any) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        config = getattr(transformers, kind)(
            vocab_size=48,
            hidden_size=width,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **extra,
        )
        built: PreTrainedModel = getattr(transformers, model)(config)
        return built

    return build


def _bert(model: str) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        config = transformers.BertConfig(
            vocab_size=48,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
        )
        built: PreTrainedModel = getattr(transformers, model)(config)
        return built

    return build


def _gpt2(model: str) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        config = transformers.GPT2Config(
            vocab_size=48,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        built: PreTrainedModel = getattr(transformers, model)(config)
        return built

    return build


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    "whisper": _whisper,
    "llama": _rotary("LlamaConfig", "LlamaForCausalLM"),
    "llama-biased": _rotary("LlamaConfig", "LlamaForCausalLM", attention_bias=True),
    "llama-wide-heads": _rotary("LlamaConfig", "LlamaForCausalLM", head_dim=12),
    "mistral": _rotary("MistralConfig", "MistralForCausalLM", sliding_window=6),
    "qwen2": _rotary("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": _rotary("Qwen3Config", "Qwen3ForCausalLM", head_dim=12),
    "olmo2": _rotary("Olmo2Config", "Olmo2ForCausalLM"),
    # Its embeddings are scaled by the root of its width, which must be exact in every dtype.
    "gemma": _rotary("GemmaConfig", "GemmaForCausalLM", width=64, head_dim=12),
    "olmo3": _rotary(
        "Olmo3Config",
        "Olmo3ForCausalLM",
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "ministral": _rotary(
        "MinistralConfig",
        "MinistralForCausalLM",
        head_dim=8,  # which stock Ministral does not go without
        sliding_window=6,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "phi3": _rotary("Phi3Config", "Phi3ForCausalLM"),
    "phi3-partial": _rotary("Phi3Config", "Phi3ForCausalLM", partial_rotary_factor=0.5),
    "seed_oss": _rotary("SeedOssConfig", "SeedOssForCausalLM", head_dim=12),
    "arcee": _rotary("ArceeConfig", "ArceeForCausalLM"),
    # Scales of scores and embeddings are powers of two, as above.
    "gemma2": _rotary(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        width=64,
        head_dim=12,
        query_pre_attn_scalar=16,
        sliding_window=6,
        attn_implementation="eager",
    ),
    "gemma3_text": _rotary(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        width=64,
        head_dim=12,
        query_pre_attn_scalar=16,
        sliding_window=6,
        sliding_window_pattern=2,
    ),
    "granite": _rotary(
        "GraniteConfig",
        "GraniteForCausalLM",
        attention_multiplier=0.25,
        embedding_multiplier=4.0,
        residual_multiplier=0.5,
        logits_scaling=2.0,
    ),
    "smollm3": _rotary("SmolLM3Config", "SmolLM3ForCausalLM", no_rope_layer_interval=2),
    "starcoder2": _rotary("Starcoder2Config", "Starcoder2ForCausalLM", sliding_window=6),
    "bert": _bert("BertForMaskedLM"),
    "bert-unprefixed": _bert("BertModel"),
    "gpt2": _gpt2("GPT2LMHeadModel"),
    "gpt2-unprefixed": _gpt2("GPT2Model"),
}
"""Name to builder; each gives a model in float32 with random weights. The family comes first."""


def family_of(name: str) -> Architecture:
    """Return the family of a tiny model, by its name."""
    return ARCHITECTURES[name.partition("-")[0]]


ROTARY = tuple(name for name in TINY if family_of(name).attentions[0].between)
"""Models with RoPE between queries and keys; of them with a norm there, too:"""
NORMED = tuple(name for name in ROTARY if family_of(name).attentions[0].q.norm)
PARTIAL = tuple(name for name in ROTARY if name.endswith("-partial"))
"""Of which only a part of each head is turned; and of which scores are capped:"""
CAPPED = tuple(name for name in ROTARY if family_of(name).defaults.get("attn_logit_softcapping"))
"""Only eager attention does that, in float32, and makes NaN of padding. All of these keep QK:"""
CLOSED = {*NORMED, *PARTIAL, *CAPPED}


def tiny_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build one tiny model with all biases and norms random, so that no term is trivially zero."""
    torch.manual_seed(seed)
    model = TINY[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    return model.to(dtype)


def tiny_of(name: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Build a tiny random model of one of transformers' classes, by its name.

    Args:
        name: The class, such as ``LlamaForQuestionAnswering``.
        seed: Of its weights.
        changes: Values of its configuration.
    """
    made: Any = getattr(transformers, name)
    raw = tiny_model(made.config_class.model_type).config.to_dict()
    torch.manual_seed(seed)
    model: PreTrainedModel = made(made.config_class.from_dict({**raw, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    return model


@cache
def model_class(name: str) -> type[PreTrainedModel]:
    """Return the class that stock transformers would load a tiny model with."""
    return type(tiny_model(name))
