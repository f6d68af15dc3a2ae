"""``surgery reparam``: a small trainable map in front of frozen linear maps, or behind heads."""

from __future__ import annotations

from typing import Annotated, Any

from surgery.choices.option import Option
from surgery.choices.parts import by_command, described
from surgery.choices.settings import HraSettings
from surgery.engine.parts.factor_options import FactorOptions
from surgery.engine.parts.linear_options import LinearOptions
from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery reparam whisper-micro --method hra --reflections 8

surgery reparam ./my-llama --method goft --targets q,k,v,o

surgery reparam ./pruned --method qgoft -o pruned-qgoft     a pruned checkpoint, too

surgery reparam ./pruned --method core -o cores             what Absorb-Decompose tunes

surgery reparam ./my-llama --method core --seams vo --up-block 0
"""


@spliced(HraSettings, LinearOptions, FactorOptions, common.Run)
def command(
    model: common.Model,
    method: Annotated[
        str, Option(lambda: described("reparam"), among=lambda: by_command("reparam"))
    ] = "hra",
    out: common.Out = None,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Put a small trainable map in front of linear maps, or behind the heads of attention.

    The result computes what the model computes, loads with surgery.load, and merges back.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.reparam(
            model,
            out,
            method=method,
            progress=progress,
            **values(HraSettings, given),
            **{**values(LinearOptions, given), **values(FactorOptions, given)},
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
