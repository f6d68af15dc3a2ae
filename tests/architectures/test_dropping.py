"""What the layers that stay are called, and what a configuration says, once others have left."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.architectures import architecture_of
from surgery.architectures.config import Config
from surgery.architectures.dropping import renamed, renumbered, shallower
from surgery.errors import CheckpointError

QWEN = {"model_type": "qwen2", "num_hidden_layers": 6, "num_attention_heads": 4, "hidden_size": 32}
WHISPER = {
    "model_type": "whisper",
    "encoder_layers": 4,
    "decoder_layers": 3,
    "num_hidden_layers": 4,
    "begin_suppress_tokens": [220, 7, 9],
}


def told(raw: dict[str, Any], **dropped: tuple[int, ...]) -> dict[str, Any]:
    family = architecture_of(raw)
    config = Config(family, raw, "config.json")
    return shallower(family, raw, config, dropped, where="config.json")  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["model.", "transformer.", ""])
def test_layers_that_stay_are_numbered_anew(prefix: str) -> None:
    family = architecture_of(QWEN)
    dropped: Any = {"decoder": (1, 4)}
    path = prefix + "layers.{}.self_attn.rotary_emb.inv_freq"
    names = [renamed(family, prefix, path.format(layer), dropped) for layer in range(6)]
    assert names == [path.format(0), None, path.format(1), path.format(2), None, path.format(3)]
    assert renamed(family, prefix, f"{prefix}layers.12", dropped) == f"{prefix}layers.10"
    for other in ("lm_head.weight", f"{prefix}norm.weight", f"{prefix}embed_tokens.weight"):
        assert renamed(family, prefix, other, dropped) == other


def test_each_tower_has_its_own_numbers() -> None:
    family = architecture_of(WHISPER)
    dropped: Any = {"encoder": (0,), "decoder": (2,)}
    new = [
        renamed(family, "model.", f"model.{tower}.layers.{layer}.fc1.bias", dropped)
        for tower, layer in (("encoder", 2), ("decoder", 1), ("decoder", 2))
    ]
    assert new == ["model.encoder.layers.1.fc1.bias", "model.decoder.layers.1.fc1.bias", None]


def test_counts_follow_under_every_name_they_have() -> None:
    made = told(WHISPER, encoder=(0, 2))
    assert (made["encoder_layers"], made["num_hidden_layers"], made["decoder_layers"]) == (2, 2, 3)
    assert made["begin_suppress_tokens"] == WHISPER["begin_suppress_tokens"]
    gpt2 = {"model_type": "gpt2", "n_layer": 3, "num_hidden_layers": 3}
    made = told(gpt2, decoder=(1,))
    assert (made["n_layer"], made["num_hidden_layers"]) == (2, 2)
    assert told({"model_type": "bert"}, encoder=(3,))["num_hidden_layers"] == 11


def test_lists_and_bounds_follow() -> None:
    kinds = ["full_attention"] * 3 + ["sliding_attention"] * 3
    made = told({**QWEN, "layer_types": kinds, "max_window_layers": 3}, decoder=(0, 4))
    assert made["layer_types"] == ["full_attention"] * 2 + ["sliding_attention"] * 2
    assert made["max_window_layers"] == 2
    assert told(QWEN, decoder=(0, 4))["max_window_layers"] == 26  # of 28, which an absent one means


def test_alignment_heads_follow_and_go_with_their_layers() -> None:
    family = architecture_of(WHISPER)
    raw = {"alignment_heads": [[0, 1], [1, 0], [2, 3]], "suppress_tokens": [1, 2, 3]}
    dropped: Any = {"decoder": (1,), "encoder": (0,)}
    made = renumbered(family, raw, dropped, where="generation_config.json")
    assert made == {**raw, "alignment_heads": [[0, 1], [1, 3]]}
    none = renumbered(
        family, {"alignment_heads": [[1, 0]]}, dropped, where="generation_config.json"
    )
    assert none == {}
    same = renumbered(family, raw, {"encoder": (0,)}, where="generation_config.json")
    assert same == raw


@pytest.mark.parametrize(
    ("raw", "scope"),
    [
        ({**QWEN, "windows": [1, 2, 3, 4, 5, 6]}, "decoder"),
        ({**QWEN, "no_rope_layers": [1, 0]}, "decoder"),
        ({**QWEN, "pruned_heads": {"0": [1]}}, "decoder"),
        ({**QWEN, "max_window_layers": "all"}, "decoder"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "decoder"),
        ({**WHISPER, "use_weighted_layer_sum": True}, "encoder"),
    ],
)
def test_what_speaks_of_layers_in_another_way_is_refused(raw: dict[str, Any], scope: str) -> None:
    with pytest.raises(CheckpointError, match="single layers"):
        told(raw, **{scope: (0,)})
