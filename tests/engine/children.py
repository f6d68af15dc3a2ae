"""Real processes that run `surgery` and can be killed, without an import of torch for each.

A server process imports the large libraries once and is forked for every run: what a run does
to its own memory, threads and files no other sees.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = [
    "surgery_cli.main",
    "surgery.engine.cut.absorb",
    "surgery.report.html",
    "surgery.report.card",
]


def start(words: list[str], folder: Path) -> ForkServerProcess:
    """Start `surgery` with these arguments in a folder, silently."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # heeded before the first start only
    process = context.Process(target=_run, args=(words, os.fspath(folder)))
    process.start()
    return process


def _run(words: list[str], folder: str) -> None:
    import torch

    from surgery_cli.main import app

    torch.set_num_threads(1)
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    app(words)
