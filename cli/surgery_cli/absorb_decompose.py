"""``surgery absorb-decompose``: restructure and prune attention, report what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import cutting
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
    model: Annotated[
        str, typer.Argument(help="Directory, hub id, short name, .pt file, or whisper-micro.")
    ],
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
    dtype: cutting.DtypeOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Audio folder or text file to measure the price on."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be saved; write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report as JSON on standard output.")
    ] = False,
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
