"""``surgery merge``: back to plain dense weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery merge checkpoints/whisper-micro-absorb-decompose

surgery merge ./pruned -o ./dense

surgery merge ./pruned-and-split --steps 1                  the split only; still pruned

surgery merge ./tuned --base ./cores                        an adapter whose base was moved
"""


def command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint or adapter that surgery wrote.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write; default: <name>-merged.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Where an adapter's base is; default: where it was.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="How many operations to take back, the last first; default: all."),
    ] = None,
    force: common.Force = False,
    resume: common.Resume = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result's place as JSON on standard output.")
    ] = False,
) -> None:
    """Merge small parts back and restore dense shapes, which any transformers loads."""
    with session(as_json, resumable=True) as (screen, progress):
        import surgery

        target = surgery.merge(
            checkpoint, out, base=base, steps=steps, force=force, resume=resume, progress=progress
        )
        screen.emit(json.dumps({"output": str(target)}))
    screen.show(f"Merged checkpoint: {target}")
