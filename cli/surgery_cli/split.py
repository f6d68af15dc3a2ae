"""``surgery split``: linear maps into a trainable principal part and a frozen residual."""

from __future__ import annotations

from typing import Annotated, Any

from surgery.choices.option import Option
from surgery.choices.parts import by_command, described
from surgery.choices.settings import SplitSettings
from surgery.engine.parts.linear_options import LinearOptions
from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery split whisper-micro --rank 8                        SORSA on every linear map

surgery split ./my-llama --method pissa --rank 128 --targets q,v

surgery split ./my-llama --rank 128 --solver full           the exact SVD, slowly

surgery split ./pruned --rank 16 -o pruned-and-split        a pruned checkpoint splits, too
"""


@spliced(SplitSettings, LinearOptions, common.Run)
def command(
    model: common.Model,
    method: Annotated[
        str, Option(lambda: described("split"), among=lambda: by_command("split"))
    ] = "sorsa",
    out: common.Out = None,
    as_json: common.Json = False,
    **given: Any,
) -> None:
    """Split linear maps: the top of the SVD to be trained, the rest frozen.

    The result computes what the model computes, loads with surgery.load, and merges back.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.split(
            model,
            out,
            method=method,
            progress=progress,
            **values(SplitSettings, given),
            **values(LinearOptions, given),
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
