"""torch.compile takes restructured models whole: tracing finds no reason to break its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import surgery
from tests.runtime.naive import Case, inputs, relative_error, tolerance


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Leave no traces behind."""
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "layout"), [("whisper", "ragged"), ("whisper", "block"), ("llama", "ragged")]
)
def test_a_forward_pass_is_one_graph(case: Callable[..., Case], name: str, layout: str) -> None:
    made = case(name, layout)
    model = surgery.load(made.path, dtype=torch.float64, attn_implementation="sdpa")
    (given, *_) = inputs(model).values()
    traced = model.get_encoder() if name == "whisper" else model.model
    with torch.no_grad():
        expected = traced(given).last_hidden_state

        # the backend that compiles nothing: what may break a graph is found while tracing
        found = torch.compile(traced, fullgraph=True, backend="eager")(given).last_hidden_state

    assert relative_error(found, expected) <= tolerance(torch.float64)
