"""``surgery reparam``: a trainable orthogonal map in front of frozen linear maps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery reparam whisper-micro --method hra --reflections 8

surgery reparam ./my-llama --method goft --targets q,k,v,o

surgery reparam ./pruned --method qgoft -o pruned-qgoft     a pruned checkpoint, too
"""


class Method(StrEnum):
    """Which map stands in front."""

    hra = "hra"
    goft = "goft"
    qgoft = "qgoft"


def command(
    model: common.Model,
    method: Annotated[
        Method,
        typer.Option(
            help="hra: Householder reflections. goft: Givens rotations. qgoft: free 2×2 blocks."
        ),
    ] = Method.hra,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-<method>."),
    ] = None,
    reflections: Annotated[
        int | None, typer.Option(min=1, help="hra: how many reflections, even; default 8.")
    ] = None,
    targets: common.Targets = None,
    scope: common.ScopeOption = common.Scope.all,
    seed: common.Seed = 0,
    dtype: common.DtypeOption = None,
    data: common.Data = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    resume: common.Resume = False,
    revision: common.Revision = None,
    as_json: common.Json = False,
) -> None:
    """Re-parameterise linear maps by orthogonal ones, the identity at first.

    The result computes what the model computes, loads with surgery.load, and merges back.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.reparam(
            model,
            out,
            method=method.value,
            reflections=reflections,
            targets=common.roles(targets),
            scope=scope.value,
            seed=seed,
            dtype=None if dtype is None else dtype.value,
            data=data,
            force=force,
            resume=resume,
            dry_run=dry_run,
            revision=revision,
            progress=progress,
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
