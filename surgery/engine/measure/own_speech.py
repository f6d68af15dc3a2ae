"""Speech of the package's own to compare Whispers on, honest about what a result knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from surgery.calibration.data import open_data
from surgery.calibration.dealing import deal
from surgery.checkpoint.source import TensorSource
from surgery.choices.common import SHIPPED
from surgery.engine.measure.leakage import known_to, shared_samples
from surgery.engine.measure.shipped import NAMES
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.fingerprints import audio_fingerprint
from surgery.stored.block import read_operations

NAME = "surgery's own speech"
HELD_OUT, IN_SAMPLE = "held out of its calibration", "in sample: calibrated or tuned on it"


@contextmanager
def own_speech(result: TensorSource) -> Iterator[tuple[SpeechFolder, str]]:
    """Yield a few clips with their transcripts, and what to call them in a report.

    They are those of :mod:`surgery.engine.measure.shipped` that calibration on all of it holds out,
    so that nothing was fitted to them by default. The name says whether the result knows them all
    the same.

    Args:
        result: The checkpoint, or the adapter, that is to hear them.
    """
    with as_file(files("surgery") / "data" / NAMES["audio"]) as path:
        data = open_data(path, "audio")
        held_out = deal(data).held_out or data
        prints = {
            each.path.name: frozenset({audio_fingerprint(each.audio())})
            for each in held_out.recordings
        }
        name = NAME
        if shared_samples(known_to(result), "audio", prints):
            name += f", {HELD_OUT if _only_as_shipped(result) else IN_SAMPLE}"
        yield SpeechFolder(path, held_out.recordings), name


def _only_as_shipped(result: TensorSource) -> bool:
    """Whether every calibration of a result was on what ships, whole, and there was no other."""
    where = f"{result.name}: config.json"
    calibrated = [
        operation["options"]
        for operation in read_operations(result.config, where=where)
        if operation["provenance"].get("calibration") is not None
    ]
    # Statistics from a file, or of some samples, may be fitted to other rows.
    settings = {"calibrate": SHIPPED, "samples": None, "statistics": None}
    return len(calibrated) == len(known_to(result)) and all(
        options.get(name) == value for options in calibrated for name, value in settings.items()
    )
