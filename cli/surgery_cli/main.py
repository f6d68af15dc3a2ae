"""The ``surgery`` command: parse, call the library, show what it returns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from surgery import __version__
from surgery.errors import UsageError
from surgery_cli import (
    absorb_decompose,
    compress,
    evaluate,
    export,
    import_adapter,
    inspect,
    merge,
    plan,
    refresh,
    reparam,
    split,
    trim_vocabulary,
    tune,
    verify,
)
from surgery_cli.session import error_json


class Commands(TyperGroup):
    """The commands; bad usage is told in plain words, and in JSON where JSON was asked for."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = plain_words(error)
            raise

    def main(
        self, args: Sequence[str] | None = None, *others: Any, **options: Any
    ) -> Any:  # the signature is typer's own, whichever version's
        """Parse and run; ends the process unless told otherwise."""
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words or others or not options.get("standalone_mode", True):
            return super().main(args, *others, **options)
        try:
            code = super().main(words, **{**options, "standalone_mode": False})
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            sys.stdout.write(error_json(UsageError(error.format_message())) + "\n")
            code = getattr(error, "exit_code", UsageError.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def plain_words(error: typer.BadParameter) -> str:
    """Return what is wrong with an option's value, where typer leaves the words to pydantic."""
    told = getattr(error.__cause__, "errors", None)
    if not callable(told):
        return error.message
    fault = told()[0]
    bounds, kind = fault.get("ctx", {}), fault["type"]
    for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most")):
        if name in bounds:
            return f"{fault['input']} is not {words} {bounds[name]}."
    if kind.startswith(("int_", "float_")):
        return f"{fault['input']!r} is not a {'whole ' * kind.startswith('int')}number."
    return str(error.message.removeprefix("Value error, "))


app = typer.Typer(
    name="surgery",
    cls=Commands,
    help="Restructure, prune, split and tune trained transformers, and measure what it cost.",
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
    """Restructure, prune, split and tune trained transformers, and measure what it cost."""


app.command("absorb-decompose", epilog=absorb_decompose.EXAMPLES)(absorb_decompose.command)
app.command("compress", epilog=compress.EXAMPLES)(compress.command)
app.command("plan", epilog=plan.EXAMPLES)(plan.command)
app.command("trim-vocabulary", epilog=trim_vocabulary.EXAMPLES)(trim_vocabulary.command)
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.command)
app.command("split", epilog=split.EXAMPLES)(split.command)
app.command("reparam", epilog=reparam.EXAMPLES)(reparam.command)
app.command("tune", epilog=tune.EXAMPLES)(tune.command)
app.command("export", epilog=export.EXAMPLES)(export.command)
app.command("import", epilog=import_adapter.EXAMPLES)(import_adapter.command)
app.command("verify", epilog=verify.EXAMPLES)(verify.command)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.command)
app.command("merge", epilog=merge.EXAMPLES)(merge.command)
app.command("refresh", epilog=refresh.EXAMPLES)(refresh.command)


def main() -> None:
    """Entry point of the console script."""
    app()
