"""``surgery reparam``: a small trainable map in front of frozen linear maps, or behind heads."""

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

surgery reparam ./pruned --method core -o cores             what Absorb-Decompose tunes

surgery reparam ./my-llama --method core --pairs vo --up-block 0
"""


class Method(StrEnum):
    """Which map stands in front, or behind."""

    hra = "hra"
    goft = "goft"
    qgoft = "qgoft"
    core = "core"
    diagonal = "diagonal"


def command(
    model: common.Model,
    method: Annotated[
        Method,
        typer.Option(
            help="In front: hra (Householder reflections), goft (Givens rotations), qgoft (free "
            "2×2 blocks). Behind heads: core (square blocks), diagonal (singular values)."
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
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="qk,vo",
            help="core, diagonal: behind keys (qk), values (vo), or (default) both.",
        ),
    ] = None,
    up_block: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="core: rows of up that share a block, 0: none; default 64 with RoPE, else 0.",
        ),
    ] = None,
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
    """Put a small trainable map in front of linear maps, or behind the heads of attention.

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
            pairs=common.roles(pairs),
            up_block=up_block,
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
