"""``surgery refresh``: renew the code that checkpoints carry."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery refresh checkpoints/whisper-micro-absorb-decompose

surgery refresh ./pruned ./split                            several at once
"""


def command(
    checkpoints: Annotated[list[str], typer.Argument(help="Checkpoints that surgery wrote.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="What was renewed, as JSON on standard output.")
    ] = False,
) -> None:
    """Renew the code that a checkpoint carries for transformers; its weights stay as they are."""
    with session(as_json) as (screen, _):
        import surgery

        renewed = {each: surgery.refresh(each) for each in checkpoints}
        screen.emit(json.dumps({"refreshed": renewed}))
    for each, written in renewed.items():
        screen.show(f"{each}: {'code renewed' if written else 'the code is up to date'}")
