"""What the transformers Trainer is told: settings in its own words."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import TrainingArguments

from surgery.errors import UsageError
from surgery.training.options import Settings, TuneOptions


def on_cpu(options: TuneOptions) -> bool:
    """Whether a run has no accelerator, or is not to use it."""
    return options.device == "cpu" or not torch.accelerator.is_available()


def check_precision(options: TuneOptions) -> None:
    """Refuse mixed precision that would quietly be none.

    Raises:
        UsageError: float16 is asked for on a CPU.
    """
    if options.precision == "fp16" and on_cpu(options):
        raise UsageError(
            "Mixed precision in float16 needs an accelerator",
            where="--precision",
            found="fp16 on a CPU",
            expected="bf16 or float32",
        )


def training_arguments(
    settings: Settings, directory: Path, *, steps: int, watched: bool
) -> TrainingArguments:
    """Translate settings for the Trainer.

    Args:
        settings: What is done.
        directory: Where states are saved.
        steps: Optimiser steps of the whole run.
        watched: Whether there are held-out samples to look at.
    """
    options = settings.options
    warmup = settings.warmup if settings.warmup >= 1 else math.ceil(settings.warmup * steps)
    arguments = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.accumulate,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule
        if settings.schedule != "constant"
        else "constant_with_warmup",
        warmup_steps=min(int(warmup), steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        logging_steps=options.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if watched else "no",
        eval_steps=options.evaluate_every or max(1, math.ceil(steps / 10)),
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=2,
        seed=options.seed,
        use_cpu=on_cpu(options),
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several are for torchrun, not for DataParallel
    return arguments
