"""Intervals are those of drawing samples again, and hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.evaluation import bootstrap as module
from surgery.evaluation.bootstrap import Bootstrap, Estimate
from surgery.evaluation.figures import BLOCK, text_figures
from surgery.evaluation.text import TextRun

ERRORS = [0.0, 3.0, 1.0, 0.0, 7.0, 2.0, 0.0, 1.0, 4.0]
WORDS = [9.0, 12.0, 4.0, 15.0, 20.0, 6.0, 3.0, 9.0, 11.0]


def drawn_by_hand(seed: int, resamples: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[int(random.integers(len(WORDS))) for _ in WORDS] for _ in range(resamples)]


def percentile(values: list[float], share: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("at_once", [1 << 22, 20, 1])
def test_the_interval_is_that_of_drawing_by_hand(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DRAWN_AT_ONCE", at_once)
    rates = []
    for draw in drawn_by_hand(5, 200):
        rates.append(100 * sum(ERRORS[i] for i in draw) / sum(WORDS[i] for i in draw))
    found = Bootstrap(resamples=200, seed=5).ratio(ERRORS, WORDS, then=lambda x: 100 * x)
    assert found.draws == pytest.approx(rates, rel=1e-12)
    assert found.estimate.value == pytest.approx(100 * sum(ERRORS) / sum(WORDS))
    assert found.estimate.low == pytest.approx(percentile(rates, 0.025), rel=1e-12)
    assert found.estimate.high == pytest.approx(percentile(rates, 0.975), rel=1e-12)


def test_a_difference_is_of_the_same_draws() -> None:
    bootstrap = Bootstrap(resamples=300, seed=1)
    better = [max(0.0, errors - 1) for errors in ERRORS]
    one, other = (bootstrap.ratio(errors, WORDS) for errors in (ERRORS, better))
    expected = []
    for draw in drawn_by_hand(1, 300):
        words = sum(WORDS[i] for i in draw)
        expected.append((sum(better[i] for i in draw) - sum(ERRORS[i] for i in draw)) / words)
    change = other.minus(one)
    assert change.low == pytest.approx(percentile(expected, 0.025), rel=1e-9)
    assert change.high == pytest.approx(percentile(expected, 0.975), rel=1e-9)
    assert one.minus(one) == Estimate(0.0, 0.0, 0.0)
    own = one.estimate
    assert own.low is not None and own.high is not None
    assert change.low is not None and change.high is not None
    assert change.high - change.low < own.high - own.low


def test_seeds_decide() -> None:
    first, again, other = (
        Bootstrap(resamples=50, seed=seed).ratio(ERRORS, WORDS).estimate for seed in (0, 0, 1)
    )
    assert first == again != other


def test_one_sample_has_no_interval_and_a_draw_without_words_does_not_spoil_one() -> None:
    assert Bootstrap().ratio([1.0], [4.0]).estimate == Estimate(0.25)
    found = Bootstrap(resamples=500).ratio([1.0, 0.0, 0.0], [4.0, 0.0, 0.0]).estimate
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    rate, held, trials = 0.1, 0, 300
    for trial in range(trials):
        words = random.integers(5, 30, size=60)
        # Recordings differ in how hard they are: errors are not independent word by word.
        hard = random.beta(2, 18, size=60)
        errors = random.binomial(words, hard)
        found = Bootstrap(resamples=400, seed=trial).ratio(errors.tolist(), words.tolist()).estimate
        assert found.low is not None and found.high is not None
        held += found.low <= rate <= found.high
    assert 0.90 <= held / trials <= 0.98  # three standard errors of 300 trials about 0.94


def run_of(losses: list[np.ndarray]) -> TextRun:
    return TextRun(losses, None, None, [], [1.0])


def test_a_text_of_few_documents_is_drawn_in_blocks() -> None:
    random = np.random.default_rng(0)
    losses = [random.gamma(2.0, size=size) for size in (5 * BLOCK + 7, 30)]
    documents = ["a" * 2000, "é" * 20]
    bootstrap = Bootstrap(resamples=100)
    [found], drawn = text_figures([run_of(losses)], [700], documents, bootstrap)
    assert drawn == f"blocks of {BLOCK} tokens"
    every = np.concatenate(losses)
    blocks = [losses[0][at : at + BLOCK] for at in range(0, len(losses[0]), BLOCK)] + [losses[1]]
    sizes = [float(len(block)) for block in blocks]
    oracle = bootstrap.ratio([float(block.sum()) for block in blocks], sizes, then=np.exp).estimate
    assert found.values["perplexity"] == oracle
    assert oracle.value == pytest.approx(np.exp(every.mean()))
    bits = found.values["bits_per_byte"]
    assert bits.value == pytest.approx(every.sum() / np.log(2) / 2040)
    assert bits.low is not None and bits.low < bits.value


def test_many_documents_are_drawn_whole() -> None:
    random = np.random.default_rng(0)
    losses = [random.gamma(2.0, size=size) for size in range(1, 12)]
    documents = ["word " * size for size in range(1, 12)]
    bootstrap = Bootstrap(resamples=100)
    [found], drawn = text_figures([run_of(losses)], [66], documents, bootstrap)
    assert drawn == "documents"
    nats = [float(each.sum()) for each in losses]
    oracle = bootstrap.ratio(nats, [float(each.size) for each in losses], then=np.exp).estimate
    assert found.values["perplexity"] == oracle
