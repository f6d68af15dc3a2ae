"""``surgery evaluate``: any number of models on the same data, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from surgery.choices.common import DTYPES
from surgery.choices.option import SEED, Option
from surgery_cli import common
from surgery_cli.options import spliced
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery evaluate ./my-whisper ./pruned --data ./recordings --data ./others

surgery evaluate ./my-llama ./pruned ./healed --data test.txt --json

surgery evaluate ./my-llama ./pruned --data wiki.test.raw --text running

surgery evaluate ./my-llama ./pruned --data ARC-Easy.jsonl --limit 500

surgery evaluate whisper-tiny ./pruned --data hub:google/fleurs#en_us/test
"""


Division = Literal["documents", "lines", "running"]


@spliced()
def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Directories, names, .pt files; the first is the reference."
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH|hub:OWNER/NAME",
            help="Folder of audio, text or JSONL, also of questions with choices, or a dataset "
            "of the hub; may be repeated.",
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first so many recordings, documents or questions."),
    ] = None,
    text: Annotated[
        Division | None,
        Option(
            "What is a document of text: rows, lines or files, as it seems (documents, the "
            "default); every line; or every file as running text."
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="What is spoken: Whisper's code or name.")] = "en",
    batch: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    seed: Annotated[int, Option(SEED, least=0)] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Draws of the intervals.")] = 2000,
    device: Annotated[str | None, typer.Option(help="cpu (the default), cuda, cuda:1, …")] = None,
    dtype: Annotated[
        str | None, Option("Dtype of all models; default on a CPU: float32.", among=DTYPES)
    ] = None,
    allow_leakage: common.Leakage = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the JSON document here, too.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The evaluation as JSON on standard output.")
    ] = False,
) -> None:
    """Measure models side by side: errors with 95 % intervals, drift by layer, time.

    Whisper: word errors, unchanged texts. Language models: perplexity, bits per byte, KL; or right
    answers, of JSONL with question, choices and answer.
    BERT-like: drift of embeddings. Data that a model was calibrated on is refused.
    """
    with session(as_json) as (screen, progress):
        import surgery
        from surgery_cli.evaluation import evaluation_view

        found = surgery.evaluate(
            models,
            data,
            limit=limit,
            text=text,
            language=language,
            batch=batch,
            seed=seed,
            resamples=resamples,
            device=device,
            dtype=dtype,
            allow_leakage=allow_leakage,
            output=output,
            progress=progress,
        )
        screen.emit(found.to_json())
    screen.show(evaluation_view(found))
