"""Every figure of calibrated surgery in docs/pages/results.md, one benchmark after the other.

    python benchmarks/calibration_figures.py --shared DIR -o OUT [--only NAME ...]

DIR holds ``checkpoints``, ``audio`` and ``text`` as the benchmarks below name them. Calibration
reads ``audio/speech/calib`` and ``text/tinystories/calib.txt`` and nothing else; everything is
measured on other recordings and texts. Tables and the picture go to OUT. An hour on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def commands(shared: Path, out: Path) -> dict[str, list[str | Path]]:
    """Return the arguments of each benchmark by a name for its output."""
    whisper, llama = (shared / "checkpoints" / n for n in ("whisper-tiny.en-digits", "stories260K"))
    speech, digits, stories = (
        shared / "audio" / "speech",
        shared / "audio" / "digits",
        shared / "text" / "tinystories",
    )
    return {
        "frontier": [
            "whisper_frontier.py",
            *("--model", whisper, "--speech", speech / "test"),
            *("--digits", digits / "test_seen", digits / "test_unseen"),
            *("--calibrate", speech / "calib", "--markdown", out / "frontier.md"),
        ],
        "llama": [
            "llama_price.py",
            *("--model", llama, "--calibrate", stories / "calib.txt"),
            *("--test", stories / "test.txt", "--markdown", out / "llama.md"),
        ],
        "prediction": [
            "damage_prediction.py",
            *("--model", whisper, "--scope", "encoder"),
            *("--calibrate", speech / "calib", "--test", speech / "test"),
            *("--svg", out / "damage-prediction.svg", "--markdown", out / "prediction.md"),
        ],
        "llama-prediction": [
            "damage_prediction.py",
            *("--model", llama, "--calibrate", stories / "calib.txt"),
            *("--test", stories / "test.txt", "--markdown", out / "llama-prediction.md"),
        ],
        "cost": ["calibration_cost.py", "--model", whisper, "--data", speech / "calib"],
    }


def main() -> None:
    """Parse, run one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="only these of the benchmarks")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, words in commands(options.shared, options.out).items():
        if options.only is not None and name not in options.only:
            continue
        script, *arguments = words
        print(f"== {name}: {script}", flush=True)
        subprocess.run([sys.executable, HERE / script, *arguments], check=True)


if __name__ == "__main__":
    main()
