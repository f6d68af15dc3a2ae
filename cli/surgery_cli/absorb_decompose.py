"""``surgery absorb-decompose``: restructure and prune attention, report what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgery_cli import common, cutting
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery absorb-decompose whisper-micro                      the embedded model

surgery absorb-decompose ./my-whisper                       as much as does little harm

surgery absorb-decompose ./my-llama --remove 25% --seams vo

surgery absorb-decompose whisper-large-v3 --preset paper -o pruned

surgery absorb-decompose ./my-whisper --lossless --dtype float32

surgery absorb-decompose ./my-whisper --remove 25% --calibrate ./some --data ./others

surgery absorb-decompose ./my-llama --max-ppl-increase 2% --calibrate calib.txt
"""


@spliced(*cutting.KINDS, common.Run)
def command(
    model: common.Model,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where to write; default: checkpoints/<name>-absorb-decompose."
        ),
    ] = None,
    allow_leakage: common.Leakage = False,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Restructure attention into orthogonal vectors, prune the redundant ones, and report.

    Writes a checkpoint that loads with surgery.load, with report.html inside.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.absorb_decompose(
            model,
            out,
            options=cutting.make_options(given),
            allow_leakage=allow_leakage,
            progress=progress,
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
