"""The ``surgery`` command: parse, call the library, show what it returns."""

from __future__ import annotations

from typing import Annotated

import typer

from surgery import __version__
from surgery_cli import absorb_decompose, inspect, merge, verify

app = typer.Typer(
    name="surgery",
    help="Restructure and prune trained transformers offline, and measure what it cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"surgery {__version__}")
        raise typer.Exit


@app.callback()
def surgery(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Restructure and prune trained transformers offline, and measure what it cost."""


app.command("absorb-decompose", epilog=absorb_decompose.EXAMPLES)(absorb_decompose.command)
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.command)
app.command("verify", epilog=verify.EXAMPLES)(verify.command)
app.command("merge", epilog=merge.EXAMPLES)(merge.command)


def main() -> None:
    """Entry point of the console script."""
    app()
