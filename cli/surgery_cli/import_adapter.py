"""``surgery import``: a PEFT adapter on its base model becomes a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery import ./my-llama --adapter ./pissa-adapter

surgery import ./my-llama --adapter ./tuned --initial-adapter ./pissa-init

surgery import openai/whisper-small --adapter ./hra-adapter -o whisper-hra
"""


@spliced(common.Run, without=("dry_run",))
def command(
    model: common.Model,
    adapter: Annotated[Path, typer.Option(help="PEFT adapter directory: LoRA, PiSSA or HRA.")],
    initial_adapter: Annotated[
        Path | None,
        typer.Option(help="The adapter before training: what PiSSA took out of the weights."),
    ] = None,
    out: common.Out = None,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Write a base model and an adapter that PEFT trained as one checkpoint, to merge or go on."""
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.import_adapter(
            model,
            adapter,
            out,
            initial_adapter=initial_adapter,
            progress=progress,
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
