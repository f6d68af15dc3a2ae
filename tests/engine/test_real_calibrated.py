"""What calibration is for, on real weights: a smaller error than weights alone can tell.

The whole frontier is the benchmarks' work; here stands what must never be lost.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import surgery
from surgery.calibration import sensitivity, witness
from surgery.engine.cut import pricing
from surgery.evaluation.perplexity import perplexity, read_documents
from tests.engine.real import RealWhisper

TOLD = 4  # stories, of those that nothing was calibrated on


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """One trial a pair, on little: enough to tell pairs and blocks apart."""
    monkeypatch.setattr(witness, "RECORDINGS", 1)
    monkeypatch.setattr(witness, "TOKENS", 1024)
    monkeypatch.setattr(sensitivity, "TRIALS", (0.5,))
    monkeypatch.setattr(pricing, "BUDGETS", (0.25,))


def test_values_of_a_real_llama_go_at_half_the_price(shared: Path, tmp_path: Path) -> None:
    model, texts = shared / "checkpoints" / "stories260K", shared / "text" / "tinystories"
    tokenizer = AutoTokenizer.from_pretrained(model)
    stories = read_documents(texts / "test.txt")[:TOLD]

    def nats(path: Path) -> float:
        return perplexity(surgery.load(path), tokenizer, stories).nats_per_token

    calibrate = surgery.Calibrate(str(texts / "calib.txt"), samples=TOLD)
    seen = surgery.Options(rule=surgery.Remove(0.25), pairs=("vo",), calibrate=calibrate)
    by_weights = surgery.Options(
        rule=surgery.Remove(0.25, per_pair=True), pairs=("vo",), by_weights=True
    )
    for name, options in (("seen", seen), ("by-weights", by_weights)):
        report = surgery.absorb_decompose(model, tmp_path / name, options=options)
        assert report.savings[0].removed == pytest.approx(0.125, abs=0.02)  # a half is VO
    before = nats(model)
    assert 0 < nats(tmp_path / "seen") - before <= 0.5 * (nats(tmp_path / "by-weights") - before)


def test_a_real_whisper_loses_least_where_it_was_heard(
    shared: Path, tmp_path: Path, real: RealWhisper
) -> None:
    calibrate = surgery.Calibrate(str(shared / "audio" / "speech" / "calib"), samples=2)
    errors = []
    for name, per_pair, calibration in (("heard", False, calibrate), ("paper", True, None)):
        options = surgery.Options(
            rule=surgery.Remove(0.125, per_pair),
            scope="encoder",
            calibrate=calibration,
            by_weights=per_pair,
        )
        surgery.absorb_decompose(real.path, tmp_path / name, options=options)
        errors.append(real.error(surgery.load(tmp_path / name), sentences=1))
    heard, paper = errors
    assert 0 < heard < 0.25 * paper
