"""Print pieces of a text, spread over it: the beginning of a corpus is often of one kind alone.

    python benchmarks/spread.py TEXT BYTES [--piece 4000] > PART

Pieces begin and end at line ends, but for lines that are longer than a piece.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Parse, cut, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("bytes", type=int)
    parser.add_argument("--piece", type=int, default=4000)
    asked = parser.parse_args()
    text = asked.text.read_bytes()
    pieces = max(1, asked.bytes // asked.piece)
    for number in range(pieces):
        at = number * len(text) // pieces
        begin = at and (text.find(b"\n", at) + 1 or len(text))
        end = text.rfind(b"\n", begin, begin + asked.piece) + 1 or begin + asked.piece
        print(text[begin:end].decode(errors="ignore"), end="")


if __name__ == "__main__":
    main()
