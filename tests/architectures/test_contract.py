"""Every family claims every tensor of a real (tiny) transformers model exactly once."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import transformers
from transformers import CONFIG_MAPPING

from surgery.architectures import ARCHITECTURES, Config, architecture_of, check_shapes, claim
from surgery.architectures.config import value
from surgery.errors import CheckpointError, UnsupportedModelError
from tests.models import TINY, tiny_model


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_tensor_has_exactly_one_role(name: str) -> None:
    model = tiny_model(name)
    raw = model.config.to_dict()
    state = model.state_dict()
    family = architecture_of(raw)
    config = Config(architecture_of(raw), raw, "config.json")

    claims = claim(family, config, list(state))

    attention = [tensor for site in claims.sites for tensor in site.tensors()]
    roles = [*attention, *claims.linears, *claims.untouched]
    assert sorted(roles) == sorted(state)
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    check_shapes(family, config, claims, shapes, where=name)


@pytest.mark.parametrize("name", sorted(TINY))
def test_biases_in_the_data_are_those_of_the_model(name: str) -> None:
    model = tiny_model(name)
    state = model.state_dict()
    raw = model.config.to_dict()
    for site in claim(
        architecture_of(raw), Config(architecture_of(raw), raw, "config.json"), list(state)
    ).sites:
        for role in ("q", "k", "v", "o"):
            projection = site.projection(role)
            bias = projection.weight.removesuffix("weight") + "bias"
            assert (projection.bias == bias) == (bias in state)


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_convolution_is_counted_by_one_pattern(name: str) -> None:
    model = tiny_model(name)
    raw = model.config.to_dict()
    state = model.state_dict()
    family = architecture_of(raw)
    claims = claim(family, Config(family, raw, "config.json"), list(state))
    kernels = [key for key, tensor in state.items() if tensor.dim() > 2]
    patterns = [claims.prefix + glob for glob in family.convolutions]
    assert all(sum(fnmatchcase(key, glob) for glob in patterns) == 1 for key in kernels)
    assert all(any(fnmatchcase(key, glob) for key in kernels) for glob in patterns)


def test_every_known_family_is_in_the_contract() -> None:
    assert {tiny_model(name).config.model_type for name in TINY} == set(ARCHITECTURES)


def test_an_unknown_family_is_told_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=", ".join(ARCHITECTURES)):
        architecture_of({"model_type": "mamba"})


@pytest.mark.parametrize(
    ("kind", "like", "more"),
    [
        ("Qwen2MoeConfig", "Qwen2", "decoder_sparse_step = 1"),
        ("CamembertConfig", "BERT", "same keys"),
        ("MptConfig", "GPT-2", "attn_config"),
    ],
)
def test_an_unknown_family_is_told_the_nearest_and_what_is_other(
    kind: str, like: str, more: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"(?s)most like {like}, but.*{more}"):
        architecture_of(getattr(transformers, kind)().to_dict())


@pytest.mark.parametrize(
    ("model", "change", "seams", "reason"),
    [
        ("qwen3", {}, {"qk"}, "QK-norm"),
        ("olmo2", {}, {"qk"}, "QK-norm"),
        ("gemma3_text", {}, {"qk"}, "QK-norm"),
        ("gemma2", {}, {"qk"}, "soft-capping"),
        ("smollm3", {}, set(), ""),
        ("llama", {"attn_logit_softcapping": 50.0}, {"qk"}, "soft-capping"),
        ("llama", {"off_by_one_softmax": True}, {"qk", "vo"}, "sum to one"),
        ("bert", {"position_embedding_type": "relative_key"}, {"qk"}, "relative position"),
        ("llama", {"attn_logit_softcapping": None}, set(), ""),
        ("whisper", {}, set(), ""),
    ],
)
def test_what_is_not_exact_closes_its_seam_and_no_other(
    model: str, change: dict[str, object], seams: set[str], reason: str
) -> None:
    built = tiny_model(model)
    raw = built.config.to_dict() | change
    family = architecture_of(raw)
    claims = claim(family, Config(family, raw, "config.json"), list(built.state_dict()))
    for site in claims.sites:
        assert {*site.closed} == seams
        assert all(reason in told for told in site.closed.values())


def test_a_model_with_parts_that_nobody_describes_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="cross-attention"):
        architecture_of({"model_type": "bert", "add_cross_attention": True})


@pytest.mark.parametrize("tensor", ["self_attn.q_norm.weight", "self_attn.sinks"])
def test_a_norm_or_sinks_among_the_tensors_are_of_another_family(tensor: str) -> None:
    model = tiny_model("llama")
    raw = model.config.to_dict()
    names = [*model.state_dict(), f"model.layers.0.{tensor}"]
    with pytest.raises(CheckpointError, match=tensor) as refused:
        claim(architecture_of(raw), Config(architecture_of(raw), raw, "config.json"), names)
    assert "model_type of their own" in str(refused.value)


def test_a_stray_tensor_is_an_error_that_names_it() -> None:
    model = tiny_model("llama")
    raw = model.config.to_dict()
    with pytest.raises(CheckpointError, match="surprise"):
        claim(
            architecture_of(raw),
            Config(architecture_of(raw), raw, "config.json"),
            [*model.state_dict(), "model.surprise"],
        )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("whisper", {"d_model": 64}),
        ("whisper", {"encoder_ffn_dim": 50}),
        ("llama", {"vocab_size": 49}),
        ("bert", {"intermediate_size": 47}),
        ("gpt2", {"n_positions": 65}),
    ],
)
def test_a_shape_that_contradicts_the_configuration_is_named(
    name: str, change: dict[str, int]
) -> None:
    model = tiny_model(name)
    raw = model.config.to_dict() | change
    state = model.state_dict()
    family = architecture_of(raw)
    config = Config(family, raw, "config.json")
    claims = claim(family, config, list(state))
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    with pytest.raises(CheckpointError, match="contradicts"):
        check_shapes(family, config, claims, shapes, where="x")


@pytest.mark.parametrize("name", ["bert-unprefixed", "gpt2-unprefixed"])
def test_checkpoints_without_the_model_prefix_are_read_as_such(name: str) -> None:
    model = tiny_model(name)
    raw = model.config.to_dict()
    assert (
        claim(
            architecture_of(raw),
            Config(architecture_of(raw), raw, "config.json"),
            list(model.state_dict()),
        ).prefix
        == ""
    )


USED = ("layers", "heads", "kv_heads", "width", "head_dim")


@pytest.mark.parametrize("empty", [False, True], ids=["written", "empty"])
@pytest.mark.parametrize("name", sorted(TINY))
def test_configurations_mean_what_transformers_makes_of_them(name: str, empty: bool) -> None:
    raw = tiny_model(name).config.to_dict()
    if empty:
        raw = {"model_type": raw["model_type"]}
    family = architecture_of(raw)
    mine, theirs = (
        Config(family, raw, "config.json"),
        CONFIG_MAPPING[raw["model_type"]].from_dict(raw),
    )
    for kind in family.attentions:
        for attribute in (getattr(kind, used) for used in USED):
            ours, library = getattr(mine, attribute, None), getattr(theirs, attribute, None)
            if library is None and attribute in family.derived:
                library = value(theirs, family.derived[attribute])
            if ours is None and attribute == kind.kv_heads:
                ours = getattr(mine, kind.heads)
            if ours is None and attribute == kind.head_dim:
                ours = getattr(mine, kind.width) // getattr(mine, kind.heads)
                library = library or ours
            assert ours == library, attribute
    for attribute in family.alternating:
        assert getattr(mine, attribute) == getattr(theirs, attribute), attribute
    shapes = [*family.tensors.values(), *(s for one in family.classes for s in one.beside.values())]
    sizes = {size for shape in shapes for size in shape if str(size).isidentifier()}
    assert sizes  # an absent one would let transformers build, and fill, a model of another shape
    for attribute in sizes:
        library = getattr(theirs, attribute)
        if library is None and attribute in family.derived:
            library = value(theirs, family.derived[attribute])
        assert getattr(mine, attribute) == library, attribute


@pytest.mark.parametrize("value", ["4", 0, -1, 2.5, None, True, 1 << 40])
def test_a_dimension_that_is_none_is_named(value: object) -> None:
    with pytest.raises(CheckpointError, match="n_head"):
        Config(ARCHITECTURES["gpt2"], {"n_head": value}, "config.json")
