"""Train ``whisper-micro`` from scratch, and write everything the package ships of it.

    OMP_NUM_THREADS=1 python -m surgery.micro.train --out surgery/data/whisper_micro

A stock Whisper, small enough for a laptop's processor to train in half an hour on one core:
audio from :mod:`surgery.micro.synthesis`, features from transformers' own log-mel front end,
AdamW with warm-up and cosine decay, no data but what the seeds make. The same command on the
same machine, with the same thread count and library versions, goes the same way step for step.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from surgery.micro.assets import write_test_set
from surgery.micro.synthesis import LONGEST, SAMPLE_RATE, WINDOW_SECONDS, WORDS, Clip, dial
from surgery.micro.vocabulary import END, NO_TIMESTAMPS, START, build_tokenizer

logger = logging.getLogger(__name__)

TRAINING_SEEDS = 1_000_000  # clip n of the training stream has seed TRAINING_SEEDS + n
VALIDATION_SEEDS = 500_000  # for the figures in the log; the shipped test set has its own
VALIDATION_CLIPS = 200

FRAMES_PER_SECOND = 50  # of the encoder's output: 10 ms hops, halved by the strided convolution
SILENCE_WEIGHT = 0.1  # of a silent frame in the hint: most frames are
IGNORED = -100  # label that the loss skips


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        steps: Optimiser steps.
        batch: Clips a step.
        lengthen: Steps after which the longest clip gets one digit more. Starting with single
            digits teaches the tones first; on six at once the loss stands still for long.
        repeats: See :func:`surgery.micro.synthesis.dial`.
        rate: Peak learning rate, reached after ``warmup`` steps.
        warmup: Steps of linear warm-up; a half cosine to zero follows.
        decay: AdamW's weight decay, on matrices only.
        clip: Largest gradient norm.
        seed: Of the initial weights.
    """

    steps: int = 1500
    batch: int = 32
    lengthen: int = 50
    repeats: float = 0.25
    rate: float = 1.5e-3
    warmup: int = 50
    decay: float = 0.1
    clip: float = 1.0
    seed: int = 0


def build_model(tokenizer: Any) -> Any:
    """Return the untrained model: 4 + 2 layers, 4 heads of 32, about 1.2 M parameters."""
    start, end, no_timestamps = tokenizer.convert_tokens_to_ids([START, END, NO_TIMESTAMPS])
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=128,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=384,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=384,
        max_source_positions=WINDOW_SECONDS * FRAMES_PER_SECOND,
        max_target_positions=32,
        init_std=0.05,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    for convolution in (model.model.encoder.conv1, model.model.encoder.conv2):
        # Whisper's own start leaves what is heard ten times fainter than the positions that
        # are added to it, and training then spends long on turning it up.
        torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        no_timestamps_token_id=no_timestamps,
        is_multilingual=False,
        max_length=config.max_target_positions,
        return_timestamps=False,
    )
    return model


def build_processor() -> Any:
    """Return Whisper's feature extractor with a short window, and the ten-word tokenizer."""
    extractor = WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
        chunk_length=WINDOW_SECONDS, sampling_rate=SAMPLE_RATE
    )
    return WhisperProcessor(extractor, build_tokenizer())  # type: ignore[no-untyped-call]


def features(processor: Any, clips: list[Clip]) -> Tensor:
    """Return log-mel features, shape (clips, 80 mel bins, 300 frames of 10 ms), float32."""
    extracted = processor.feature_extractor(
        [clip.audio for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt"
    )
    return torch.as_tensor(extracted.input_features)


def labels(processor: Any, clips: list[Clip]) -> Tensor:
    """Return token ids from ``<|notimestamps|>`` to ``<|endoftext|>``, padded with -100."""
    sequences = [
        torch.tensor(processor.tokenizer(clip.text).input_ids[1:]) for clip in clips
    ]  # the decoder puts <|startoftranscript|> in front itself
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=IGNORED)


