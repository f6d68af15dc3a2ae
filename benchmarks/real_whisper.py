"""What does a cut cost a real Whisper: word error rates with paired intervals, where people run it?

    python benchmarks/real_whisper.py --model DIR --calibrate DIR --test DIR[=LANGUAGE] [...]
        [--pooled NAME ...] [--statistics FILE] [-o FILE]

Cuts the encoder's attention, untrained: calibrated, in each layout, and by the paper's way (by
weights alone, QK and VO each by the share). Every result hears every folder in our runtime and in
faster-whisper (float32), the first folder also by the code that it carries, in transformers.
Everybody decodes greedily, without timestamps or second tries, told the language; long recordings
are cut at quiet moments in ours, and as it does it in faster-whisper. A rate stands with its
difference to the uncut model's in the same runtime, and the 95 % interval of that over recordings.
Rates of ``--pooled`` folders are also given together. Recordings that the package ships to
calibrate on are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq, WhisperProcessor
from transformers.utils import logging

import surgery
from surgery.evaluation.audio import SAMPLE_RATE, Audio, SpeechFolder
from surgery.evaluation.bootstrap import Bootstrap, Resampled
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import WordErrors, word_errors_each

LONGEST = 200  # tokens a window; no clip needs as many, and a ruined model would go on to 448
WINDOW = 30 * SAMPLE_RATE  # samples
SHIPPED = ("sonnet-001.mp3", "sonnet-002.mp3")

Texts = dict[str, list[str]]  # by folder


@dataclass(frozen=True)
class Folder:
    """A test set and its language."""

    speech: SpeechFolder
    language: str

    @classmethod
    def parse(cls, text: str) -> Folder:
        """Parse ``DIR`` or ``DIR=de``."""
        path, _, language = text.partition("=")
        speech = SpeechFolder.open(Path(path))
        tested = tuple(each for each in speech.utterances if each.path.name not in SHIPPED)
        return cls(SpeechFolder(speech.path, tested), language or "en")


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


def ours(model: Any, processor: Any, folders: Sequence[Folder]) -> Texts:
    """Hear folders in transformers: loaded by us, or by the code of the checkpoint."""
    return {
        each.speech.name: transcribe(
            model,
            processor,
            each.speech.audio(),
            language=each.language,
            batch=8,
            max_new_tokens=LONGEST,
        )
        for each in folders
    }


def theirs(checkpoint: Path, place: Path, folders: Sequence[Folder]) -> tuple[Texts, int]:
    """Hear folders in stock faster-whisper; return the bytes of its weights, too."""
    from faster_whisper import WhisperModel

    made = surgery.export_model(checkpoint, "ct2", place)
    model = WhisperModel(str(made.output), device="cpu", compute_type="float32", cpu_threads=2)

    def heard(clip: Audio, language: str) -> str:
        segments, _ = model.transcribe(
            np.pad(clip, (0, max(0, WINDOW - len(clip)))),  # as ours: silence, not zeros of log-mel
            language=language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            max_new_tokens=LONGEST,
        )
        return " ".join(segment.text.strip() for segment in segments)

    texts = {
        each.speech.name: [heard(clip, each.language) for clip in each.speech.audio()]
        for each in folders
    }
    return texts, max(made.files.values())


def cases(asked: argparse.Namespace, work: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield what was cut, how, and where the result is."""
    yield "nothing", "", asked.model
    statistics = str(asked.statistics or work / "statistics.safetensors")
    calibrate = surgery.Calibrate(str(asked.calibrate), statistics)
    for fraction in asked.fractions:
        ways: list[tuple[str, dict[str, Any], Any]] = [
            (f"calibrated, {layout}", {"layout": layout, "calibrate": calibrate}, False)
            for layout in asked.layouts
        ]
        if fraction in asked.paper:
            ways.append(("the paper's way", {"by_weights": True}, True))
        for way, settings, per_pair in ways:
            out = work / f"{fraction:g}-{way.replace(' ', '-')}"
            rule = surgery.Remove(fraction, per_pair=per_pair)
            options = surgery.Options(rule=rule, scope="encoder", **settings)
            surgery.absorb_decompose(asked.model, out, options=options)
            yield f"{100 * fraction:g} %", way, out


