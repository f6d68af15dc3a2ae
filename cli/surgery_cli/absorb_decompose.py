"""``surgery absorb-decompose``: restructure and prune attention, report what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common, cutting
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery absorb-decompose whisper-micro                      the embedded model, its preset

surgery absorb-decompose whisper-large-v3 -o pruned         the paper's thresholds

surgery absorb-decompose ./my-llama --remove 25% --pairs vo

surgery absorb-decompose ./my-whisper --lossless --dtype float32

surgery absorb-decompose ./my-whisper --remove 25% --data ./recordings
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
    scope: cutting.ScopeOption = None,
    pairs: cutting.PairsOption = None,
    layout: cutting.LayoutOption = cutting.Layout.ragged,
    multiple: cutting.Multiple = 1,
    baseline: cutting.BaselineOption = None,
    dtype: common.DtypeOption = None,
    data: common.Data = None,
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
            scope=scope,
            pairs=pairs,
            layout=layout,
            multiple=multiple,
            baseline=baseline,
            dtype=dtype,
        )
        report = surgery.absorb_decompose(
            model,
            out,
            options=options,
            data=data,
            force=force,
            resume=resume,
            dry_run=dry_run,
            revision=revision,
            progress=progress,
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
