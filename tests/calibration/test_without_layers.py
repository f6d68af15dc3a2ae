"""A model without some layers computes what the stock class computes with fewer of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from surgery.architectures.dropping import Layer
from surgery.calibration.layers import influences, least_missed, open_to
from surgery.calibration.towers import Tower
from surgery.calibration.without_layers import without_layers
from surgery.evaluation.layers import stack
from surgery.events import ignore
from tests.engine.support import inputs, run
from tests.models import tiny_of

COUNTS = {"whisper": ("encoder_layers", "decoder_layers"), "gpt2": ("n_layer",)}
SLIDING = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention"],
}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("WhisperForConditionalGeneration", {}),
    ("LlamaForCausalLM", {}),
    ("LlamaForQuestionAnswering", {}),
    ("MistralForCausalLM", {}),
    ("Qwen2ForCausalLM", SLIDING),
    ("Qwen3ForCausalLM", SLIDING),
    ("Olmo2ForCausalLM", {}),
    ("GemmaForCausalLM", {}),
    ("BertForMaskedLM", {}),
    ("BertModel", {}),
    ("GPT2LMHeadModel", {}),
    ("GPT2Model", {}),
]


def deep(name: str, changes: dict[str, Any]) -> Any:
    """A tiny model of four layers a tower."""
    kind = getattr(transformers, name).config_class.model_type
    counts = COUNTS.get(kind, ("num_hidden_layers",))
    return tiny_of(name, **{"layer_types": None, **changes, **dict.fromkeys(counts, 4)})


def shortened(model: Any, gone: tuple[int, ...], towers: tuple[str, ...] = ("",)) -> Any:
    """Build the stock class with fewer layers, and give it the weights of those that stay."""
    kind = model.config.model_type
    raw = model.config.to_dict()
    for key in COUNTS.get(kind, ("num_hidden_layers",)):
        if key.startswith(towers):
            raw[key] = 4 - len(gone)
    if isinstance(raw.get("layer_types"), list):
        raw["layer_types"] = [one for at, one in enumerate(raw["layer_types"]) if at not in gone]
    raw.pop("num_hidden_layers") if kind in COUNTS and "num_hidden_layers" in raw else None
    short = type(model)(type(model.config).from_dict(raw)).eval()
    new = {at: place for place, at in enumerate(at for at in range(4) if at not in gone)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        match = re.fullmatch(r"(.*?)\b(layers?|h)\.(\d+)\.(.*)", name)
        if match and (towers == ("",) or any(one in match[1] for one in towers)):
            at = int(match[3])
            if at in new:
                state[f"{match[1]}{match[2]}.{new[at]}.{match[4]}"] = tensor
        else:
            state[name] = tensor
    short.load_state_dict(state)
    return short


def computed(model: Any) -> Tensor:
    if hasattr(model, "qa_outputs"):
        with torch.no_grad():
            return model(**inputs(model)).start_logits  # type: ignore[no-any-return]
    return run(model)


def generated(model: Any) -> list[int]:
    given = inputs(model, batch=1)
    given.pop("decoder_input_ids", None)
    given.pop("attention_mask", None)
    limits = {"max_new_tokens": 8, "do_sample": False, "max_length": None, "eos_token_id": None}
    return model.generate(**given, **limits)[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "changes"), MODELS, ids=[name for name, _ in MODELS])
def test_it_is_the_stock_class_with_fewer_layers_bit_for_bit(
    name: str, changes: dict[str, Any]
) -> None:
    model = deep(name, changes)
    kind = model.config.model_type
    scopes: Any = {"whisper": ("encoder", "decoder"), "bert": ("encoder",)}.get(kind, ("decoder",))
    gone = [Layer(scope, layer) for scope in scopes for layer in (0, 2)]
    before, said = computed(model), model.config.to_dict()
    short = shortened(model, (0, 2))
    with without_layers(model, gone):
        assert torch.equal(computed(model), computed(short))
        assert {*dict(model.named_parameters())} == {*dict(short.named_parameters())}
        if model.can_generate():
            assert generated(model) == generated(short)
    assert torch.equal(computed(model), before) and model.config.to_dict() == said


def test_towers_lose_layers_of_their_own() -> None:
    model = deep("WhisperForConditionalGeneration", {})
    short = shortened(model, (1, 3), ("decoder",))
    with without_layers(model, [Layer("decoder", 1), Layer("decoder", 3)]):
        assert torch.equal(computed(model), computed(short)) and generated(model) == generated(
            short
        )


class Planted:
    """A witness that minds layers as it was told to, and pairs of them more than that."""

    def __init__(self, model: Any, minds: dict[tuple[int, ...], float]) -> None:
        self.model, self.minds = model, minds
        self.layers = stack(model)

    def damage(self) -> float:
        now = stack(self.model)
        return self.minds[tuple(at for at, each in enumerate(self.layers) if each not in now)]


def test_the_layer_that_is_missed_least_goes_and_the_others_are_tried_again() -> None:
    model = deep("LlamaForCausalLM", {})
    alone = {(0,): float("nan"), (1,): 0.3, (2,): 0.1, (3,): 0.2}
    minds = {**alone, (1, 2): 0.4, (2, 3): 0.7}  # 0 is not tried again: alone it is worse
    layers = [Layer("decoder", at) for at in range(4)]
    kept: dict[str, float] = {}
    witness: Any = Planted(model, minds)
    found = [*least_missed(witness, layers, {None: 2}, ignore, keep=kept.__setitem__)]
    assert [layer.layer for layer, _ in found] == [2, 1]
    assert found[1][1] == {layers[1]: 0.4, layers[3]: 0.7}
    witness = Planted(model, {})  # nothing is tried that is known
    again = least_missed(witness, layers, {None: 2}, ignore, known=kept.get)
    assert [layer for layer, _ in again] == [layer for layer, _ in found]


def test_every_tower_keeps_a_layer_and_loses_no_more_than_asked() -> None:
    layers = [
        *(Layer("encoder", at) for at in range(2)),
        *(Layer("decoder", at) for at in range(3)),
    ]
    assert open_to(layers, {None: 3}, layers[:1]) == layers[2:]
    assert open_to(layers, {"decoder": 1}, []) == layers[2:]
    assert open_to(layers, {"decoder": 1}, layers[2:3]) == []


def test_influence_is_how_far_a_layer_turns_its_input() -> None:
    model = deep("LlamaForCausalLM", {})
    tokens = inputs(model)["input_ids"]
    weights = torch.rand(tokens.shape, dtype=torch.float64)
    with torch.no_grad():
        states = model.model(input_ids=tokens, output_hidden_states=True).hidden_states
        layers = stack(model)
        last: list[Tensor] = []
        hook = layers[-1].register_forward_hook(lambda *given: last.append(given[2]))
        model.model(input_ids=tokens)
        hook.remove()
    tower = Tower("decoder", layers, [lambda: model.model(input_ids=tokens)], [weights])
    found = influences([tower], ["decoder"], ignore)
    for at in range(4):
        x, y = states[at].double(), (states[at + 1] if at < 3 else last[0]).double()
        cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
        expected = 1 - float((cosine * weights).sum() / weights.sum())
        assert found[Layer("decoder", at)] == pytest.approx(expected, abs=1e-9)