def frames(clips: list[Clip]) -> Tensor:
    """Return what sounds in each encoder frame: 0 for nothing, 1 + digit; (clips, frames)."""
    sounds = torch.zeros(len(clips), WINDOW_SECONDS * FRAMES_PER_SECOND, dtype=torch.long)
    for row, clip in zip(sounds, clips, strict=True):
        for digit, span in zip(clip.digits, clip.spans, strict=True):
            begin, end = (round(sample * FRAMES_PER_SECOND / SAMPLE_RATE) for sample in span)
            row[begin:end] = 1 + digit
    return sounds


def train(model: Any, processor: Any, recipe: Recipe) -> Iterator[tuple[float, float]]:
    """Train in place; yield each step's loss (nats a token) and the probe's (nats a frame).

    A linear probe on the encoder's output is trained along and thrown away: it must name the
    digit that sounds in each frame. Without this hint, hundreds of steps pass before
    cross-attention finds anything in the encoder worth looking at.
    """
    probe = torch.nn.Linear(model.config.d_model, 1 + len(WORDS))
    balance = torch.tensor([SILENCE_WEIGHT] + [1.0] * len(WORDS))
    matrices = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.decay},
            {"params": [*vectors, *probe.parameters()], "weight_decay": 0.0},
        ],
        lr=recipe.rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, recipe))
    model.train()
    for step in range(recipe.steps):
        first = TRAINING_SEEDS + step * recipe.batch
        longest = min(LONGEST, 1 + step // recipe.lengthen)
        clips = [
            dial(seed, shortest=0, longest=longest, repeats=recipe.repeats)
            for seed in range(first, first + recipe.batch)
        ]
        output = model(input_features=features(processor, clips), labels=labels(processor, clips))
        heard = probe(output.encoder_last_hidden_state)
        hint = torch.nn.functional.cross_entropy(
            heard.flatten(0, 1), frames(clips).flatten(), weight=balance
        )
        optimiser.zero_grad()
        (output.loss + hint).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        schedule.step()
        yield float(output.loss.detach()), float(hint.detach())
    model.eval()


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(
        math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    )


def exact_share(model: Any, processor: Any, clips: list[Clip]) -> float:
    """Return the share of clips that are transcribed without any error."""
    heard = features(processor, clips)
    with torch.inference_mode():
        tokens = model.generate(
            input_features=heard, attention_mask=torch.ones(heard.shape[0], heard.shape[-1])
        )
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    right = [text == clip.text for text, clip in zip(texts, clips, strict=True)]
    return float(sum(right) / len(right))


def main() -> None:
    """Command line: train by the default recipe and write model, processor and test set."""
    default = Recipe()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--rate", type=float, default=default.rate)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--threads", type=int, default=1, help="they decide the order of sums")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    torch.set_num_threads(arguments.threads)
    recipe = Recipe(
        steps=arguments.steps, seed=arguments.seed, rate=arguments.rate, batch=arguments.batch
    )
    torch.manual_seed(recipe.seed)
    processor = build_processor()
    model = build_model(processor.tokenizer)
    logger.info("%d parameters", sum(weight.numel() for weight in model.parameters()))

    validation = [dial(VALIDATION_SEEDS + number) for number in range(VALIDATION_CLIPS)]
    begin = time.perf_counter()
    for step, (loss, hint) in enumerate(train(model, processor, recipe), start=1):
        if step % 25 == 0 or step == recipe.steps:
            logger.info(
                "step %d  loss %.4f  probe %.4f  %.0f s",
                step,
                loss,
                hint,
                time.perf_counter() - begin,
            )
        if step % 300 == 0:
            model.eval()
            logger.info("right: %.3f", exact_share(model, processor, validation))
            model.train()

    model.half().save_pretrained(arguments.out)
    # Apart, and not through the processor: other programs look for preprocessor_config.json.
    processor.feature_extractor.save_pretrained(arguments.out)
    processor.tokenizer.save_pretrained(arguments.out)
    write_test_set(arguments.out / "test")
    shipped = WhisperForConditionalGeneration.from_pretrained(arguments.out, dtype=torch.float32)
    logger.info(
        "right, from the written float16: %.3f", exact_share(shipped, processor, validation)
    )


if __name__ == "__main__":
    main()
