"""``surgery split``: linear maps into a trainable principal part and a frozen residual."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery split whisper-micro --rank 8                        SORSA on every linear map

surgery split ./my-llama --method pissa --rank 128 --targets q,v

surgery split ./my-llama --rank 128 --solver full           the exact SVD, slowly

surgery split ./pruned --rank 16 -o pruned-and-split        a pruned checkpoint splits, too
"""


class Method(StrEnum):
    """How the principal part is kept."""

    sorsa = "sorsa"
    pissa = "pissa"


class Solver(StrEnum):
    """How the SVD is computed."""

    fast = "fast"
    full = "full"


def command(
    model: common.Model,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the principal part.")],
    method: Annotated[
        Method, typer.Option(help="sorsa: U, S and V are trained apart. pissa: two factors.")
    ] = Method.sorsa,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-<method>."),
    ] = None,
    targets: common.Targets = None,
    scope: common.ScopeOption = common.Scope.all,
    solver: Annotated[
        Solver, typer.Option(help="fast: block Krylov, with a certified bound. full: exact SVD.")
    ] = Solver.fast,
    tolerance: Annotated[
        float,
        typer.Option(help="Share of the best part's energy that the fast solver may miss."),
    ] = 1e-3,
    scale: Annotated[float, typer.Option(help="Factor in front of the principal part.")] = 1.0,
    seed: common.Seed = 0,
    dtype: common.DtypeOption = None,
    data: common.Data = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    resume: common.Resume = False,
    revision: common.Revision = None,
    as_json: common.Json = False,
) -> None:
    """Split linear maps: the top of the SVD to be trained, the rest frozen.

    The result computes what the model computes, loads with surgery.load, and merges back.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.split(
            model,
            out,
            method=method.value,
            rank=rank,
            targets=common.roles(targets),
            scope=scope.value,
            scale=scale,
            solver=solver.value,
            tolerance=tolerance,
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
