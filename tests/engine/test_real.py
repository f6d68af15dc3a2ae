"""What must hold on real weights: heads exact, encoder outputs and texts unchanged.

The whole table of pruned results is the benchmarks' work; here stands what must not move.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, WhisperProcessor

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.engine.cut.decompose import decompose_sites, load_block
from surgery.engine.cut.plan import make_plan
from surgery.evaluation.transcribe import transcribe
from surgery.events import ignore
from surgery.linalg import product_error
from surgery.report.model.report import Report
from tests.engine.real import CLIPS, RealWhisper
from tests.engine.support import regauge, rounded, tensors_of

LOSSLESS = surgery.Lossless()
pytestmark = pytest.mark.usefixtures("no_pictures")


class Operated:
    """One real model, restructured once for each output dtype."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.model = model
        self._directory = directory
        self._reports: dict[str | None, Report] = {}

    def path(self, dtype: str | None) -> Path:
        self.report(dtype)
        return self._directory / str(dtype)

    def report(self, dtype: str | None) -> Report:
        if dtype not in self._reports:
            self._reports[dtype] = surgery.absorb_decompose(
                self.model,
                self._directory / str(dtype),
                options=surgery.Options(rule=LOSSLESS, dtype=dtype),
            )
        return self._reports[dtype]


@pytest.fixture(scope="module")
def whisper(real: RealWhisper, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return Operated(real.path, tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def llama(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return Operated(shared / "checkpoints" / "stories260K", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", ["whisper-tiny.en-digits", "stories260K"])
def test_every_real_head_is_exact_in_float64(shared: Path, name: str) -> None:
    with resolve(str(shared / "checkpoints" / name)) as source:
        plan = make_plan(source, surgery.Options(rule=LOSSLESS))
        for each, result in decompose_sites(plan, None, ignore):
            ready = each.prepare(load_block(source, each))
            after = result.apply(ready)
            if "qk" in each.treated:
                errors = product_error(*ready.qk_factors(), *after.qk_factors())
                assert float(errors.max()) <= 1e-10, each.site.path
            assert "vo" in each.treated
            errors = product_error(*ready.vo_factors(), *after.vo_factors())
            assert float(errors.max()) <= 1e-10, each.site.path


def test_the_report_says_how_exact_the_heads_are(whisper: Operated) -> None:
    for dtype, eps in (("float32", 2**-23), (None, 2**-10)):
        for site in whisper.report(dtype).sites:
            for pair in (site.qk, site.vo):
                assert max(pair.exact_error) <= 1e-10
                assert 0 < max(pair.cast_error) <= eps
        found = surgery.verify(whisper.model, whisper.path(dtype), weights_only=True)
        assert 0 < found.worst <= eps
        assert found.worst == pytest.approx(
            max(e for s in whisper.report(dtype).sites for p in (s.qk, s.vo) for e in p.cast_error),
            rel=1.0,
        )
        if dtype is None:
            assert found.changed == []


def test_in_float32_the_encoder_says_the_same(whisper: Operated, real: RealWhisper) -> None:
    assert real.error(surgery.load(whisper.path("float32"))) <= 1e-5


def test_in_its_own_dtype_the_encoder_errs_at_most_three_times_as_rounding_does(
    whisper: Operated, real: RealWhisper
) -> None:
    # The source's weights are fp16 numbers, so rounding them costs nothing. An equivalent form
    # of them, that fp16 does not happen to hold exactly, shows what fp16 costs this model.
    other = rounded(regauge(copy.deepcopy(real.model).double(), 1.3), torch.float16).float()
    assert real.error(surgery.load(whisper.path(None))) <= 3 * real.error(other)


def test_in_bfloat16_the_encoder_errs_at_most_three_times_as_rounding_does(
    whisper: Operated, real: RealWhisper
) -> None:
    other = copy.deepcopy(real.model).bfloat16().float()
    assert real.error(surgery.load(whisper.path("bfloat16"))) <= 3 * real.error(other)


@pytest.mark.slow
def test_what_was_said_is_transcribed_to_the_same_words(
    whisper: Operated, real: RealWhisper
) -> None:
    assert len({*real.texts}) > CLIPS  # it does say something
    for dtype in ("float32", None):
        model = surgery.load(whisper.path(dtype))
        assert transcribe(model, real.processor, real.clips) == real.texts


def test_the_openai_file_gives_the_same_tensors_as_the_directory(
    whisper: Operated, shared: Path, tmp_path: Path
) -> None:
    surgery.absorb_decompose(
        shared / "checkpoints" / "whisper-tiny.en-digits.pt",
        tmp_path / "out",
        options=surgery.Options(rule=LOSSLESS),
    )
    from_file, from_directory = tensors_of(tmp_path / "out"), tensors_of(whisper.path(None))
    assert from_file.keys() == from_directory.keys()
    for name, tensor in from_directory.items():
        assert torch.equal(from_file[name], tensor), name
    loaded = surgery.load(tmp_path / "out")
    assert loaded.generation_config is not None
    assert WhisperProcessor.from_pretrained(tmp_path / "out").tokenizer("one two")


def test_a_real_llama_says_the_same(llama: Operated, shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama.model)
    before, after = surgery.load(llama.model), surgery.load(llama.path("float32"))
    text = (shared / "text" / "tinystories" / "test.txt").read_text()
    tokens = tokenizer(text, return_tensors="pt").input_ids[:, : 8 * 250].reshape(8, 250)
    with torch.inference_mode():
        logits = before(tokens).logits
        difference = (after(tokens).logits - logits).abs().max()
        assert float(difference) <= 1e-4
        prompts = tokens[:, :12]
        told, retold = (
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=120,
                do_sample=False,
            )
            for model in (before, after)
        )
    assert tokenizer.batch_decode(told) == tokenizer.batch_decode(retold)
    assert len({*tokenizer.batch_decode(told)}) == 8


def test_a_real_llama_keeps_its_queries_and_keys(llama: Operated) -> None:
    before, after = tensors_of(llama.model), tensors_of(llama.path(None))
    for name, tensor in before.items():
        if "v_proj" not in name and "o_proj" not in name:
            assert torch.equal(after[name], tensor), name
    assert all("RoPE" in (site.qk.untouched or "") for site in llama.report(None).sites)
