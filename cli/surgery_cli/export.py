"""``surgery export``: a checkpoint's small parts in another library's format."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery export checkpoints/my-llama-sorsa --to peft --base ./my-llama

surgery export ./hra-checkpoint --to peft -o adapter        the base found by its name

surgery export ./pruned-and-split --to peft --base ./pruned
"""


class Target(StrEnum):
    """Whose format."""

    peft = "peft"


def command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint that surgery wrote.")],
    to: Annotated[
        Target, typer.Option(help="peft: an adapter on the original model (SORSA, PiSSA, HRA).")
    ],
    base: Annotated[
        str | None,
        typer.Option(help="The model that was operated on; default: looked up by its name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write; default: <name>-peft.")
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Write small parts as an adapter: rank 2r LoRA for a split of rank r, HRA as it is."""
    del to  # one target so far
    with session(as_json) as (screen, progress):
        import surgery

        made = surgery.export_peft(checkpoint, out, base=base, force=force, progress=progress)
        screen.emit(
            json.dumps(
                {
                    "output": str(made.output),
                    "kind": made.kind,
                    "base": made.base,
                    "modules": made.modules,
                    "parameters": made.parameters,
                    "worst_error": made.worst,
                },
                indent=2,
            )
        )
    screen.show(
        f"{made.kind} adapter of {made.modules} modules, {made.parameters:,} parameters: "
        f"{made.output}\nLargest relative difference of a weight: {made.worst:.1e}\n"
        f"It belongs on {made.base}."
    )
