"""Rotary heads that keep some of their frequencies turn as they did in the dense model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import surgery
from surgery.runtime.frequencies import Frequencies
from tests.runtime.naive import SPECIAL, inputs, outputs, randomised, relative_error, write_case
from tests.runtime.naive import tolerance as allowed

SHORT = 16  # positions that scaled models were made for; inputs below are longer
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": SHORT},
    "longrope": {
        "short_factor": [1.0, 1.1, 1.3, 1.6],
        "long_factor": [1.0, 2.0, 4.0, 6.0],
        "factor": 4.0,
        "original_max_position_embeddings": SHORT,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": SHORT,
    },
}


def rotary_model(heads: int, kv_heads: int, **config: Any) -> Any:
    torch.manual_seed(0)
    made = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        **{"max_position_embeddings": 64, **SPECIAL, **config},
    )
    return randomised(transformers.LlamaForCausalLM(made)).double()


def check_against_dense(model: Any, path: Path, *, length: int = 9) -> None:
    for layout in ("ragged", "block"):
        made = write_case("llama", model, layout, path / layout)
        given = inputs(made.oracle, length=length)
        expected = outputs(made.oracle, given)
        found = outputs(surgery.load(path / layout, dtype=torch.float64), given)
        assert relative_error(found, expected) <= allowed(torch.float64)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_rope_scaling_is_the_models_own(tmp_path: Path, scaling: str) -> None:
    rope = {"rope_type": scaling, "rope_theta": 100.0, **SCALINGS[scaling]}
    reach = SHORT if scaling == "dynamic" else 64
    model = rotary_model(4, 2, max_position_embeddings=reach, rope_parameters=rope)

    check_against_dense(model, tmp_path, length=SHORT + 8)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (8, 4), (1, 1)])
def test_query_heads_turn_by_the_frequencies_of_their_key_head(
    tmp_path: Path, heads: int, kv_heads: int
) -> None:
    check_against_dense(rotary_model(heads, kv_heads), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "pairs",
    [
        ((0, 3, 4), (1,), (2, 5)),
        ((0, 3), (1, 2), (2, 5)),
        ((1, 4), (1, 4), (1, 4)),
        (tuple(range(6)),) * 3,
        None,
    ],
    ids=["ragged", "uniform", "shared", "whole", "none"],
)
def test_kept_rows_turn_as_in_the_whole_head_to_the_last_bit(
    pairs: tuple[tuple[int, ...], ...] | None, dtype: torch.dtype
) -> None:
    config = transformers.LlamaConfig(hidden_size=72, num_attention_heads=6)
    embedding = LlamaRotaryEmbedding(config)
    query, key = (torch.randn(2, heads, 5, 12, dtype=dtype) for heads in (6, 3))
    cos, sin = embedding(query, torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 500, 501]]))
    whole = apply_rotary_pos_emb(query, key, cos, sin)
    kept = pairs or (tuple(range(6)),) * 3
    widest = max(map(len, kept))

    def narrow(states: torch.Tensor) -> torch.Tensor:
        """Keep the pairs of each head, zeros up to the widest in each half."""
        cut = states.new_zeros(*states.shape[:-1], 2 * widest)
        for head in range(states.shape[1]):
            for place, pair in enumerate(kept[head * 3 // states.shape[1]]):
                cut[:, head, :, place] = states[:, head, :, pair]
                cut[:, head, :, widest + place] = states[:, head, :, pair + 6]
        return cut

    frequencies = Frequencies(pairs, 12)
    found = frequencies.rotate(apply_rotary_pos_emb, narrow(query), narrow(key), cos, sin)

    for ours, dense in zip(found, whole, strict=True):
        assert torch.equal(ours, narrow(dense))


def test_the_frequencies_follow_the_data_to_another_device() -> None:
    frequencies = Frequencies(((0, 2), (1,)), 8)
    for device in ("cpu", "meta", "cpu"):
        states, angles = torch.zeros(1, 2, 3, 4, device=device), torch.ones(1, 3, 8, device=device)
        query, _ = frequencies.rotate(apply_rotary_pos_emb, states, states, angles, angles)
        assert query.device.type == device
