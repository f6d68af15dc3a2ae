"""Refit the outputs of a model that is to be cut, on the rows that its statistics were taken on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from surgery.calibration.cut import OutputChange, SiteCut
from surgery.calibration.refit import STAGE, refit
from surgery.calibration.towers import Hearing, towers_of
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decompose import Spill
from surgery.events import Event, Progress

SPILLED = "outputs"


def refit_outputs(
    run: CalibrationRun,
    cuts: Mapping[str, SiteCut],
    spill: Spill | None,
    key: str,
    progress: Progress,
) -> dict[str, OutputChange]:
    """Return what is to be added to every o, by its block, from where an interrupted run got.

    Args:
        run: The calibration.
        cuts: What becomes of each block that loses vectors.
        spill: Where the result is kept for a resumed run.
        key: What tells these cuts from others there.
        progress: Called with :class:`surgery.events.Event`.
    """
    if all(cut.vo is None for cut in cuts.values()):
        return {}  # every output projection stays
    key = f"{SPILLED}:{key}"
    if spill is not None and spill.done(key):
        return _from_tensors(spill.unspill(key))
    settings = run.settings
    hearing = Hearing(settings.padding_weight, settings.varied, settings.language)
    cut = [site for site in run.sites if site.path in cuts]
    decoder = any(site.scope != "encoder" for site in cut)
    progress(Event(STAGE, 0, sum(each.vo is not None for each in cuts.values())))
    towers = towers_of(run.model, run.dealt.fit, run.processor, hearing, decoder=decoder)
    found = refit(run.model, towers, cut, cuts, progress)
    if spill is not None:
        spill.spill(key, _to_tensors(found))
    return found


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