class Rates:
    """Word error rates of one runtime, the uncut model's first."""

    def __init__(self, folders: Sequence[Folder], pooled: Sequence[str]) -> None:
        self._folders = folders
        self._groups = [[each] for each in folders]
        if pooled:
            self._groups.append([each for each in folders if each.speech.name in pooled])
        self._first: list[Resampled] = []

    @property
    def titles(self) -> list[str]:
        """Return what each column is of."""
        return [" + ".join(each.speech.name for each in group) for group in self._groups]

    def cells(self, texts: Texts) -> list[str]:
        """Return a rate a group of folders, and its difference to the first texts given."""
        found = [self._rate([self._errors(each, texts) for each in g]) for g in self._groups]
        if not self._first:
            self._first = found
            return [f"{each.value:.2f}" for each in found]
        cells = []
        for rate, dense in zip(found, self._first, strict=True):
            apart = rate.minus(dense)
            between = ""
            if apart.low is not None and apart.high is not None:
                between = f" ({apart.low:+.1f} to {apart.high:+.1f})"
            cells.append(f"{rate.value:.2f}, {apart.value:+.2f}{between}".replace("-", "−"))
        return cells

    def _errors(self, folder: Folder, texts: Texts) -> list[WordErrors]:
        words = folder.speech.references()
        return word_errors_each(words, texts[folder.speech.name], language=folder.language)

    def _rate(self, some: Sequence[Sequence[WordErrors]]) -> Resampled:
        each = [one for folder in some for one in folder]
        return Bootstrap().ratio(
            [one.errors for one in each], [one.words for one in each], then=lambda x: 100 * x
        )


def main() -> None:
    """Parse, run, print a row a result and runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True, help="none of those tested on")
    parser.add_argument("--test", type=Folder.parse, nargs="+", required=True)
    parser.add_argument("--pooled", nargs="+", default=[], help="names as the table gives them")
    parser.add_argument("--statistics", type=Path, help="keep what calibration found here")
    parser.add_argument("--fractions", type=percent, nargs="+", default=[0.25, 0.464])
    parser.add_argument("--layouts", nargs="+", default=["ragged", "tied"])
    parser.add_argument("--paper", type=percent, nargs="*", default=[0.25])
    parser.add_argument("-o", "--output", type=Path, help="write the table here, too")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    rates = {name: Rates(asked.test, asked.pooled) for name in ("surgery.load", "faster-whisper")}
    lines: list[str] = []

    def show(*cells: str) -> None:
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        if asked.output is not None:
            asked.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

    titles = rates["surgery.load"].titles
    show("removed", "how", "runtime", "MB of weights", *titles)
    show(":---", ":---", ":---", "---:", *["---:"] * len(titles))
    with tempfile.TemporaryDirectory() as name:
        for removed, how, checkpoint in cases(asked, Path(name)):
            processor = WhisperProcessor.from_pretrained(asked.model)
            model = surgery.load(checkpoint, dtype=torch.float32)
            here = ours(model, processor, asked.test)
            size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
            show(
                removed,
                how,
                "surgery.load",
                f"{size / 1e6:.1f}",
                *rates["surgery.load"].cells(here),
            )
            if how:
                remote: Any = AutoModelForSpeechSeq2Seq.from_pretrained(
                    checkpoint, trust_remote_code=True, dtype=torch.float32
                )
                first = asked.test[0].speech.name
                same = ours(remote.eval(), processor, asked.test[:1])[first]
                equal = sum(map(str.__eq__, same, here[first]))
                cells = [f"{equal} of {len(same)} texts equal", *["—"] * (len(titles) - 1)]
                show(removed, how, "remote code", f"{size / 1e6:.1f}", *cells)
            with tempfile.TemporaryDirectory() as place:
                there, size = theirs(checkpoint, Path(place) / "ct2", asked.test)
            fast = rates["faster-whisper"].cells(there)
            show(removed, how, "faster-whisper", f"{size / 1e6:.1f}", *fast)


if __name__ == "__main__":
    main()
