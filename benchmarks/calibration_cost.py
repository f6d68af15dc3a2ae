"""What does calibration cost beside plain forward passes of the same input?

    python benchmarks/calibration_cost.py --model DIR --data DIR [--clips 10] [--repeats 7]

For a Whisper checkpoint and a folder of recordings, each padded to the model's window. Plain and
watched passes take turns on the same features, window by window as calibration does; prints
medians over the repeats: of the time for all clips, and of its ratio to the plain pass of the
same turn. ``collect`` is everything: recordings are read and turned to log-mel features too. The
decoder is taught ``--tokens`` random tokens a clip, so that both sides do the same work. Weights
in float32, on as many cores as ``OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from surgery.architectures import ARCHITECTURES, Config, attention_sites
from surgery.calibration.collect import collect
from surgery.calibration.data import open_data
from surgery.calibration.hooks import Recorder, Weights
from surgery.calibration.speech import speech_batches

PADDING_WEIGHT = 0.1


def timed(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of every contestant; they take turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    model: Any = WhisperForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    model.eval()
    processor: Any = WhisperProcessor.from_pretrained(options.model)
    family = ARCHITECTURES["whisper"]
    config = Config(family, model.config.to_dict(), str(options.model))
    sites = attention_sites(family, config, "model.")
    encoder = [site for site in sites if site.scope == "encoder"]
    data = open_data(options.data, "audio", options.clips)
    batches = list(
        speech_batches(
            model, processor, data.recordings, padding_weight=PADDING_WEIGHT, batch=options.batch
        )
    )
    tokens = torch.randint(0, 50_000, (options.batch, options.tokens))

    def forward(decoder: bool) -> None:
        with torch.no_grad():
            for batch in batches:
                if decoder:
                    taught = tokens[: len(batch.words)]
                    model.base_model(batch.features, decoder_input_ids=taught, use_cache=False)
                else:
                    model.get_encoder()(batch.features)

    def watched(decoder: bool) -> None:
        with Recorder(model, sites if decoder else encoder) as recorder, torch.no_grad():
            for batch in batches:
                frames = Weights(batch.frames, batch.frames)
                taught = tokens[: len(batch.words)]
                ones = torch.ones(taught.shape, dtype=torch.float64)
                weights: dict[Any, Weights] = {"encoder": frames}
                if decoder:
                    weights |= {"decoder": Weights(ones, ones), "cross": Weights(ones, frames.keys)}
                with recorder.listening(weights):
                    if decoder:
                        model.base_model(batch.features, decoder_input_ids=taught, use_cache=False)
                    else:
                        model.get_encoder()(batch.features)
            recorder.moments()

    took = timed(
        {
            "encoder, plain": lambda: forward(decoder=False),
            "encoder, watched": lambda: watched(decoder=False),
            "encoder, collect": lambda: collect(
                model, encoder, data, processor, padding_weight=PADDING_WEIGHT, batch=options.batch
            ),
            "whole model, plain": lambda: forward(decoder=True),
            "whole model, watched": lambda: watched(decoder=True),
        },
        options.repeats,
    )
    print(f"{len(data)} clips, {len(batches)} passes, {torch.get_num_threads()} threads, float32")
    print(f"{'':24} {'ms':>9} {'/ plain':>9}")
    for name, times in took.items():
        plain = took[f"{name.partition(',')[0]}, plain"]
        ratio = statistics.median(own / base for own, base in zip(times, plain, strict=True))
        print(f"{name:24} {statistics.median(times):9.1f} {ratio:9.2f}")


if __name__ == "__main__":
    main()
