"""The test set that is shipped with ``whisper-micro``, and where both lie."""

from __future__ import annotations

from pathlib import Path

import soundfile

from surgery.micro.synthesis import SAMPLE_RATE, dial

DIRECTORY = Path(__file__).resolve().parent.parent / "data" / "whisper_micro"

TEST_SEEDS = range(48)  # far below every seed that training or validation uses


def write_test_set(folder: Path) -> None:
    """Write the held-out clips as 16-bit FLAC at 16 kHz, with ``transcripts.tsv`` (file, words)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in TEST_SEEDS:
        clip = dial(seed)
        name = f"dialled-{seed:02d}.flac"
        soundfile.write(folder / name, clip.audio, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{name}\t{clip.text}\n")
    (folder / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")
