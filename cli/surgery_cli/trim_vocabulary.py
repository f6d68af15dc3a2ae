"""``surgery trim-vocabulary``: remove the tokens that given texts or languages never need."""

from __future__ import annotations

from typing import Any

from surgery.engine.vocabulary.options import TrimOptions
from surgery_cli import common
from surgery_cli.options import spliced, values
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery trim-vocabulary ./my-llama --keep-text domain.txt

surgery trim-vocabulary ./my-llama --keep-text a.txt --keep-text b.txt --min-count 3

surgery trim-vocabulary ./my-whisper --languages en,de         20,000 words of each

surgery trim-vocabulary ./my-whisper --languages en,de --target-parameters 55M

surgery trim-vocabulary ./my-whisper --languages en --keep-speech ./recordings

surgery trim-vocabulary ./my-bert --keep-tokens tokens.txt --dry-run
"""


@spliced(TrimOptions, common.Run)
def command(
    model: common.Model, out: common.Out = None, as_json: common.Json = False, **given: Any
) -> None:
    """Remove the tokens that texts, speech and languages never need, and their rows.

    Writes a stock checkpoint with its own tokenizer: what stays is the original's, bit for bit.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        report = surgery.trim_vocabulary(
            model,
            out,
            options=TrimOptions(**values(TrimOptions, given)),
            progress=progress,
            **values(common.Run, given),
        )
        screen.emit(to_json(report))
    screen.show(report_view(report))
