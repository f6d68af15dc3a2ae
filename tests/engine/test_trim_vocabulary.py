"""``trim-vocabulary``: rows that stay are the original's, bit for bit, and every id follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, pipeline

import surgery
from surgery.errors import CheckpointError, SurgeryError, UsageError
from tests.engine.support import config_of, contents, tensors_of
from tests.engine.trimming import CLASSES, KEEP, save_with_words

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    path = tmp_path / "keep.txt"
    path.write_text(KEEP)
    return path


def options(keep: Path, **given: object) -> surgery.TrimOptions:
    return surgery.TrimOptions(keep_text=(str(keep),), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_rows_and_hidden_states_are_the_originals_bit_for_bit(
    name: str, tied: bool, tmp_path: Path, keep: Path
) -> None:
    before = save_with_words(name, tmp_path / "before", tie_word_embeddings=tied)
    report = surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    told = report.vocabulary
    assert told is not None and told.kept < told.before - 3
    old, new = (AutoTokenizer.from_pretrained(tmp_path / each) for each in ("before", "after"))
    assert old.tokenize(KEEP) == new.tokenize(KEEP)
    ids = [each(KEEP, return_tensors="pt")["input_ids"] for each in (old, new)]
    models = [surgery.load(tmp_path / each) for each in ("before", "after")]
    with torch.inference_mode():
        outputs = [
            model(one, output_hidden_states=True) for model, one in zip(models, ids, strict=True)
        ]
    assert config_of(tmp_path / "after")["vocab_size"] == told.kept == len(new)
    states = [one.hidden_states[-1] for one in outputs]
    assert torch.equal(*states)
    kept = old.convert_tokens_to_ids(new.convert_ids_to_tokens(range(told.kept)))
    was, now = (tensors_of(tmp_path / each) for each in ("before", "after"))
    rows = [one for one in was if was[one].shape[0] == told.before]
    assert rows and all(torch.equal(was[one][kept], now[one]) for one in rows)
    assert all(torch.equal(was[one], now[one]) for one in was.keys() - {*rows})
    if name != "BertModel":  # a product with fewer columns may round some otherwise
        logits = outputs[0].logits[..., kept]
        bound = states[0].shape[-1] * torch.finfo(logits.dtype).eps * 10 * logits.abs().max()
        assert (logits - outputs[1].logits).abs().max() <= bound


def test_the_result_is_verified_and_stock(tmp_path: Path, keep: Path) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    assert not (tmp_path / "after" / "modeling_surgery.py").exists()
    found = surgery.verify(before, tmp_path / "after", data=keep)
    assert found.worst < 1e-12 and not found.changed
    tokens = found.tokens
    assert tokens is not None
    assert tokens.whole == tokens.same == tokens.texts and not tokens.gone
    assert tokens.hidden.equal == tokens.hidden.numbers > 0 and tokens.hidden.difference == 0
    assert tokens.logits.numbers > 0 and tokens.logits.difference < 1e-4
    assert tokens.agreeing == tokens.written > 0 and not tokens.differing
    AutoModel.from_pretrained(tmp_path / "after")
    write = pipeline("text-generation", str(tmp_path / "after"), max_new_tokens=3)
    assert write(KEEP)[0]["generated_text"].startswith(KEEP)
    other = tmp_path / "other.txt"
    other.write_text("quite something else, Zanzibar!")
    tokens = surgery.verify(before, tmp_path / "after", data=other).tokens
    assert tokens is not None and tokens.whole == 0 and tokens.gone
    assert tokens.hidden.equal == tokens.hidden.numbers > 0


def test_ids_in_configurations_follow_and_unknown_ones_are_refused(
    tmp_path: Path, keep: Path
) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    config = config_of(before) | {"eos_token_id": 500, "pad_token_id": 501}
    (before / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [2, 500], "suppress_tokens": [400, 500]}
    (before / "generation_config.json").write_text(json.dumps(generation))
    surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    old, new = (AutoTokenizer.from_pretrained(tmp_path / each) for each in ("before", "after"))
    made = config_of(tmp_path / "after")
    for key in ("eos_token_id", "pad_token_id"):
        names = old.convert_ids_to_tokens(config[key]), new.convert_ids_to_tokens(made[key])
        assert names[0] == names[1]
    told = json.loads((tmp_path / "after" / "generation_config.json").read_text())
    assert told["eos_token_id"] == [2, made["eos_token_id"]]
    assert told["suppress_tokens"] in ([made["eos_token_id"]], told["suppress_tokens"][:2])
    (before / "config.json").write_text(json.dumps(config | {"image_token_id": 9}))
    with pytest.raises(CheckpointError, match="image_token_id"):
        surgery.trim_vocabulary(before, tmp_path / "again", options=options(keep))
    assert not (tmp_path / "again").exists()


def test_a_target_keeps_the_most_used_tokens_that_fit(tmp_path: Path, keep: Path) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before", tie_word_embeddings=False)
    whole = sum(tensor.numel() for tensor in tensors_of(before).values())
    target = whole - 200 * 64
    given = options(keep, target_parameters=str(target))
    report = surgery.trim_vocabulary(before, tmp_path / "after", options=given)
    size = sum(tensor.numel() for tensor in tensors_of(tmp_path / "after").values())
    assert target - 64 < size <= target
    assert report.savings[-1].stored == size
    with pytest.raises(UsageError, match="do not fit"):
        surgery.trim_vocabulary(
            before, tmp_path / "no", options=options(keep, target_parameters="1000")
        )


def test_a_run_is_done_once_and_again_where_other_text_is_kept(tmp_path: Path, keep: Path) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    first = surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    assert first.output is not None
    files = contents(tmp_path / "after")
    again = surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    assert any("Already done" in note for note in again.notes)
    assert contents(tmp_path / "after") == files
    keep.write_text("Other words entirely, of the same file.")
    with pytest.raises(SurgeryError, match="force"):
        surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    dry = surgery.trim_vocabulary(before, tmp_path / "dry", options=options(keep), dry_run=True)
    assert dry.output is None and not (tmp_path / "dry").exists()


def test_tokens_named_in_a_file_stay(tmp_path: Path) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    old = AutoTokenizer.from_pretrained(before)
    names = old.convert_ids_to_tokens([400, 401])
    (tmp_path / "tokens.txt").write_text("\n".join(names))
    given = surgery.TrimOptions(keep_tokens=str(tmp_path / "tokens.txt"))
    surgery.trim_vocabulary(before, tmp_path / "after", options=given)
    assert set(names) <= AutoTokenizer.from_pretrained(tmp_path / "after").get_vocab().keys()
    (tmp_path / "tokens.txt").write_text(f"{names[0]}\nno such token\n")
    with pytest.raises(UsageError, match="entry 2"):
        surgery.trim_vocabulary(before, tmp_path / "no", options=given)


def test_other_operations_come_before_and_after(tmp_path: Path, keep: Path) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    cut = surgery.Options(rule=surgery.Remove(0.25), by_weights=True)
    steps = [
        lambda a, b: surgery.absorb_decompose(a, b, options=cut),
        lambda a, b: surgery.split(a, b, rank=2),
        lambda a, b: surgery.trim_vocabulary(a, b, options=options(keep)),
    ]
    place = before
    for number, step in enumerate(steps):
        step(place, tmp_path / f"step{number}")
        place = tmp_path / f"step{number}"
    done = [one["method"] for one in config_of(place)["surgery"]["operations"]]
    assert done == ["absorb-decompose", "sorsa", "trim-vocabulary"]
    found = surgery.verify(tmp_path / "step1", place, data=keep)
    assert found.tokens is not None and found.tokens.hidden.difference == 0
    surgery.merge(place, tmp_path / "merged")
    assert "surgery" not in config_of(tmp_path / "merged")
    small = tmp_path / "small"
    surgery.trim_vocabulary(before, small, options=options(keep))
    with pytest.raises(UsageError, match="nothing to merge"):
        surgery.merge(small, tmp_path / "no")
    surgery.absorb_decompose(small, tmp_path / "cut", options=cut)
    surgery.load(tmp_path / "cut")
    done = [one["method"] for one in config_of(tmp_path / "cut")["surgery"]["operations"]]
    assert done == ["trim-vocabulary", "absorb-decompose"]


@pytest.mark.slow
def test_narrower_models_are_trimmed_and_trimmed_ones_narrowed_and_exported(
    tmp_path: Path, keep: Path
) -> None:
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    (tmp_path / "calib.txt").write_text("a kettle, or two, are no more than a word\n" * 60)
    narrow = surgery.CompressOptions(
        remove=0.3, of="ffn", multiple=4, calibrate=str(tmp_path / "calib.txt")
    )
    surgery.trim_vocabulary(before, tmp_path / "small", options=options(keep))
    surgery.compress(tmp_path / "small", tmp_path / "both", options=narrow)
    surgery.compress(before, tmp_path / "narrow", options=narrow)
    surgery.trim_vocabulary(tmp_path / "narrow", tmp_path / "other", options=options(keep))
    for name, first in (("both", "trim-vocabulary"), ("other", "compress")):
        block = config_of(tmp_path / name)["surgery"]
        done = [one["method"] for one in block["operations"]]
        assert sorted(done) == ["compress", "trim-vocabulary"] and done[0] == first
        found = surgery.verify(before, tmp_path / name, data=keep)
        assert found.tokens is not None and not found.tokens.gone and found.worst < 1e-12
        made = surgery.export_model(tmp_path / name, "hf", tmp_path / f"{name}-hf")
        assert made.comparison is not None and (made.comparison.error or 0) <= 1e-5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Nothing says"),
        ({"keep_text": ("a",), "frequent": 3}, "--languages"),
        ({"languages": ("en",), "frequent": 3, "coverage": 0.5}, "give one"),
        ({"languages": ("en",), "coverage": 0.0}, "out of range"),
        ({"keep_text": ("a",), "target_size": "x"}, "--target-size"),
        ({"keep_text": ("a",), "target_size": "1MB", "target_parameters": "1M"}, "give one"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=said):
        surgery.TrimOptions(**given)


def test_llama_cpp_reads_text_as_the_trimmed_tokenizer_does(tmp_path: Path, keep: Path) -> None:
    pytest.importorskip("xllamacpp")
    before = save_with_words("LlamaForCausalLM", tmp_path / "before")
    surgery.trim_vocabulary(before, tmp_path / "after", options=options(keep))
    made = surgery.export_model(tmp_path / "after", "gguf", tmp_path / "gguf")
    ran = made.comparison
    assert ran is not None and "how a text is read" in ran.what and ran.differing is None
