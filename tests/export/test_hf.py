"""Stock transformers, without remote code, computes what our runtime does: smaller where it can."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import UsageError
from surgery.export.hf.target import HuggingFace
from surgery.export.run import Exported
from surgery.export.target import Choice, Fit
from surgery.methods import Remove
from surgery.runtime.heads import SiteRanks
from surgery.stored.adapter import write_adapter
from surgery.stored.stored import read_stored
from tests.engine.spoken import TEXT, save_spoken
from tests.engine.support import config_of, run, save_tiny, tensors_of
from tests.engine.test_rope_pairs import write
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")

LAYERS, KV, DIM = 2, 2, 8  # of every tiny rotary model
MIMO = "MiMoV2FlashForCausalLM"

Pairs = Sequence[Sequence[int]]
"""Frequencies of each head; heads of all blocks, block by block."""


def pruned(
    name: str, place: Path, pairs: Pairs | None, values: Sequence[int], dtype: str = "fp32"
) -> Path:
    """Cut a tiny rotary model: frequencies and V ranks, one entry a head or one for all."""
    source = save_tiny(name, place / "source", dtype=dtype)
    heads = LAYERS * KV
    v = list(values) * (heads // len(values))
    kept = None if pairs is None else [tuple(each) for each in pairs] * (heads // len(pairs))
    ranks = {}
    for layer in range(LAYERS):
        mine = slice(KV * layer, KV * (layer + 1))
        own = None if kept is None else tuple(kept[mine])
        qk = (DIM,) * KV if own is None else tuple(2 * len(each) for each in own)
        ranks[f"model.layers.{layer}.self_attn"] = SiteRanks(qk, tuple(v[mine]), own)
    return write(source, place / "pruned", ranks)


def to_hf(checkpoint: Path) -> Exported:
    return surgery.export_model(checkpoint, "hf", checkpoint.with_name("hf"), verify=False)


def stock(directory: Path, auto: Any = transformers.AutoModelForCausalLM) -> Any:
    loaded, info = auto.from_pretrained(
        directory, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    assert not any(info.values()), info
    return loaded.eval()


def attention_size(directory: Path) -> int:
    return sum(t.numel() for name, t in tensors_of(directory).items() if "self_attn" in name)


def continued(model: Any) -> Tensor:
    """Greedy tokens with the cache, and every logit on the way."""
    prompt = torch.arange(3, 15)[None]
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return made[0]


@pytest.mark.parametrize(
    ("name", "pairs", "values", "made", "widths"),
    [
        ("llama", [[0, 2]], [4], "LlamaForCausalLM", (4, 4)),
        ("llama-biased", [[1, 2, 3]], [6], "LlamaForCausalLM", (6, 6)),
        ("mistral", [[0, 3]], [4], "MistralForCausalLM", (4, 4)),  # with its sliding window
        ("qwen2", [[0, 1, 3]], [6], "Qwen2ForCausalLM", (6, 6)),
        ("gemma", [[0, 3]], [4], "GemmaForCausalLM", (4, 4)),
        ("granite", [[0, 3]], [4], "GraniteForCausalLM", (4, 4)),  # config.json scales scores
        ("starcoder2", [[1, 2]], [4], "Starcoder2ForCausalLM", (4, 4)),
        ("llama", None, [5], MIMO, (8, 5)),
        ("qwen2", None, [3], MIMO, (8, 3)),
        ("llama", [[0, 2, 3]], [3], MIMO, (6, 3)),
    ],
)
def test_one_rank_everywhere_is_a_smaller_model_of_a_stock_class(
    name: str,
    pairs: Pairs | None,
    values: list[int],
    made: str,
    widths: tuple[int, int],
    tmp_path: Path,
) -> None:
    dtype = "bf16" if name == "qwen2" else "fp32"
    checkpoint = pruned(name, tmp_path, pairs, values, dtype)
    exported = to_hf(checkpoint)
    theirs, ours = stock(exported.output), surgery.load(checkpoint, dtype=torch.float32)
    assert type(theirs).__name__ == made and exported.kept == 1.0
    config = config_of(exported.output)
    assert (config["head_dim"], config.get("v_head_dim", config["head_dim"])) == widths
    assert not {"surgery", "auto_map"} & config.keys()
    assert attention_size(exported.output) == attention_size(checkpoint)
    assert {t.dtype for t in tensors_of(exported.output).values()} == {
        t.dtype for t in tensors_of(checkpoint).values()
    }
    # In half precision q is rounded once more where it takes the root of d'/d.
    exact = dtype == "fp32" or widths[0] == DIM
    assert relative_error(run(theirs), run(ours)) <= (1e-5 if exact else 2.0**-6)
    if exact:
        assert torch.equal(continued(theirs), continued(ours))


@pytest.mark.parametrize(
    ("name", "pairs", "values", "made", "widths"),
    [
        # Heads of less rank are padded to the widest, and all rotate by what any of them keeps.
        ("llama", [[0], [2], [0, 3], [3]], [1, 5, 2, 3], MIMO, (6, 5)),
        ("llama", None, [2, 5], MIMO, (8, 5)),
        ("llama", None, [0], MIMO, (8, 1)),  # it has no heads without values
        ("mistral", [[1], [2]], [6, 3], "MistralForCausalLM", (6, 6)),  # values need the room
        ("mistral", [[0], [1], [2]], [2], "MistralForCausalLM", (6, 6)),
    ],
)
def test_uneven_ranks_are_padded_as_far_as_the_widest_head(
    name: str,
    pairs: Pairs | None,
    values: list[int],
    made: str,
    widths: tuple[int, int],
    tmp_path: Path,
) -> None:
    checkpoint = pruned(name, tmp_path, pairs and (list(pairs) * 4)[:4], values)
    exported = to_hf(checkpoint)
    theirs = stock(exported.output)
    config = config_of(exported.output)
    assert type(theirs).__name__ == made
    assert (config["head_dim"], config.get("v_head_dim", config["head_dim"])) == widths
    assert relative_error(run(theirs), run(surgery.load(checkpoint))) <= 1e-5
    dense, cut, left = (
        attention_size(each) for each in (tmp_path / "source", checkpoint, exported.output)
    )
    assert exported.kept == pytest.approx((dense - left) / (dense - cut)) and exported.kept < 1
    assert any("zeros that make heads equal" in note for note in exported.notes)


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 32},
    "longrope": {
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 5.0, 9.0],
        "factor": 4.0,
        "original_max_position_embeddings": 10,
    },
}


@pytest.mark.parametrize(
    ("kind", "pairs", "values"),
    [
        ("linear", None, [5]),
        ("llama3", [[0, 2]], [4]),
        ("yarn", [[1, 3]], [7]),
        ("yarn", None, [3]),
        ("longrope", [[0, 2]], [4]),
        ("longrope", [[1, 2, 3]], [2]),
    ],
)
def test_every_table_of_frequencies_goes_along(
    kind: str, pairs: Pairs | None, values: list[int], tmp_path: Path
) -> None:
    checkpoint = pruned("llama", tmp_path, pairs, values)
    config = config_of(checkpoint)
    config["rope_parameters"] = {"rope_type": kind, "rope_theta": 500.0, **ROPES[kind]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    theirs, ours = stock(to_hf(checkpoint).output), surgery.load(checkpoint)
    for length in (9, 50):  # longrope turns at 10
        tokens = torch.arange(length)[None] % 48
        with torch.inference_mode():
            found, expected = (model(tokens)[0] for model in (theirs, ours))
        assert relative_error(found, expected) <= 2e-5


def test_frequencies_that_follow_the_length_of_the_text_stay_dense(tmp_path: Path) -> None:
    checkpoint = pruned("llama", tmp_path, None, [5])
    config = config_of(checkpoint)
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert route(checkpoint).kept == 0.0


@pytest.mark.parametrize("name", ["whisper", "bert-unprefixed", "gpt2"])
def test_what_no_stock_class_holds_smaller_is_dense_with_zeros(name: str, tmp_path: Path) -> None:
    source = save_tiny(name, tmp_path / "source", sharded=True)
    options = surgery.Options(rule=Remove(0.3), pairs=("vo",), scope="all", by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "pruned", options=options)
    exported = surgery.export_model(tmp_path / "pruned", "hf")
    assert exported.kept == 0.0 and "saves nothing at run time" in exported.notes[0]
    assert exported.comparison is not None and (exported.comparison.error or 0) < 1e-5
    before, after = tensors_of(source), tensors_of(exported.output)
    assert {k: t.shape for k, t in after.items()} == {k: t.shape for k, t in before.items()}
    assert {p.name for p in exported.output.iterdir()} >= {p.name for p in source.iterdir()}
    assert config_of(exported.output) == config_of(source)
    assert f"{exported.output}" in exported.usage


def test_small_parts_are_merged_on_the_way(tmp_path: Path) -> None:
    checkpoint = pruned("llama", tmp_path, [[0, 2]], [4])
    surgery.split(checkpoint, tmp_path / "split", rank=2, targets=["q", "v", "down"])
    exported = to_hf(tmp_path / "split")
    assert exported.kept == 1.0
    ours = run(surgery.load(tmp_path / "split"))
    assert relative_error(run(stock(exported.output)), ours) <= 1e-5
    source = save_tiny("bert", tmp_path / "bert", dtype="bf16")
    surgery.split(source, tmp_path / "alone", rank=2)
    exported = surgery.export_model(tmp_path / "alone", "hf")  # runs it, and allows for rounding
    assert (exported.kept, exported.form) == (None, "plain: original shapes, small parts merged")


def test_what_was_trained_apart_is_written_into_its_base(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source", dtype="bf16")
    (tmp_path / "tuned").mkdir()
    with resolve(str(source)) as base:
        trained = {"model.norm.weight": 1.3 * base.tensor("model.norm.weight").float()}
        write_adapter(tmp_path / "tuned", trained, base=base, method="norms")
    exported = surgery.export_model(tmp_path / "tuned", "hf")
    assert (exported.kept, exported.form) == (None, "plain: original shapes")
    error = relative_error(run(stock(exported.output)), run(surgery.load(tmp_path / "tuned")))
    assert 0 < error <= 2.0**-7  # rounded to the base's dtype


def test_an_adapter_whose_base_moved_is_exported_from_where_that_is_now(tmp_path: Path) -> None:
    source = save_spoken("llama", tmp_path / "source")
    (tmp_path / "tuned").mkdir()
    with resolve(str(source)) as base:
        trained = {"model.norm.weight": 1.3 * base.tensor("model.norm.weight")}
        write_adapter(tmp_path / "tuned", trained, base=base, method="norms")
    moved = source.rename(tmp_path / "elsewhere")
    exported = surgery.export_model(tmp_path / "tuned", "hf", base=moved)
    assert exported.comparison is not None
    ours = run(surgery.load(tmp_path / "tuned", base=moved))
    assert relative_error(run(stock(exported.output)), ours) <= 1e-5


def route(checkpoint: Path) -> Fit:
    with resolve(str(checkpoint)) as source:
        return HuggingFace().fit(read_stored(source), Choice())


def test_what_loads_as_it_is_is_not_written_again(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    with pytest.raises(UsageError, match="nothing to export") as caught:
        surgery.export_model(source, "hf")
    assert "nothing was done to it" in str(caught.value.found)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("llama", {"mlp_bias": True}, "biases in its MLPs"),
        ("llama-biased", {}, "bias behind attention"),
        ("mistral", {}, "sliding window"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequence"),
    ],
)
def test_who_cannot_be_another_class_is_told_what_would_do(
    name: str, change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    checkpoint = pruned(name, tmp_path, None, [5])
    config = config_of(checkpoint) | change
    (checkpoint / "config.json").write_text(json.dumps(config))
    if change:  # the tensors of what the configuration now says
        tensors = tensors_of(checkpoint)
        if "mlp_bias" in change:
            for weight in [key for key in tensors if ".mlp." in key]:
                bias = torch.zeros(len(tensors[weight]), dtype=tensors[weight].dtype)
                tensors[weight.replace(".weight", ".bias")] = bias
        else:
            head = tensors.pop("lm_head.weight")
            tensors["score.weight"] = head[:2].clone()
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    fit = route(checkpoint)
    assert fit.possible and fit.kept == 0.0
    assert why in str(fit.remedy) and "--layout model" in str(fit.remedy)


def test_transformers_without_that_class_gets_dense_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.export.hf.forms.MIMO", "no_such_model")
    fit = route(pruned("llama", tmp_path, None, [5]))
    assert fit.kept == 0.0 and "installed transformers has no MiMoV2Flash" in str(fit.remedy)
    ragged = pruned("qwen2", tmp_path / "other", [[0], [1], [2], [3]], [5])
    assert "for the whole model" not in str(route(ragged).remedy)


@pytest.mark.parametrize(
    ("rule", "multiple", "made"),
    [(Remove(0.3), 1, MIMO), (Remove(0.3, per_pair=True), 2, "LlamaForCausalLM")],
)
def test_one_rank_for_the_whole_model_makes_it_fit(
    rule: Remove, multiple: int, made: str, tmp_path: Path
) -> None:
    source = save_spoken("llama", tmp_path / "source")
    (tmp_path / "text.txt").write_text(TEXT)
    options = surgery.Options(
        rule=rule,
        layout="model",
        multiple=multiple,
        calibrate=surgery.Calibrate(tmp_path / "text.txt"),
    )
    surgery.absorb_decompose(source, tmp_path / "pruned", options=options)
    assert route(tmp_path / "pruned").remedy is None
    exported = surgery.export_model(tmp_path / "pruned", "hf")
    assert exported.kept == 1.0 and exported.form.startswith(made)
    assert exported.comparison is not None and (exported.comparison.error or 0) < 1e-5


@pytest.mark.parametrize(
    ("pairs", "value", "made"),
    [((0, 1, 3), 6, "LlamaForCausalLM"), ((0, 1), 7, MIMO)],
)
def test_a_real_llama_writes_the_same_story(
    pairs: tuple[int, ...] | None, value: int, made: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "checkpoints" / "stories260K"
    path = tmp_path / "pruned"
    qk = (8,) * 4 if pairs is None else (2 * len(pairs),) * 4
    ranks = SiteRanks(qk, (value,) * 4, pairs and (pairs,) * 4)
    write(source, path, {f"model.layers.{layer}.self_attn": ranks for layer in range(5)})
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (path / file).write_bytes((source / file).read_bytes())
    exported = surgery.export_model(path, "hf")
    assert exported.form.startswith(made) and exported.kept == 1.0
    theirs, ours = stock(exported.output), surgery.load(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported.output)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    stories = [
        model.generate(**prompt, max_new_tokens=40, do_sample=False) for model in (ours, theirs)
    ]
    assert torch.equal(*stories) and stories[0].shape[1] > 30
    with torch.inference_mode():
        logits = [model(stories[0]).logits for model in (ours, theirs)]
    assert float((logits[0] - logits[1]).abs().max()) <= 1e-4
