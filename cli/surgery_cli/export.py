"""``surgery export``: a checkpoint in another runtime's format, run there before it is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.errors import UsageError
from surgery_cli import common
from surgery_cli.session import session

if TYPE_CHECKING:
    from surgery.export.run import Exported

EXAMPLES = """
[bold]Examples[/bold]

surgery export checkpoints/pruned --list                    what fits, and what it would keep

surgery export checkpoints/pruned --to ct2                  for faster-whisper

surgery export checkpoints/pruned --to ct2 --quantization int8 -o fast

surgery export checkpoints/my-llama-pruned --to gguf        for llama.cpp

surgery export checkpoints/my-llama-sorsa --to peft --original ./my-llama
"""


class To(StrEnum):
    """Whose format."""

    hf = "hf"
    ct2 = "ct2"
    openai_whisper = "openai-whisper"
    gguf = "gguf"
    ggml = "ggml"
    peft = "peft"


def command(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint or adapter that surgery wrote, or any model.")
    ],
    to: Annotated[
        To | None,
        typer.Option(
            case_sensitive=False,
            metavar="TARGET",
            help="hf (transformers, no remote code), ct2 (faster-whisper), openai-whisper, "
            "gguf (llama.cpp), ggml (whisper.cpp) or peft.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show which targets fit this checkpoint; write nothing.")
    ] = False,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "-q",
            help="Type of the weights. ct2: int8, float16, …; gguf: f32, f16, bf16, q8_0. "
            "Default: as they are stored.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Of an adapter: its base, if it is not where it was."),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(help="peft: the model that was operated on; default: looked up by its name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where to write; default: <name>-<target>.")
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not run the result in its own runtime.")
    ] = False,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Write a checkpoint for another runtime, run it there, and compare."""
    with session(as_json) as (screen, progress):
        import surgery

        if listed == (to is not None):
            raise UsageError(
                "Say where the checkpoint is to run, or ask what fits it",
                where="--to",
                found="--to and --list" if listed else "neither --to nor --list",
                expected=f"--to {'|'.join(To)}, or --list",
            )
        if to is None:
            unused = {
                "--quantization": quantization,
                "--original": original,
                "--out": out,
                "--no-verify": no_verify,
                "--force": force,
            }
            if given := [name for name, value in unused.items() if value not in (None, False)]:
                raise UsageError(
                    "--list writes nothing, and has no use for this", where=", ".join(given)
                )
            routes = surgery.export_routes(checkpoint, base=base)
            screen.emit(json.dumps([asdict(route) for route in routes], indent=2))
            if not as_json:
                from surgery_cli.render_export import routes_view

                screen.show(routes_view(routes))
            return
        made = surgery.export_model(
            checkpoint,
            to.value,
            out,
            base=base,
            original=original,
            quantization=quantization,
            verify=not no_verify,
            force=force,
            progress=progress,
        )
        screen.emit(_document(made))
    if not as_json:
        from surgery_cli.render_export import exported_view

        screen.show(exported_view(made))


def _document(made: Exported) -> str:
    fields = {**asdict(made), "output": str(made.output)}
    return json.dumps(fields, indent=2)
