"""``surgery compress``: narrow the feed-forward blocks, all alike or each by what it can spare."""

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

surgery compress ./my-llama --remove 10%

surgery compress ./my-whisper --remove 15% --calibrate ./recordings

surgery compress ./my-llama --remove 20% --calibrate calib.txt --data test.txt

surgery compress ./my-llama --remove 30% --of ffn --multiple 256 --dry-run

surgery compress ./my-llama --target-size 100MB --layout ragged --seams qk,vo,ffn

surgery compress ./my-whisper --within WER+1 --calibrate ./recordings

surgery compress ./my-llama --layers 2 --calibrate calib.txt      whole layers, tried one by one

surgery compress ./my-llama --remove 10% --seams ffn,layers       layers where they are cheaper

surgery compress ./my-whisper --drop-layers encoder:3,decoder:5

surgery compress ./my-whisper --remove 20% --layout ragged

surgery compress ./my-whisper --order magnitude --no-refit    a baseline
"""


@spliced(CompressOptions, common.Run)
def command(
    model: common.Model,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-compress."),
    ] = None,
    allow_leakage: common.Leakage = False,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Remove neurons of feed-forward blocks and whole layers, fit what is left, and report.

    Writes a stock checkpoint, one width a tower: whatever loads the original loads it. With
    --layout ragged each block gets a width of its own, and the result carries the code to run it.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.compress(
            model,
            out,
            options=CompressOptions(**values(CompressOptions, given)),
            allow_leakage=allow_leakage,
            progress=progress,
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
