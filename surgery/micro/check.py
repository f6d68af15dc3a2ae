"""Say how large ``whisper-micro`` is and how well it hears its test set.

    python -m surgery.micro.check

The weights are read as they are shipped, in float16, and run in float32.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import WordErrors, word_errors
from surgery.micro.assets import DIRECTORY

logger = logging.getLogger(__name__)


def check(directory: Path) -> tuple[int, WordErrors]:
    """Return the number of parameters and the word errors on the folder's own test set."""
    model: Any = WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    processor: Any = WhisperProcessor.from_pretrained(directory)
    folder = SpeechFolder.open(directory / "test")
    texts = transcribe(model.eval(), processor, folder.audio(), batch=16)
    parameters = sum(weight.numel() for weight in model.parameters())
    return parameters, word_errors(folder.references(), texts)


def main() -> None:
    """Command line: the shipped model, or any other that ``surgery.micro.train`` wrote."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY)
    directory = parser.parse_args().directory
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parameters, errors = check(directory)
    logger.info("%d parameters", parameters)
    logger.info("%d bytes of weights", (directory / "model.safetensors").stat().st_size)
    logger.info(
        "word error rate %.2f %%: %d substituted, %d inserted, %d missed of %d words",
        100 * errors.rate,
        errors.substitutions,
        errors.insertions,
        errors.deletions,
        errors.words,
    )


if __name__ == "__main__":
    main()
