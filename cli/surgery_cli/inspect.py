"""``surgery inspect``: what is in a model, and what each cut would save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgery.engine.vocabulary.options import TrimOptions
from surgery.errors import UsageError
from surgery_cli import common, cutting
from surgery_cli.options import given_flags, spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery inspect whisper-micro

surgery inspect ./my-whisper --scope all --html inspect.html

surgery inspect ./my-whisper --calibrate shipped             what each budget would cost

surgery inspect ./my-whisper --calibrate ./recordings        the same, on your own input

surgery inspect ./my-whisper --vocabulary --languages en,de  what fewer tokens would save

surgery inspect openai/whisper-large-v3 --structure         headers only, nothing else fetched
"""


LEFT_OUT = ("baseline", "dtype", "refit", "data", "dry_run", "force", "resume")


@spliced(*cutting.KINDS, TrimOptions, common.Run, after="model", without=LEFT_OUT)
def command(
    model: common.Model,
    structure: Annotated[
        bool, typer.Option("--structure", help="Read only headers: no spectra, nothing cut.")
    ] = False,
    vocabulary: Annotated[
        bool,
        typer.Option("--vocabulary", help="What trim-vocabulary would save, with its options."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with the spectra and the savings curve here."),
    ] = None,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Show attention, spectra and what a cut would save; nothing is written to the model."""
    with session(as_json) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        told = given_flags(TrimOptions, given)
        if told and not vocabulary:
            raise UsageError(f"{next(iter(told.values()))} goes with --vocabulary")
        if vocabulary:
            report = surgery.trim_vocabulary(
                model,
                options=TrimOptions(**values(TrimOptions, given)),
                dry_run=True,
                progress=progress,
                **values(common.Run, given),
            )
        else:
            report = surgery.inspect(
                model,
                options=cutting.make_options(given),
                structure=structure,
                progress=progress,
                **values(common.Run, given),
            )
        if html is not None:
            from surgery.checkpoint.disk import target_errors
            from surgery.report.html import to_html

            with target_errors(html):
                html.write_text(to_html(report), encoding="utf-8")
        screen.emit(to_json(report))
    screen.show(report_view(report))
