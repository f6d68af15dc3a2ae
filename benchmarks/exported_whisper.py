"""Does a pruned Whisper say the same where people already run Whisper?

    python benchmarks/exported_whisper.py --model DIR --test DIR [DIR ...] [--calibrate DIR]
        [--fractions 0% 25% 46.4%] [--runtimes NAME ...] [--clips N]

Prunes the encoder's attention (layout ``tied``, no training), by weights alone and, where there are
recordings to calibrate on, by them; exports the result, and lets each runtime hear the recordings.
Everybody decodes greedily, without timestamps, without second tries, up to the same number of
tokens: a damaged model repeats itself. Recordings are filled up with silence to 30 s, as our
runtime does it. Left alone, faster-whisper and openai-whisper put zeros behind the log-mel, which
a damaged model hears as something else; the rows *own window* show what that does. whisper.cpp has
a row with its flash attention, its default, which rounds more.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperProcessor
from transformers.utils import logging

import surgery
from surgery.evaluation.audio import SAMPLE_RATE, Audio, SpeechFolder
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors

LONGEST = 24  # tokens a clip; digits need at most 8, a damaged model would repeat itself to 448
WINDOW = 30 * SAMPLE_RATE  # samples


@dataclass(frozen=True)
class Heard:
    """What a runtime needed on disk, and said."""

    weights: int
    texts: list[str]


Runtime = Callable[[Path, Path, Sequence[Audio]], Heard]
"""Takes a checkpoint, an empty place and recordings."""


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


def filled(clip: Audio) -> Audio:
    """Return a clip with silence up to 30 s."""
    return np.pad(clip, (0, max(0, WINDOW - len(clip))))


def weights(files: dict[str, int]) -> int:
    """Return the bytes of the weights alone: the largest file."""
    return max(files.values())


def ours(checkpoint: Path, work: Path, clips: Sequence[Audio]) -> Heard:  # noqa: ARG001
    """Run the checkpoint as it is."""
    files = {path.name: path.stat().st_size for path in checkpoint.glob("*.safetensors")}
    processor = WhisperProcessor.from_pretrained(checkpoint)
    model = surgery.load(checkpoint, dtype=torch.float32, device="cpu")
    texts = transcribe(model, processor, clips, batch=8, max_new_tokens=LONGEST)
    return Heard(sum(files.values()), texts)


def faster_whisper(quantization: str, *, window: bool = True) -> Runtime:
    """Return stock faster-whisper with weights of that type."""
    computed = "int8_float32" if quantization == "int8" else "float32"

    def heard(checkpoint: Path, work: Path, clips: Sequence[Audio]) -> Heard:
        from faster_whisper import WhisperModel

        made = surgery.export_model(checkpoint, "ct2", work, quantization=quantization)
        model = WhisperModel(str(made.output), device="cpu", compute_type=computed, cpu_threads=1)
        texts = []
        for clip in clips:
            segments, _ = model.transcribe(
                filled(clip) if window else clip,
                language="en",
                beam_size=1,
                temperature=0.0,
                without_timestamps=True,
                condition_on_previous_text=False,
                no_speech_threshold=None,
                # CTranslate2 stops at half of the prompt's two tokens and these.
                max_new_tokens=2 * LONGEST - 2,
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return Heard(weights(made.files), texts)

    return heard


def openai_whisper(*, window: bool = True) -> Runtime:
    """Return stock openai-whisper."""

    def heard(checkpoint: Path, work: Path, clips: Sequence[Audio]) -> Heard:
        import whisper

        made = surgery.export_model(checkpoint, "openai-whisper", work)
        model = whisper.load_model(str(made.output / "model.pt"), device="cpu")
        texts = []
        for clip in clips:
            with warnings.catch_warnings():
                # openai-whisper leaves its vocabulary file to the garbage collector.
                warnings.simplefilter("ignore", ResourceWarning)
                found = whisper.transcribe(
                    model,
                    filled(clip) if window else clip,
                    language="en",
                    temperature=0.0,
                    without_timestamps=True,
                    condition_on_previous_text=False,
                    no_speech_threshold=None,
                    sample_len=LONGEST,
                    fp16=False,
                )
            texts.append(found["text"].strip())
        return Heard(weights(made.files), texts)

    return heard


def whisper_cpp(*, flash: bool = False) -> Runtime:
    """Return whisper.cpp, which holds weights, keys and values in half precision.

    Args:
        flash: Take its own default, an attention that rounds more.
    """

    def heard(checkpoint: Path, work: Path, clips: Sequence[Audio]) -> Heard:
        from pywhispercpp.model import Model

        made = surgery.export_model(checkpoint, "ggml", work)
        (path,) = made.output.glob("*.bin")
        model = Model(
            str(path),
            redirect_whispercpp_logs_to=None,
            context_params={"use_gpu": False, "flash_attn": flash},
        )
        texts = []
        for clip in clips:
            segments = model.transcribe(
                filled(clip),
                language="en",
                n_threads=1,
                no_context=True,
                no_timestamps=True,
                single_segment=True,
                print_progress=False,
                suppress_nst=True,
                temperature_inc=0.0,
                no_speech_thold=1.0,
                max_tokens=LONGEST,
            )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return Heard(weights(made.files), texts)

    return heard


RUNTIMES: dict[str, tuple[str, Runtime]] = {
    "faster-whisper": ("float32", faster_whisper("float32")),
    "faster-whisper, own window": ("float32", faster_whisper("float32", window=False)),
    "faster-whisper int8": ("int8", faster_whisper("int8")),
    "openai-whisper": ("float16", openai_whisper()),
    "openai-whisper, own window": ("float16", openai_whisper(window=False)),
    "whisper.cpp": ("f16", whisper_cpp()),
    "whisper.cpp, flash attention": ("f16", whisper_cpp(flash=True)),
}
"""Type of the stored weights, and the runtime."""


def checkpoints(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Path]]:
    """Yield every checkpoint with what was done to it."""
    for fraction in arguments.fractions:
        if not fraction:
            yield "nothing", arguments.model
            continue
        for calibrated in (False, True) if arguments.calibrate else (False,):
            settings: dict[str, Any] = {"by_weights": not calibrated}
            if calibrated:
                statistics = str(work / "statistics.safetensors")
                settings["calibrate"] = surgery.Calibrate(arguments.calibrate, statistics)
            name = f"{100 * fraction:g} %{', calibrated' if calibrated else ''}"
            out = work / f"pruned-{fraction:g}-{calibrated}"
            surgery.absorb_decompose(
                arguments.model,
                out,
                options=surgery.Options(
                    rule=surgery.Remove(fraction), layout="tied", scope="encoder", **settings
                ),
            )
            yield name, out


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--calibrate", help="recordings to calibrate on, none of those tested on")
    parser.add_argument("--fractions", type=percent, nargs="+", default=[0.0, 0.25, 0.464])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--clips", type=int, help="only so many of each folder")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    folders = [SpeechFolder.open(folder, limit=arguments.clips) for folder in arguments.test]
    clips = [clip for folder in folders for clip in folder.audio()]
    rates = [f"WER {folder.name} %, ours / there" for folder in folders]
    head = ["removed", "runtime", "weights", "MB, ours / there", "equal texts", *rates]
    print("| " + " | ".join(head) + " |")
    print("|:---|:---|:---|---:|---:|" + "---:|" * len(folders), flush=True)

    def errors(texts: Sequence[str]) -> list[float]:
        found, rest = [], iter(texts)
        for folder in folders:
            references = folder.references()
            found.append(100 * word_errors(references, [next(rest) for _ in references]).rate)
        return found

    with tempfile.TemporaryDirectory() as name:
        for done, checkpoint in checkpoints(arguments, Path(name)):
            here = ours(checkpoint, Path(name), clips)
            for runtime in arguments.runtimes:
                kind, hear = RUNTIMES[runtime]
                with tempfile.TemporaryDirectory() as place:
                    there = hear(checkpoint, Path(place) / "exported", clips)
                equal = sum(map(str.__eq__, here.texts, there.texts))
                pairs = zip(errors(here.texts), errors(there.texts), strict=True)
                cells = [
                    done,
                    runtime.removesuffix(" int8"),
                    kind,
                    f"{here.weights / 1e6:.1f} / {there.weights / 1e6:.1f}",
                    f"{equal} of {len(clips)}",
                    *(f"{mine:.1f} / {other:.1f}" for mine, other in pairs),
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
