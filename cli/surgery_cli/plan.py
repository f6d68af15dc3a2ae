"""``surgery plan``: what to run for a smaller model, and what it costs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgery.engine.compress.options import CompressOptions
from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery plan ./my-llama --target-size 100MB

surgery plan ./my-whisper --within WER+1 --calibrate ./recordings

surgery plan ./my-llama --within ppl*1.1 --calibrate calib.txt --json

surgery plan ./my-llama --remove 20% --keep ./priced       goes on, where it was interrupted
"""

FOUND = ("of", "layout", "seams", "scope", "layers", "drop_layers", "layer_order")
LEFT_OUT = (*FOUND, "data", "dry_run", "force", "resume")


@spliced(CompressOptions, common.Run, after="model", without=LEFT_OUT)
def command(
    model: common.Model,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what is found here: the same plan, run again, goes on from there.",
        ),
    ] = None,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Try every way to a smaller model, and print the one command to run; write nothing.

    Layouts, seams, towers and whole layers are fitted and run on real input. What was rejected
    stands beside what was chosen, with its price on held-out rows.
    """
    with session(as_json) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render_plan import plan_view

        found = surgery.plan(
            model,
            options=CompressOptions(**values(CompressOptions, given)),
            keep=keep,
            progress=progress,
            **values(common.Run, given),
        )
        screen.emit(to_json(found))
    screen.show(plan_view(found))
