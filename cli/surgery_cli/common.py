"""Options that several commands share, spelled once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Scope(StrEnum):
    """Which attention blocks."""

    encoder = "encoder"
    decoder = "decoder"
    cross = "cross"
    all = "all"


class Dtype(StrEnum):
    """Dtype of the written weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Model = Annotated[
    str, typer.Argument(help="Directory, hub id, short name, .pt file, or whisper-micro.")
]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Dtype of the written weights; default: as stored.")
]
Data = Annotated[
    Path | None, typer.Option(help="Audio folder or text file to measure the price on.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Compute and show everything; write nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Revision = Annotated[str | None, typer.Option(help="Revision on the hub.")]
Json = Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")]
ScopeOption = Annotated[Scope, typer.Option(help="Which blocks.")]
Seed = Annotated[int, typer.Option(min=0, help="Where randomness begins.")]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="q,v,…",
        help="Which maps: q, k, v, o, gate, up, down. Default: what is usual for the method.",
    ),
]


def roles(text: str | None) -> list[str] | None:
    """Return the words of a comma-separated option."""
    if text is None:
        return None
    return [word.strip().lower() for word in text.split(",") if word.strip()]
