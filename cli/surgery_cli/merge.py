"""``surgery merge``: back to plain dense weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery merge checkpoints/whisper-micro-absorb-decompose

surgery merge ./pruned -o ./dense
"""


def command(
    checkpoint: Annotated[str, typer.Argument(help="A restructured checkpoint.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write; default: <name>-merged.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result's place as JSON on standard output.")
    ] = False,
) -> None:
    """Write plain dense weights of the original shapes, which any transformers loads."""
    with session(as_json, resumable=True) as (screen, progress):
        import surgery

        target = surgery.merge(checkpoint, out, force=force, resume=resume, progress=progress)
        screen.emit(json.dumps({"output": str(target)}))
    screen.show(f"Dense checkpoint: {target}")
