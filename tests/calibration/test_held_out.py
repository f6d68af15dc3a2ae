"""The price of a cut on held-out rows, against loops over positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.held_out import HeldOut, Price
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.events import Event
from surgery.micro import assets
from tests.calibration.oracle import Letters, sites_of
from tests.calibration.test_witness import LOOSE, TEXTS, kl, shaken, square_error, text
from tests.models import tiny_model

ASKED = torch.float64


def price(
    model: Any,
    data: CalibrationData,
    processor: Any,
    cut: Callable[[], AbstractContextManager[None]],
    sites: Any = None,
) -> Price:
    events: list[Event] = []
    rows = HeldOut(model, sites or sites_of(model), data, processor, batch=2)
    found = rows.price(cut, events.append)
    assert events[-1].done == events[-1].total == found.rows
    return found


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "bert", "gpt2-unprefixed"])
def test_a_text_models_price_is_that_of_its_positions_one_by_one(name: str) -> None:
    model: Any = tiny_model(name, dtype=ASKED)

    def rows() -> list[Tensor]:
        with torch.no_grad():
            each = [
                model(torch.tensor([Letters()(words)["input_ids"]]), output_hidden_states=True)
                for words in TEXTS
            ]
        if "logits" in each[0] and name != "bert":
            return [one.logits[0] for one in each]
        return [one.hidden_states[-1][0] for one in each]

    found = price(model, text(*TEXTS), Letters(), lambda: shaken(model, 0.3))
    before = rows()
    with shaken(model, 0.3):
        after = rows()
    every = torch.cat(before), torch.cat(after)

    assert found.rows == len(TEXTS)
    if found.output != "next token":
        assert found.error.value == pytest.approx(math.sqrt(square_error(*every)), rel=LOOSE)
        assert found.agreement is None and found.perplexity is None
        return
    assert found.error.value == pytest.approx(kl(*every) / len(every[0]), rel=LOOSE)
    same = [float(x.argmax() == y.argmax()) for x, y in zip(*every, strict=True)]
    assert found.agreement == pytest.approx(sum(same) / len(same))
    losses = [
        [
            float(-rows[at - 1].double().log_softmax(-1)[tokens[at]])
            for rows, words in zip(some, TEXTS, strict=True)
            for tokens in [Letters()(words)["input_ids"]]
            for at in range(1, len(tokens))
        ]
        for some in (before, after)
    ]
    assert found.perplexity is not None
    means = [sum(each) / len(each) for each in losses]
    assert found.perplexity.before == pytest.approx(math.exp(means[0]), rel=LOOSE)
    assert found.perplexity.after == pytest.approx(math.exp(means[1]), rel=LOOSE)
    change = found.perplexity.difference
    assert change.value == pytest.approx(means[1] - means[0], abs=LOOSE)
    assert change.low is not None and change.high is not None
    assert change.low <= change.value <= change.high


def test_where_nothing_was_cut_the_price_is_nothing() -> None:
    model = tiny_model("llama")
    found = price(model, text(*TEXTS), Letters(), lambda: shaken(model, 0.0))

    assert found.error.value == pytest.approx(0, abs=1e-12)
    assert found.agreement == 1
    assert found.perplexity is not None
    assert found.perplexity.before == pytest.approx(found.perplexity.after)


@pytest.fixture(scope="module")
def heard() -> tuple[Any, Any]:
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(assets.DIRECTORY, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(assets.DIRECTORY)


def test_an_encoders_price_counts_words_and_the_decoders_tokens_too(heard: tuple[Any, Any]) -> None:
    model, processor = heard
    data = open_data(assets.DIRECTORY / "test", "audio", limit=5)
    sites = [site for site in sites_of(model) if site.scope == "encoder"]

    def cut() -> Any:
        return shaken_encoder(model)

    found = price(model, data, processor, cut, sites)
    words = [each.words or "" for each in data.recordings]
    audio = [each.audio() for each in data.recordings]
    said = [transcribe(model, processor, audio)]
    with cut():
        said.append(transcribe(model, processor, audio))

    assert found.output == "encoder output" and found.rows == 5
    assert found.agreement is not None and 0 < found.agreement < 1
    counted = HeldOut(model, sites, data, processor).word_errors(cut)
    assert counted is not None
    rates = [word_errors(words, each).rate for each in said]
    assert [counted.before, counted.after] == pytest.approx(rates)
    silent = CalibrationData(
        "clips", "audio", recordings=(replace(data.recordings[0], words=None),)
    )
    assert HeldOut(model, sites, silent, processor).word_errors(cut) is None


def shaken_encoder(model: Any) -> Any:
    from surgery.calibration.cut import SiteCut, cut_heads

    site = next(site for site in sites_of(model) if site.scope == "encoder")
    d = site.head_dim
    draw = torch.Generator().manual_seed(0)
    moved = torch.randn(site.kv_heads, d, d, generator=draw, dtype=torch.float64)
    cut = SiteCut(vo=torch.eye(d, dtype=torch.float64) + 0.5 * moved)
    return cut_heads(model, [site], {site.path: cut})


def test_windows_that_differ_most_make_the_interval_wide() -> None:
    model = tiny_model("gpt2")
    same = price(model, text(*["abcabcabc"] * 6), Letters(), lambda: shaken(model, 0.3))
    mixed = price(model, text(*TEXTS, "zz", "qqqq"), Letters(), lambda: shaken(model, 0.3))

    assert same.error.low == pytest.approx(same.error.high)
    assert mixed.error.low is not None and mixed.error.high is not None
    assert mixed.error.low < mixed.error.value < mixed.error.high
