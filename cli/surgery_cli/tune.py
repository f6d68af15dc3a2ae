"""``surgery tune``: train only the small parts of a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from surgery.errors import UsageError
from surgery_cli import common
from surgery_cli.session import session

EXAMPLES = """
[bold]Examples[/bold]

surgery tune ./pruned --data recordings -o ./healed            a pruned Whisper: its cores

surgery tune ./pruned --train diagonal --data recordings       its singular values only

surgery tune ./llama-sorsa --data chats.jsonl --recipe sorsa   what the checkpoint carries

surgery tune gpt2 --train lora --rank 4 --data notes.txt       the baseline, through PEFT

torchrun --nproc-per-node 4 -m surgery_cli tune ./pruned …     on four processes

surgery merge ./healed -o ./final                              then: no inference cost
"""


class Train(StrEnum):
    """What is trained."""

    diagonal = "diagonal"
    core = "core"
    sorsa = "sorsa"
    pissa = "pissa"
    hra = "hra"
    goft = "goft"
    qgoft = "qgoft"
    lora = "lora"
    full = "full"


class Schedule(StrEnum):
    """How the learning rate falls."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Precision(StrEnum):
    """In what matrices are multiplied."""

    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(StrEnum):
    """Where it runs."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    xpu = "xpu"


def command(  # one parameter an option: typer reads the signature
    checkpoint: Annotated[
        str, typer.Argument(help="What surgery wrote; with --train any model: directory or name.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of audio with transcripts.tsv; or text, .jsonl, or a folder of these."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Where to write; default: checkpoints/<name>-tuned."),
    ] = None,
    train: Annotated[
        Train | None,
        typer.Option(help="What to train; default: what the checkpoint carries, or core."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of sorsa, pissa and lora; default: 8.")
    ] = None,
    reflections: Annotated[
        int | None, typer.Option(min=2, help="Of hra, even; default: 8.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="0,2,…", help="Of lora: which layers; default: all.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(metavar="qk,vo", help="Of diagonal and core: which; default: both."),
    ] = None,
    up_block: Annotated[
        int | None,
        typer.Option(min=0, help="Of core: rows of a block of up projections; 0: none."),
    ] = None,
    targets: common.Targets = None,
    scope: common.ScopeOption = common.Scope.all,
    recipe: Annotated[
        str | None,
        typer.Option(help="clover, sorsa, pissa, hra, goft, qgoft, lora, full; default: fitting."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, not epochs.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples a step, over all processes together.")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Samples at once in a process: what memory allows.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="How the learning rate falls.")] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Steps of warm-up, or, below 1, share of all steps.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0: any.")] = 1.0,
    penalty: Annotated[
        float | None, typer.Option(help="Weight of the regulariser of sorsa, hra or qgoft.")
    ] = None,
    also: Annotated[
        str | None, typer.Option(metavar="biases,norms", help="What is trained beside.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens a row of packed text; default: at most 512.")
    ] = None,
    language: Annotated[str, typer.Option(help="What is spoken, if not English.")] = "en",
    held_out: Annotated[
        float, typer.Option(help="Share of the data kept back to watch, at most 64 samples.")
    ] = 0.05,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between looks at it; default: ten looks a run.")
    ] = None,
    transcribe: Annotated[
        bool, typer.Option("--transcribe/--no-transcribe", help="Word error rate of it, too.")
    ] = True,
    log_every: Annotated[int, typer.Option(help="Steps between logged losses.")] = 5,
    save_every: Annotated[int, typer.Option(help="Steps between states to resume from.")] = 50,
    eval_data: Annotated[
        Path | None, typer.Option(help="Audio folder or text file to measure before and after.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Mixed precision.")] = Precision.float32,
    dtype: Annotated[
        common.Dtype, typer.Option(help="Of the frozen weights; small parts are float32.")
    ] = common.Dtype.float32,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Save memory, take longer.")
    ] = False,
    device: Annotated[
        Device | None, typer.Option(help="Default: the accelerator, where there is one.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for tensorboard, in OUT/tensorboard.")
    ] = False,
    seed: common.Seed = 0,
    force: common.Force = False,
    resume: common.Resume = False,
    as_json: common.Json = False,
) -> None:
    """Train only what a surgery left trainable; write an adapter; measure before and after.

    The base stays frozen and as it is. `surgery merge` makes one checkpoint of both.
    """
    with session(as_json, resumable=True) as (screen, progress):
        import surgery
        from surgery.report.serialise import to_json
        from surgery_cli.render import report_view

        def words(text: str | None) -> tuple[str, ...] | None:
            found = common.roles(text)
            return None if found is None else tuple(found)

        def numbers(text: str | None) -> tuple[int, ...] | None:
            try:
                return None if text is None else tuple(map(int, text.split(",")))
            except ValueError as error:
                message = "--layers takes numbers with commas between them"
                raise UsageError(message, found=text) from error

        report = surgery.tune(
            checkpoint,
            out,
            data=data,
            train=None if train is None else train.value,
            preparation=surgery.Preparation(
                rank=rank,
                reflections=reflections,
                targets=words(targets),
                scope=scope.value,
                layers=numbers(layers),
                pairs=words(pairs),
                up_block=up_block,
            ),
            options=surgery.TuneOptions(
                recipe=recipe,
                epochs=epochs,
                steps=steps,
                batch=batch,
                micro_batch=micro_batch,
                learning_rate=learning_rate,
                schedule=None if schedule is None else schedule.value,
                warmup=warmup,
                weight_decay=weight_decay,
                clip=clip,
                penalty=penalty,
                also=words(also) or (),  # type: ignore[arg-type]  # checked there
                length=length,
                language=language,
                held_out=held_out,
                evaluate_every=evaluate_every,
                transcribe=transcribe,
                log_every=log_every,
                save_every=save_every,
                precision=precision.value,
                dtype=dtype.value,
                gradient_checkpointing=gradient_checkpointing,
                seed=seed,
                device=None if device is None else device.value,
                workers=workers,
                tensorboard=tensorboard,
            ),
            eval_data=eval_data,
            force=force,
            resume=resume,
            progress=progress,
        )
        if report is None:  # another process writes and talks
            return
        screen.emit(to_json(report))
    screen.show(report_view(report))
