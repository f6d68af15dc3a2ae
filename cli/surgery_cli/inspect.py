"""``surgery inspect``: what is in a model, and what each cut would save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import common, cutting
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery inspect whisper-micro

surgery inspect ./my-whisper --scope all --html inspect.html

surgery inspect openai/whisper-large-v3 --structure         headers only, nothing else fetched
"""


def command(
    model: common.Model,
    lossless: cutting.Lossless = False,
    threshold_qk: cutting.ThresholdQK = None,
    threshold_vo: cutting.ThresholdVO = None,
    energy: cutting.Energy = None,
    remove: cutting.Remove = None,
    per_pair: cutting.PerPair = False,
    scope: cutting.ScopeOption = None,
    pairs: cutting.PairsOption = None,
    layout: cutting.LayoutOption = cutting.Layout.ragged,
    multiple: cutting.Multiple = 1,
    structure: Annotated[
        bool, typer.Option("--structure", help="Read only headers: no spectra, nothing cut.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with the spectra and the savings curve here."),
    ] = None,
    revision: common.Revision = None,
    as_json: common.Json = False,
) -> None:
    """Show attention, spectra and what a cut would save; nothing is written to the model."""
    with session(as_json) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        options = cutting.make_options(
            lossless=lossless,
            threshold_qk=threshold_qk,
            threshold_vo=threshold_vo,
            energy=energy,
            remove=remove,
            per_pair=per_pair,
            scope=scope,
            pairs=pairs,
            layout=layout,
            multiple=multiple,
        )
        report = surgery.inspect(
            model, options=options, structure=structure, revision=revision, progress=progress
        )
        if html is not None:
            from surgery.checkpoint.disk import target_errors
            from surgery.report.html import to_html

            with target_errors(html):
                html.write_text(to_html(report), encoding="utf-8")
        screen.emit(to_json(report))
    screen.show(report_view(report))
