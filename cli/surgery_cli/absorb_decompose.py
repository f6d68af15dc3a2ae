"""``surgery absorb-decompose``: restructure and prune attention, report what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import calibrating, common, cutting
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery absorb-decompose whisper-micro                      the embedded model

surgery absorb-decompose ./my-whisper                       as much as does little harm

surgery absorb-decompose ./my-llama --remove 25% --pairs vo

surgery absorb-decompose whisper-large-v3 --preset paper -o pruned

surgery absorb-decompose ./my-whisper --lossless --dtype float32

surgery absorb-decompose ./my-whisper --remove 25% --calibrate ./some --data ./others

surgery absorb-decompose ./my-llama --max-ppl-increase 2% --calibrate calib.txt
"""


def command(
    model: common.Model,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where to write; default: checkpoints/<name>-absorb-decompose."
        ),
    ] = None,
    lossless: cutting.Lossless = False,
    threshold_qk: cutting.ThresholdQK = None,
    threshold_vo: cutting.ThresholdVO = None,
    energy: cutting.Energy = None,
    remove: cutting.Remove = None,
    per_pair: cutting.PerPair = False,
    of: cutting.OfOption = cutting.Of.qkvo,
    up_to: cutting.UpTo = None,
    by_weights: cutting.ByWeights = False,
    preset: cutting.PresetOption = None,
    max_error: cutting.MaxError = None,
    max_wer_increase: cutting.MaxWerIncrease = None,
    max_ppl_increase: cutting.MaxPplIncrease = None,
    scope: cutting.ScopeOption = None,
    pairs: cutting.PairsOption = None,
    layout: cutting.LayoutOption = cutting.Layout.ragged,
    multiple: cutting.Multiple = 1,
    calibrate: calibrating.Data = None,
    statistics: calibrating.Statistics = None,
    samples: calibrating.Samples = None,
    padding_weight: calibrating.PaddingWeight = None,
    ridge: calibrating.Ridge = None,
    as_recorded: calibrating.AsRecorded = False,
    language: calibrating.Language = "en",
    device: calibrating.Device = None,
    trials: calibrating.Trials = None,
    refit: calibrating.Refit = None,
    baseline: cutting.BaselineOption = None,
    dtype: common.DtypeOption = None,
    data: common.Data = None,
    allow_leakage: Annotated[
        bool,
        typer.Option("--allow-leakage", help="Measure on calibration data too, and label it."),
    ] = False,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    resume: common.Resume = False,
    revision: common.Revision = None,
    as_json: common.Json = False,
) -> None:
    """Restructure attention into orthogonal vectors, prune the redundant ones, and report.

    Writes a checkpoint that loads with surgery.load, with report.html inside.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        options = cutting.make_options(
            lossless=lossless,
            threshold_qk=threshold_qk,
            threshold_vo=threshold_vo,
            energy=energy,
            remove=remove,
            per_pair=per_pair,
            of=of,
            up_to=up_to,
            by_weights=by_weights,
            preset=preset,
            max_error=max_error,
            max_wer_increase=max_wer_increase,
            max_ppl_increase=max_ppl_increase,
            scope=scope,
            pairs=pairs,
            layout=layout,
            multiple=multiple,
            calibrate=calibrating.make_calibrate(
                data=calibrate,
                statistics=statistics,
                samples=samples,
                padding_weight=padding_weight,
                ridge=ridge,
                as_recorded=as_recorded,
                language=language,
                device=device,
                trials=trials,
                refit=refit,
            ),
            baseline=baseline,
            dtype=dtype,
        )
        report = surgery.absorb_decompose(
            model,
            out,
            options=options,
            data=data,
            allow_leakage=allow_leakage,
            force=force,
            resume=resume,
            dry_run=dry_run,
            revision=revision,
            progress=progress,
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
