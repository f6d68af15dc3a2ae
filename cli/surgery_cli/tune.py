"""``surgery tune``: train only the small parts of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgery.choices.option import Option
from surgery.choices.parts import PARTS
from surgery.training.options import TuneOptions
from surgery.training.preparation import Preparation
from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery tune ./pruned --data recordings -o ./healed            a pruned Whisper: its cores

surgery tune ./pruned --train diagonal --data recordings       its singular values only

surgery tune ./llama-sorsa --data chats.jsonl --recipe sorsa   what the checkpoint carries

surgery tune gpt2 --train lora --rank 4 --data notes.txt       the baseline, through PEFT

torchrun --nproc-per-node 4 -m surgery_cli tune ./pruned …     on four processes

surgery merge ./healed -o ./final                              then: no inference cost
"""


@spliced(Preparation, TuneOptions, after="train")
def command(
    checkpoint: Annotated[
        str, typer.Argument(help="What surgery wrote; with --train any model: directory or name.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of audio with transcripts.tsv; or text, .jsonl, or a folder of these."
        ),
    ],
    eval_data: Annotated[
        Path | None, typer.Option(help="Audio folder or text file to measure before and after.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-tuned."),
    ] = None,
    train: Annotated[
        str | None,
        Option("What to train; default: what the checkpoint carries, or core.", among=PARTS.keys),
    ] = None,
    force: common.Force = False,
    resume: common.Resume = False,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Train only what a surgery left trainable; write an adapter; measure before and after.

    The base stays frozen and as it is. `surgery merge` makes one checkpoint of both.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.tune(
            checkpoint,
            out,
            data=data,
            train=train,
            preparation=Preparation(**values(Preparation, given)),
            options=TuneOptions(**values(TuneOptions, given)),
            eval_data=eval_data,
            force=force,
            resume=resume,
            progress=progress,
        )
        if report is None:  # another process writes and talks
            return
        screen.emit(to_json(report))
    screen.show(report_view(report))
