"""What does calibration cost beside plain forward passes of the same input?

    OMP_NUM_THREADS=1 python benchmarks/calibration_cost.py --model DIR --data DIR

For a Whisper checkpoint and a folder of recordings, each padded to the model's window. For every
clip in turn, a plain pass, a watched one and ``collect`` follow one another, so that they share
what else the machine does; prints, for all clips together, the sum of each clip's median over the
repeats, in wall-clock and in processor time, and its ratio to the plain pass. ``collect`` is
everything: the recording is read and turned to log-mel features too. The decoder is taught
``--tokens`` random tokens a clip, so that both sides do the same work. Weights in float32.
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
from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.hooks import Recorder, Weights
from surgery.calibration.speech import SpeechBatch, speech_batches

PADDING_WEIGHT = 0.1

Passes = dict[str, Callable[[], object]]


class Bench:
    """One model, and the passes that are compared on a clip."""

    def __init__(self, path: Path, tokens: int) -> None:
        self.model: Any = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        self.model.eval()
        self.processor: Any = WhisperProcessor.from_pretrained(path)
        family = ARCHITECTURES["whisper"]
        config = Config(family, self.model.config.to_dict(), str(path))
        self.sites = attention_sites(family, config, "model.")
        self.encoder = [site for site in self.sites if site.scope == "encoder"]
        self.taught = torch.randint(0, self.model.config.vocab_size, (1, tokens))

    def passes(self, data: CalibrationData) -> Passes:
        """Return the passes over one clip."""
        options: dict[str, Any] = {"padding_weight": PADDING_WEIGHT, "batch": 1}
        (batch,) = speech_batches(self.model, self.processor, data.recordings, **options)
        return {
            "encoder, plain": lambda: self.forward(batch, decoder=False),
            "encoder, watched": lambda: self.watched(batch, decoder=False),
            "encoder, collect": lambda: collect(
                self.model, self.encoder, data, self.processor, **options
            ),
            "whole model, plain": lambda: self.forward(batch, decoder=True),
            "whole model, watched": lambda: self.watched(batch, decoder=True),
        }

    def forward(self, batch: SpeechBatch, *, decoder: bool) -> None:
        """Run the encoder, or the whole model."""
        with torch.no_grad():
            if decoder:
                self.model.base_model(
                    batch.features, decoder_input_ids=self.taught, use_cache=False
                )
            else:
                self.model.get_encoder()(batch.features)

    def watched(self, batch: SpeechBatch, *, decoder: bool) -> None:
        """Do the same while moments are taken."""
        frames, ones = batch.frames, torch.ones(self.taught.shape, dtype=torch.float64)
        weights: dict[Any, Weights] = {"encoder": Weights(frames, frames)}
        if decoder:
            weights |= {"decoder": Weights(ones, ones), "cross": Weights(ones, frames)}
        with Recorder(self.model, self.sites if decoder else self.encoder) as recorder:
            with recorder.listening(weights):
                self.forward(batch, decoder=decoder)
            recorder.moments()


def timed(passes: Passes, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of every pass, wall-clock and processor, after a warm-up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for _ in range(repeats + 1):
        for name, run in passes.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            taken = (time.perf_counter() - wall, time.process_time() - processor)
            times[name].append((1000 * taken[0], 1000 * taken[1]))
    return {
        name: (
            statistics.median(wall for wall, _ in taken[1:]),
            statistics.median(processor for _, processor in taken[1:]),
        )
        for name, taken in times.items()
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    bench = Bench(options.model, options.tokens)
    data = open_data(options.data, "audio", options.clips)
    totals: dict[str, tuple[float, float]] = {}
    for recording in data.recordings:
        clip = CalibrationData(data.name, "audio", recordings=(recording,))
        for name, (wall, processor) in timed(bench.passes(clip), options.repeats).items():
            walls, processors = totals.get(name, (0.0, 0.0))
            totals[name] = (walls + wall, processors + processor)
    print(f"{len(data)} clips, {torch.get_num_threads()} threads, float32, times in ms")
    print(f"{'':24} {'wall':>9} {'/ plain':>9} {'processor':>10} {'/ plain':>9}")
    for name, (wall, processor) in totals.items():
        walls, processors = totals[f"{name.partition(',')[0]}, plain"]
        print(
            f"{name:24} {wall:9.1f} {wall / walls:9.2f} "
            f"{processor:10.1f} {processor / processors:9.2f}"
        )


if __name__ == "__main__":
    main()
