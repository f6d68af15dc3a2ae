"""Which heads share a call of a fused kernel, and that nothing else depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import surgery
from surgery.runtime import HeadLayout, SiteRanks, executed_widths
from surgery.runtime.attention import RestructuredAttention
from surgery.runtime.cached_step import cache_name
from surgery.runtime.groups import HeadGroups, width_groups
from tests.runtime.naive import Case, exact, inputs, outputs, relative_error, tolerance

WIDTHS = st.lists(st.integers(1, 128), min_size=1, max_size=12)


@given(WIDTHS)
def test_every_head_is_in_one_group_no_wider_than_it_must_be(widths: list[int]) -> None:
    groups = width_groups(widths)

    assert sorted(head for group in groups for head in group) == list(range(len(widths)))
    tops = [max(widths[head] for head in group) for group in groups]
    assert tops == sorted(set(tops))
    for group, below in zip(groups[1:], tops, strict=False):
        assert min(widths[head] for head in group) > below


@pytest.mark.parametrize(
    ("widths", "groups"),
    [
        ([34] * 6, 1),
        ([33, 40, 48, 47], 1),  # one tile count: a second call would save nothing
        ([41, 45, 46, 47, 52, 55], 2),  # a real Whisper's encoder block
        ([10, 30, 44, 60], 3),
        ([16, 32, 48, 64, 80, 96], 3),  # never more
    ],
)
def test_a_group_more_is_made_only_where_it_saves(widths: list[int], groups: int) -> None:
    assert len(width_groups(widths)) == groups


def test_fused_kernels_run_at_one_width_and_eager_attention_at_two() -> None:
    assert executed_widths(SiteRanks((3, 8), (2, 5))) == ((8, 8), (8, 8))
    assert executed_widths(SiteRanks((3, 40), (2, 5))) == ((3, 3), (40, 40))
    assert executed_widths(SiteRanks((3, 3), (2, 2)), fused=False)[0]._asdict() == {"qk": 3, "v": 2}


@pytest.fixture
def wide_case(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    """Ragged checkpoints whose narrow heads are put into several groups all the same."""
    monkeypatch.setattr("surgery.runtime.groups.TILE", 1)
    monkeypatch.setattr("surgery.runtime.groups.WORTH", 0.0)
    return lambda name: case(name, "ragged", exact(name))


def grouped(model: Any) -> list[RestructuredAttention]:
    found = [each for each in model.modules() if isinstance(each, RestructuredAttention)]
    return [each for each in found if len(each._groups.heads) > 1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2", "bert-masked"])
def test_groups_of_heads_equal_the_zero_padded_model(
    wide_case: Callable[..., Case], name: str, masked: bool
) -> None:
    made = wide_case(name)
    made.oracle.set_attn_implementation("sdpa")
    model = surgery.load(made.path, dtype=exact(name), attn_implementation="sdpa")
    given = inputs(model)
    if masked and name != "whisper":
        given["attention_mask"][0, :3] = 0

    assert grouped(model)
    found, expected = outputs(model, given), outputs(made.oracle, given)
    if masked and name != "whisper":
        found, expected = found[:, 3:], expected[:, 3:]
    assert relative_error(found, expected) <= tolerance(exact(name))


def test_weights_and_masks_of_groups_are_by_head_as_stored(
    wide_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wide_case("whisper")
    model = surgery.load(made.path, dtype=torch.float64, attn_implementation="sdpa")

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor]:
        weights = (query @ key.mT * options["scaling"] + mask).softmax(-1)
        return (weights @ value).transpose(1, 2), weights

    (attention, *_) = grouped(model.model.encoder)
    states = torch.randn(2, 12, 32, dtype=torch.float64)
    mask = torch.randn(2, 4, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = attention(states, attention_mask=mask)
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "theirs", attend)
        attention.config._attn_implementation = "theirs"
        found = attention(states, attention_mask=mask)

    for ours, eager in zip(found, expected, strict=True):
        assert relative_error(ours, eager) <= tolerance(torch.float64)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_cache_is_laid_out_to_attend_from_one_token(
    implementation: str, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case("llama", "ragged")
    model = surgery.load(made.path, dtype=torch.float64, attn_implementation=implementation)
    given, seen = inputs(model)["input_ids"], implementation == "eager"
    with torch.no_grad():
        expected = model(given, output_attentions=seen)
        cache = model(given[:, :-1]).past_key_values
        monkeypatch.delattr(HeadGroups, "lay_out")
        monkeypatch.setattr(type(ALL_ATTENTION_FUNCTIONS), "get_interface", lambda *_: pytest.fail)
        found = model(given[:, -1:], **{cache_name(model): cache}, output_attentions=seen)

    pairs = [(found.logits[:, -1], expected.logits[:, -1])]
    if seen:  # the weights of every head, as eager attention gives them
        layers = zip(found.attentions, expected.attentions, strict=True)
        pairs += [(weights, others[:, :, -1:]) for weights, others in layers]
    for one, other in pairs:
        assert one.shape == other.shape
        # Over a sequence LLaMA's eager attention in transformers takes its softmax in float32.
        assert relative_error(one, other) <= tolerance(torch.float32 if seen else torch.float64)


def test_groups_hold_whole_key_value_heads() -> None:
    layout = HeadLayout(6, 3, 64, SiteRanks((60, 8, 8), (64, 8, 9)))

    assert HeadGroups(layout).heads == [[2, 3, 4, 5], [0, 1]]
