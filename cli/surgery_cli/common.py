"""Options that several commands share, and that say nothing to the library but what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from surgery.choices.option import asked

Model = Annotated[
    str, typer.Argument(help="Directory, hub id, short name, .pt file, or whisper-micro.")
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-<method>."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Json = Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")]
Leakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Measure on calibration data too, and label it.")
]


@dataclass(frozen=True)
class Run:
    """How every command that writes a checkpoint is run."""

    data: str | None = asked(
        None, "Audio folder or text file to measure the price on.", reads="path"
    )
    dry_run: bool = asked(False, "Compute and show everything; write nothing.")
    force: bool = asked(False, "Replace what is in OUT.")
    resume: bool = asked(False, "Go on with an interrupted run.")
    revision: str | None = asked(None, "Revision on the hub.")
