"""Refit the outputs of a model that is to be cut, on the rows that its statistics were taken on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgery.architectures.base import AttentionSite
from surgery.calibration.cut import OutputChange, SiteCut
from surgery.calibration.data import CalibrationData
from surgery.calibration.refit import Stack, refit
from surgery.calibration.speech import SpeechBatch, decoder_tokens, speech_batches, teach
from surgery.calibration.text import text_batches, token_windows_of
from surgery.calibration.witness import evenly, some_windows
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decompose import Spill
from surgery.evaluation.layers import stack
from surgery.events import Progress

SPILLED = "outputs"
REMEMBERED = 1 << 28
"""Numbers of hidden states that are kept at once (1 GB in float32), of original and cut each."""
BATCH = 4


def refit_outputs(
    run: CalibrationRun, cuts: Mapping[str, SiteCut], spill: Spill | None, progress: Progress
) -> dict[str, OutputChange]:
    """Return what is to be added to every o, by its block, from where an interrupted run got.

    Args:
        run: The calibration.
        cuts: What becomes of each block that loses vectors.
        spill: Where the result is kept for a resumed run.
        progress: Called with :class:`surgery.events.Event`.
    """
    if all(cut.vo is None for cut in cuts.values()):
        return {}  # every output projection stays
    if spill is not None and spill.done(SPILLED):
        return _from_tensors(spill.unspill(SPILLED))
    data = run.dealt.fit
    cut = [site for site in run.sites if site.path in cuts]
    with torch.no_grad():
        stacks = _speech(run, data, cut) if data.kind == "audio" else _text(run, data, cut)
    found = refit(run.model, stacks, cuts, progress)
    if spill is not None:
        spill.spill(SPILLED, _to_tensors(found))
    return found


def _speech(run: CalibrationRun, data: CalibrationData, sites: list[AttentionSite]) -> list[Stack]:
    model, settings = run.model, run.settings
    config = model.config
    most = max(1, REMEMBERED // (int(config.max_source_positions) * int(config.d_model)))
    batches = list(
        speech_batches(
            model,
            run.processor,
            evenly(data.recordings, most),
            padding_weight=settings.padding_weight,
            batch=BATCH,
            varied=settings.varied,
        )
    )
    hear: list[Callable[[], Any]] = [
        partial(model.get_encoder(), each.features) for each in batches
    ]
    own = [site for site in sites if site.scope == "encoder"]
    frames = [each.frames for each in batches]
    stacks = [Stack(stack(model.get_encoder()), own, hear, frames)] if own else []
    others = [site for site in sites if site.scope != "encoder"]
    if not others:
        return stacks
    taught = [_taught(run, each) for each in batches]
    tell: list[Callable[[], Any]] = [
        partial(_tell, model, each, tokens)
        for each, (tokens, _) in zip(batches, taught, strict=True)
    ]
    weights = [counted for _, counted in taught]
    return [*stacks, Stack(stack(model.get_decoder()), others, tell, weights)]


def _taught(run: CalibrationRun, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    heard = run.model.get_encoder()(batch.features).last_hidden_state
    return decoder_tokens(run.model, run.processor, batch, heard, run.settings.language)


def _tell(model: Any, batch: SpeechBatch, tokens: Tensor) -> None:
    heard = model.get_encoder()(batch.features).last_hidden_state
    teach(model.base_model, heard, tokens)


def _text(run: CalibrationRun, data: CalibrationData, sites: list[AttentionSite]) -> list[Stack]:
    model = run.model
    windows = token_windows_of(model, run.processor, data.documents)
    some = some_windows(windows, REMEMBERED // int(model.config.hidden_size))
    batches = list(text_batches(some, BATCH))
    runs: list[Callable[[], Any]] = [partial(each.run, model.base_model) for each in batches]
    return [Stack(stack(model), sites, runs, [each.weights.queries for each in batches])]


def _to_tensors(found: Mapping[str, OutputChange]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, change in found.items():
        tensors[f"{path}.weight"] = change.weight.contiguous()
        if change.bias is not None:
            tensors[f"{path}.bias"] = change.bias.contiguous()
    return tensors


def _from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, OutputChange]:
    paths = (name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    return {
        path: OutputChange(tensors[f"{path}.weight"], tensors.get(f"{path}.bias")) for path in paths
    }
