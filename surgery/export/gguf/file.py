"""A GGUF file, written tensor by tensor with the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgery.checkpoint.disk import target_errors
from surgery.events import Event, Progress
from surgery.export.gguf.chat import Chat, write_chat
from surgery.export.gguf.form import BLOCK, RAGGED, GgufForm
from surgery.export.gguf.tensors import GgufTensors, Placed
from surgery.export.gguf.words import SCORED, Words
from surgery.export.hf.config import effective, plain_config
from surgery.stored.stored import Stored
from surgery.stored.stream import cast

KINDS = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "q8_0": torch.float32,
}
"""Types of matrices, and what they are rounded from."""


def write(
    path: Path,
    stored: Stored,
    form: GgufForm,
    words: Words,
    chat: Chat,
    kind: str,
    progress: Progress,
) -> None:
    """Write a model.

    Args:
        path: The file.
        stored: The checkpoint.
        form: How it is written.
        words: Its tokenizer.
        chat: Its templates, and the tokens that it stops at.
        kind: Type of the matrices, of :data:`KINDS`; everything else is float32.
        progress: Called for every tensor.

    Raises:
        CheckpointError: A value does not fit float16.
        TargetError: The file cannot be written.
    """
    import gguf

    writer = gguf.GGUFWriter(path, form.arch)
    _describe(writer, stored, form)
    _speak(writer, words, stored)
    write_chat(writer, chat, spoken=not words.stand_in)
    tensors = GgufTensors(stored, form)
    parts = list(tensors.placed())
    types = {part.name: _type(part, kind) for part in parts}
    writer.add_file_type(getattr(gguf.LlamaFileType, _file_type(kind)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for part in parts:
        raw = getattr(gguf.GGMLQuantizationType, types[part.name].upper())
        shape = gguf.quant_shape_to_byte_shape(part.shape, raw)
        block, size = gguf.GGML_QUANT_SIZES[raw]
        nbytes = int(np.prod(part.shape)) * size // block
        held = np.dtype(np.uint8) if types[part.name] in ("bf16", "q8_0") else None
        if held is None:
            writer.add_tensor_info(part.name, part.shape, _numpy(types[part.name]), nbytes)
        else:
            writer.add_tensor_info(part.name, shape, held, nbytes, raw_dtype=raw)
    with target_errors(path):
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for count, part in enumerate(parts):
                progress(Event("Writing", count, len(parts), part.name))
                kind_of = types[part.name]
                values = cast(part.name, tensors.tensor(part), KINDS[kind_of]).float().numpy()
                writer.write_tensor_data(_packed(gguf, values, kind_of))
            progress(Event("Writing", len(parts), len(parts)))
        finally:
            writer.close()


def _describe(writer: Any, stored: Stored, form: GgufForm) -> None:
    """Write the metadata of the model."""
    config = effective(plain_config(stored.source.config))
    writer.add_name(stored.source.slug)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    lengths = form.lengths(stored)
    writer.add_feed_forward_length(lengths if form.arch == RAGGED else max(lengths))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(form.heads.head_dim)
    writer.add_value_length(form.heads.value_dim)
    writer.add_rope_dimension_count(form.heads.head_dim)
    theta = float(config.rope_parameters["rope_theta"])
    writer.add_rope_freq_base(theta)
    if form.arch == "mimo2":  # all that makes it other than a LLaMA is switched off
        writer.add_expert_feed_forward_length(max(lengths))
        # There must be a layer with a window: one as long as the text.
        writer.add_sliding_window(context_length(config))
        writer.add_sliding_window_pattern([True] + [False] * (config.num_hidden_layers - 1))
        writer.add_rope_freq_base_swa(theta)


def context_length(config: Any) -> int:
    """Return how long a text may be: llama.cpp knows no window that all layers attend to."""
    window = getattr(config, "sliding_window", None)
    longest = int(config.max_position_embeddings)
    return longest if window is None else min(longest, int(window))


def _speak(writer: Any, words: Words, stored: Stored) -> None:
    """Write the metadata of the tokenizer."""
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.split or "default")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    if words.scores:
        writer.add_token_scores(words.scores)
    if words.merges:
        writer.add_token_merges(words.merges)
    writer.add_add_bos_token(words.begins)
    if words.model == SCORED:
        writer.add_add_space_prefix(words.prefix)
    config = effective(plain_config(stored.source.config))
    for name in ("bos", "pad"):
        found = getattr(config, f"{name}_token_id", None)
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, int) and 0 <= first < len(words.tokens):
            getattr(writer, f"add_{name}_token_id")(first)


def _type(part: Placed, kind: str) -> str:
    """Return what a tensor is stored as: vectors in float32, odd rows in halves at the least."""
    if len(part.shape) < 2:
        return "f32"
    return "f16" if kind == "q8_0" and part.shape[-1] % BLOCK else kind


def _file_type(kind: str) -> str:
    return "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"


def _numpy(kind: str) -> np.dtype[Any]:
    return np.dtype(np.float32 if kind == "f32" else np.float16)


def _packed(gguf: Any, values: Any, kind: str) -> Any:
    if kind in ("bf16", "q8_0"):
        return gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, kind.upper()))
    return values.astype(_numpy(kind))


def expected_bytes(parts: Sequence[Placed], kind: str) -> int:
    """Return about how large the tensors of a file are."""
    width = {"f32": 4.0, "q8_0": 34 / 32}.get(kind, 2.0)
    return int(sum(np.prod(part.shape) * width for part in parts))


def stored_kind(dtype: str) -> str:
    """Return the type that holds what is stored, by torch's name of its dtype."""
    return {"float16": "f16", "bfloat16": "bf16"}.get(dtype, "f32")
