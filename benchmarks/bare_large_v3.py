"""How long does the bare command take on a checkpoint with Whisper-large-v3's exact shapes?

    python benchmarks/bare_large_v3.py [--keep DIR]

Writes the synthetic checkpoint of ``large_v3_speed.py`` with the words and ears of large-v3 beside
it, then runs ``surgery absorb-decompose DIR``: calibrated on the speech that comes with the
package, the budget searched, the price measured on held-out rows, the result written. Prints
minutes, and the peak of the memory that is the command's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from large_v3_speed import run, write_checkpoint  # beside this file

from surgery.checkpoint.whisper_assets import Dimensions, write

LARGE_V3 = Dimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32)
MINUTES, GIGABYTES = 30, 12


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="directory to work in and leave behind")
    asked = parser.parse_args()
    work = asked.keep or Path(tempfile.mkdtemp(prefix="large-v3-"))
    source, result = work / "synthetic-large-v3", work / "bare"
    try:
        if not source.exists():
            write_checkpoint(source)
            write(LARGE_V3, "large-v3", source)
        shutil.rmtree(result, ignore_errors=True)
        command = [str(Path(sys.executable).with_name("surgery")), "absorb-decompose", str(source)]
        seconds, peak = run([*command, "-o", str(result), "--json"])
        report = json.loads((result / "report.json").read_text(encoding="utf-8"))
        removed = next(one for one in report["savings"] if one["name"] == "attention")
        share = 1 - removed["stored"] / removed["before"]
        print(f"removed {share:.1%} of the encoder's attention")
        print(f"{seconds / 60:.1f} minutes (goal: at most {MINUTES})")
        print(f"peak RssAnon {peak:.1f} GB (goal: at most {GIGABYTES})")
    finally:
        if asked.keep is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
