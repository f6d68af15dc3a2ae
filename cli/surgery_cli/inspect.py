"""``surgery inspect``: what is in a model, and what each cut would save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgery_cli import calibrating, common, cutting
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery inspect whisper-micro

surgery inspect ./my-whisper --scope all --html inspect.html

surgery inspect ./my-whisper --calibrate shipped             what each budget would cost

surgery inspect ./my-whisper --calibrate ./recordings        the same, on your own input

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
    of: cutting.OfOption = cutting.Of.qkvo,
    up_to: cutting.UpTo = None,
    by_weights: cutting.ByWeights = False,
    preset: cutting.PresetOption = None,
    max_error: cutting.MaxError = None,
    max_wer_increase: cutting.MaxWerIncrease = None,
    max_ppl_increase: cutting.MaxPplIncrease = None,
    scope: cutting.ScopeOption = None,
    pairs: cutting.PairsOption = None,
    layout: cutting.LayoutOption = cutting.Layout.ragged,
    multiple: cutting.Multiple = 1,
    calibrate: calibrating.Data = None,
    statistics: calibrating.Statistics = None,
    samples: calibrating.Samples = None,
    padding_weight: calibrating.PaddingWeight = None,
    ridge: calibrating.Ridge = None,
    as_recorded: calibrating.AsRecorded = False,
    language: calibrating.Language = "en",
    device: calibrating.Device = None,
    trials: calibrating.Trials = None,
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
            of=of,
            up_to=up_to,
            by_weights=by_weights,
            preset=preset,
            max_error=max_error,
            max_wer_increase=max_wer_increase,
            max_ppl_increase=max_ppl_increase,
            scope=scope,
            pairs=pairs,
            layout=layout,
            multiple=multiple,
            calibrate=calibrating.make_calibrate(
                data=calibrate,
                statistics=statistics,
                samples=samples,
                padding_weight=padding_weight,
                ridge=ridge,
                as_recorded=as_recorded,
                language=language,
                device=device,
                trials=trials,
            ),
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
