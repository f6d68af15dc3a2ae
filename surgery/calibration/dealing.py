"""Calibration data in three parts: what a cut is fitted to, tried on, and priced on.

Figures taken on the rows that a cut was chosen on flatter it. So rows are dealt out: most of them
to the statistics (*fit*), a fifth to the trials, and a fifth, *held out*, to the price of the
result alone. The parts lie spread over the whole, so that each holds of every kind that there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from typing import TypeVar

from surgery.calibration.data import CalibrationData
from surgery.evaluation.audio import Utterance
from surgery.evaluation.fingerprints import audio_fingerprint
from surgery.evaluation.rows import Document

FEW = 10
"""Fewer documents than this are cut to pieces before they are dealt."""
CHARACTERS = (1000, 6000)
"""Shortest and longest piece of a text."""
SECONDS = 10.0
"""Shortest piece of a recording, where there are few."""
LONG, WINDOW = 40.0, 28.0
"""Seconds from which on a recording is cut in any case, and about how long its pieces are."""
SHARE = 5  # one row in so many is held out

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Dealt:
    """Calibration data, dealt.

    Attributes:
        fit: What statistics are taken on.
        trial: What cuts are tried on: other rows than ``fit`` where there are three.
        held_out: What the result is priced on: rows of neither; ``None`` where there is one row.
    """

    fit: CalibrationData
    trial: CalibrationData
    held_out: CalibrationData | None


def deal(data: CalibrationData) -> Dealt:
    """Deal out the rows of some data; the same data is dealt the same way every time."""
    if data.kind == "audio":
        recordings = _pieces_of_speech(data.recordings)
        parts = [replace(data, recordings=tuple(part)) for part in _dealt(recordings)]
    else:
        documents = _pieces_of_text(data.documents)
        parts = [replace(data, documents=tuple(part)) for part in _dealt(documents)]
    fit, trial, held_out = parts
    return Dealt(fit, trial if len(trial) else fit, held_out if len(held_out) else None)


def _dealt(rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row], list[_Row]]:
    count = len(rows)
    each = max(1, round(count / SHARE)) if count > 1 else 0
    held_out = {(number + 1) * count // each - 1 for number in range(each)}
    trial = {number - 1 for number in held_out} if count > 2 else set()
    other = held_out | trial
    return (
        [row for number, row in enumerate(rows) if number not in other],
        [rows[number] for number in sorted(trial)],
        [rows[number] for number in sorted(held_out)],
    )


def _pieces_of_text(documents: Sequence[Document]) -> list[Document]:
    """Cut plain texts at the ends of paragraphs, sentences or words, where there are few."""
    if len(documents) >= FEW:
        return list(documents)
    shortest, longest = CHARACTERS
    whole = sum(len(each.text) for each in documents)
    length = min(max(whole // (2 * FEW), shortest), longest)
    return [piece for each in documents for piece in _cut(each, length)]


def _cut(document: Document, length: int) -> Iterator[Document]:
    text, start = document.text, 0
    if not (document.messages or document.prompt):
        while len(text) - start >= 2 * length:
            least, most = start + length // 2, start + length
            ends = (text.rfind(mark, least, most) + len(mark) for mark in ("\n\n", ". ", " "))
            end = next((end for end in ends if end >= least), most)
            yield replace(document, text=text[start:end])
            start = end
    yield replace(document, text=text[start:]) if start else document


def _pieces_of_speech(recordings: Sequence[Utterance]) -> list[Utterance]:
    """Cut recordings to equal pieces: long ones, and where there are few.

    Those whose words are known stay whole: nobody knows which words are in a piece.
    """
    pieces: list[Utterance] = []
    for each in recordings:
        count, seconds = 1, 0.0 if each.words is not None else each.seconds()
        if seconds > LONG:
            count = ceil(seconds / WINDOW)
        if len(recordings) < SHARE:
            count = max(count, min(SHARE, int(seconds / SECONDS)))
        pieces += [each] if count < 2 else [each.piece(at, count) for at in range(count)]
    return pieces


def fingerprint_in_order(data: CalibrationData) -> str:
    """Return a digest of some rows and their order; reads every recording."""
    digest = sha256()
    for document in data.documents:
        digest.update(document.text.encode())
        digest.update(bytes(1))
    for recording in data.recordings:
        digest.update(audio_fingerprint(recording.audio()).encode())
    return digest.hexdigest()
