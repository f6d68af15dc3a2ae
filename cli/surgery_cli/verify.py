"""``surgery verify``: prove equality, or measure the difference."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery verify whisper-micro checkpoints/whisper-micro-absorb-decompose

surgery verify ./my-llama ./pruned --data test.txt

surgery verify ./my-whisper ./exact --max-error 1e-6        exit 1 where any differs by more
"""


def command(
    original: Annotated[str, typer.Argument(help="The model before.")],
    result: Annotated[str, typer.Argument(help="The checkpoint after.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Audio folder or text file; default: what the package ships."),
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Compare weights only; run nothing.")
    ] = False,
    max_error: Annotated[
        float | None,
        typer.Option(min=0.0, help="Fail where a head or linear map differs by more than this."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every figure as JSON on standard output.")
    ] = False,
) -> None:
    """Compare heads and linear maps in float64, and both models' outputs on real input."""
    with session(as_json) as (screen, progress):
        import surgery
        from surgery.errors import SurgeryError
        from surgery_cli.verification import verification_view

        found = surgery.verify(
            original, result, data=data, weights_only=weights_only, progress=progress
        )
        screen.emit(json.dumps({**asdict(found), "worst": found.worst}, indent=2))
    screen.show(verification_view(found))
    if max_error is not None and found.worst > max_error:
        with session(False):
            raise SurgeryError(
                "A head or linear map differs by more than allowed",
                where=found.result,
                found=f"{found.worst:.3g}",
                expected=f"at most {max_error:.3g}",
            )
