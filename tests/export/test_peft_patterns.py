"""PEFT's patterns give the modules that PEFT gives them, or are refused; none takes long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.errors import CheckpointError
from surgery.stored.peft_patterns import PatternError, first_match
from tests.engine.support import run, save_tiny
from tests.models import model_class
from tests.runtime.naive import relative_error

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
    pytest.mark.usefixtures("no_pictures"),
]

PATHS = (
    "model.layers.1.self_attn.v_proj",
    "layers.1.self_attn.v_proj",
    "model.layers.11.self_attn.v_proj",
    "model.layers.1.selfXattn.v_proj",
    "model.layers.1.mlp.up_proj",
    "transformer.h.0.attn.c_attn",
    "v_proj",
    "my_v_proj",
    "v_proj.inner",
)
PATTERNS = (
    "v_proj",
    "^v_proj",
    "^model.layers.1.self_attn.v_proj",
    r"^model\.layers\.1\.self_attn\.v_proj$",
    "^layers.1.self_attn.v_proj",
    "self.attn.v_proj",
    r"self\.attn\.v_proj",
    r"layers\.\d+\.self_attn\.v_proj",
    r"layers\.1\d\..*",
    r"layers\.[0-9]\.(self_attn|mlp)\.(?:v|up)_proj",
    r"layers\.[^1]\w*\..*",
    r".*\.v_proj",
    r".+attn.+",
    "(my_)?v_proj",
    "v_proj|up_proj",
    r"layers.1{2}.self_attn.v_pro[a-j]{1,2}",
    r"[\w.-]{3,12}v_proj",
    "v_projj?",
    "v_proj)|(model",  # PEFT puts a pattern into brackets as it is
    "",
    "$",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_matches_in_peft(pattern: str) -> None:
    from peft.utils.other import get_pattern_key

    for path in PATHS:
        theirs = get_pattern_key([pattern], path)
        assert (first_match([pattern], path) or path) == theirs, path


def test_the_first_pattern_that_matches_counts() -> None:
    from peft.utils.other import get_pattern_key

    patterns = ["up_proj", "v_proj", "layers.1.self_attn.v_proj"]
    assert first_match(patterns, PATHS[0]) == get_pattern_key(patterns, PATHS[0]) == "v_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        r"(a)\1",
        "(?=a)a",
        "(?i)a",
        "a*+b",
        "a**",
        "*a",
        "[z-a]",
        "[[:alpha:]]",
        r"\Aa",
        "a{3,2}",
        "(a",
        "a" * 2000,
        "(" * 60 + ")" * 60,
    ],
)
def test_a_pattern_that_is_not_followed_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        first_match([pattern], "model.layers.1.self_attn.v_proj")


def test_no_pattern_takes_long() -> None:
    began = time.process_time()
    first_match([".*" * 400 + "x!", "[a-z.]{9999}" * 60, "(a|" * 30 + "b" + ")" * 30], "a." * 60)
    assert time.process_time() - began < 5


def adapted(source: Path, directory: Path, **options: Any) -> Any:
    """A model with a LoRA that changes it, saved."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        **options,
    )
    model = peft.get_peft_model(model_class("llama").from_pretrained(source), config).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize(
    "pattern",
    [
        "^layers.1.self_attn.v_proj",
        "^model.layers.1.self_attn.v_proj",
        "self.attn.v_proj",
        r"layers\.[1-9]\..*",
    ],
)
def test_alphas_by_patterns_are_those_of_peft(pattern: str, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = adapted(source, tmp_path / "adapter", alpha_pattern={pattern: 64})

    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")

    assert relative_error(run(surgery.load(tmp_path / "out")), run(model)) <= 1e-5


def test_ranks_by_patterns_are_those_of_the_tensors_or_refused(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    ranks = {"^model.layers.0.self_attn.q_proj": 2}
    model = adapted(source, tmp_path / "adapter", rank_pattern=ranks)
    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert relative_error(run(surgery.load(tmp_path / "out")), run(model)) <= 1e-5

    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace("layers.0", "layers.1"))
    with pytest.raises(
        CheckpointError, match=r"(?s)another rank.*4 for .*layers\.0.*first pattern"
    ):
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "other")
    assert not (tmp_path / "other").exists()
