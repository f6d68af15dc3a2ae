"""CTranslate2 and faster-whisper: a pruned Whisper that they run unchanged.

CTranslate2 takes the width of an attention head from the shapes of its weights, block by block,
so that a block whose heads share one rank stays small there. The format is written here, array
by array; CTranslate2 itself is only needed to run the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import ClassVar

from surgery.checkpoint.transaction import Transaction
from surgery.events import Event, Progress
from surgery.export.ct2.files import write_files
from surgery.export.ct2.model import new_model, write_variables
from surgery.export.ct2.names import REVISION, filled, stored_widths, whisper_variables
from surgery.export.ct2.quantise import QUANTIZATIONS
from surgery.export.fit import kept_share
from surgery.export.reference import Reference
from surgery.export.target import WHOLE, Choice, Comparison, Fit, Target, fits, refused
from surgery.export.whisper.form import no_speech
from surgery.stored.stored import Stored

WINDOW = 1500
"""Encoder positions in 30 s, the window that faster-whisper always fills."""
TIED = "prune with --layout tied, which gives all heads of a block one rank"


class CTranslate2(Target):
    """``model.bin``, its configuration and vocabulary, and what faster-whisper reads beside them.

    Without a quantization the weights stay in the dtype they are stored in.
    """

    name = "ct2"
    title = "CTranslate2 and faster-whisper"
    extra = "ct2"
    runs_with = ("ctranslate2",)
    quantizations: ClassVar[tuple[str, ...]] = QUANTIZATIONS

    def __init__(self) -> None:
        self._alone = False

    def fit(self, stored: Stored, choice: Choice) -> Fit:  # noqa: ARG002 (any type fits)
        """See :meth:`Target.fit`."""
        if self.name not in stored.family.exports:
            return refused("only Whisper is written for CTranslate2", remedy="--to hf")
        if reason := no_speech(stored):
            return refused(f"{reason}, and CTranslate2 runs whole Whispers only")
        activation = stored.source.config.get("activation_function", "gelu")
        if activation != "gelu":
            return refused(f"CTranslate2's Whisper computes gelu, this one {activation}")
        other = stored.config.max_source_positions != WINDOW
        own = "; not for faster-whisper, which always hears 30 s" if other else ""
        widths = stored_widths(stored)
        kept = kept_share(stored, widths, {**stored.neurons, **filled(stored)})
        heads = kept_share(stored, widths, stored.neurons)
        remedy = None if heads in (None, WHOLE) else TIED
        words = "the model as it is"
        if heads is not None and stored.ranks:
            words = "pruned heads at their ranks"
            if heads < WHOLE:
                padded = "heads padded to the widest of their block"
                words = padded if heads > 0 else "dense weights with zeros"
        if stored.neurons:
            narrow = "every feed-forward block at its width"
            words = f"{words}, {narrow}" if stored.ranks else narrow
        return fits(words + own, kept=kept, remedy=remedy)

    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        """See :meth:`Target.write`."""
        notes = list(write_files(stored, transaction))
        variables = whisper_variables(stored)
        infos = stored.source.infos.values()
        transaction.reserve(
            sum(prod(info.shape) * _bytes(choice, info.dtype.itemsize) for info in infos)
        )
        kind = stored.family.exports[self.name]
        with new_model(transaction.staging / "model.bin", kind, REVISION) as model:
            done = 0

            def written(name: str) -> None:
                nonlocal done
                done += 1
                progress(Event("Writing", done, len(variables), name))

            write_variables(model, variables, choice.quantization, written)
        window = stored.config.max_source_positions
        if window != WINDOW:
            notes.append(
                f"It hears {window / 50:g} s at once; faster-whisper "
                "always gives 30 s, so that only CTranslate2 itself can run it."
            )
        self._alone = window != WINDOW
        return notes

    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        """See :meth:`Target.compare`."""
        from surgery.export.ct2.run import compare

        return compare(reference, directory, choice.quantization)

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        if self._alone:
            return (
                "from ctranslate2.models import Whisper\n\n"
                f"model = Whisper({place!r})\n"
                "# model.generate(features, prompts), with log-mel features from the processor"
            )
        return (
            "from faster_whisper import WhisperModel\n\n"
            f'model = WhisperModel({place!r}, device="cpu")\n'
            'segments, _ = model.transcribe("speech.wav", beam_size=1)\n'
            'print(" ".join(segment.text.strip() for segment in segments))'
        )


def _bytes(choice: Choice, stored: int) -> int:
    return {None: stored, "float32": 4}.get(choice.quantization, 2)
