"""One checked tuning run: what was asked, where it goes, and how it is told from any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from surgery.checkpoint.commit import staging_path
from surgery.checkpoint.source import TensorSource
from surgery.choices.option import command_line, spelled
from surgery.choices.places import data_name, given_path, model_name
from surgery.engine.measure.input import (
    EMBEDDED,
    EMBEDDED_CLIPS,
    data_kind,
    embedded,
)
from surgery.errors import UsageError
from surgery.evaluation.fingerprints import data_fingerprints, overlap, sketch
from surgery.evaluation.kinds import Kind
from surgery.stored.stored import Stored
from surgery.training.options import Settings
from surgery.training.preparation import Preparation
from surgery.training.start import carries_parts
from surgery.version import versions

BASE = "base"
STATES = "training"


@dataclass(frozen=True)
class Request:
    """A run about to begin.

    Attributes:
        stored: The checkpoint that was named.
        asked: What the user called it.
        method: What is trained.
        preparation: How it is given small parts, where it has none.
        settings: How it is trained.
        data: What it learns from.
        target: The resolved result directory.
        eval_data: What is measured on before and after, if anything.
    """

    stored: Stored
    asked: str
    method: str
    preparation: Preparation
    settings: Settings
    data: Path
    target: Path
    eval_data: Path | None = None

    @property
    def source(self) -> TensorSource:
        """The checkpoint that was named."""
        return self.stored.source

    @property
    def kind(self) -> Kind:
        """What the model learns from."""
        return data_kind(self.source)

    @property
    def prepared(self) -> bool:
        """Whether the checkpoint itself is the base, because nothing is put into it first."""
        return carries_parts(self.stored, self.method)

    @property
    def staging(self) -> Path:
        """Where the result grows."""
        return staging_path(self.target)

    @property
    def states(self) -> Path:
        """Where states to resume from are kept while the run lasts."""
        return self.staging / STATES

    @property
    def base(self) -> Path:
        """Directory of the checkpoint that the adapter will belong on.

        Raises:
            UsageError: The checkpoint is no directory, and nothing is put into it.
        """
        if not self.prepared:
            return self.staging / BASE
        if self.source.directory is None:
            raise UsageError(
                "An adapter needs a base that stays where it is",
                where=self.source.name,
                hint="save it as a transformers directory first; small parts need none, since "
                "their base is kept with the adapter",
            )
        return self.source.directory

    @property
    def base_begun(self) -> bool:
        """Whether some of the base is written."""
        return self.base.exists() or staging_path(self.base).exists()

    @cached_property
    def listing(self) -> str:
        """A hash of the names and sizes of the data's files."""
        root = self.data
        files = sorted(f for f in root.rglob("*") if f.is_file()) if root.is_dir() else [root]
        entries = [[f.relative_to(root).as_posix(), f.stat().st_size] for f in files]
        return sha256(json.dumps(entries).encode()).hexdigest()

    @cached_property
    def samples(self) -> list[str]:
        """Fingerprints of the data, or of much data a sketch."""
        prints = data_fingerprints(self.data, self.kind)
        return sketch(one for each in prints.values() for one in each)

    def check_apart(self) -> None:
        """Refuse to measure on what is learnt from.

        Raises:
            UsageError: A sample is in both.
        """
        eval_data = self.eval_data
        if eval_data is None and self.source.name != EMBEDDED:
            return
        with embedded(EMBEDDED_CLIPS) if eval_data is None else nullcontext(eval_data) as place:
            shared = overlap(self.samples, data_fingerprints(Path(place), self.kind))
        if shared:
            raise UsageError(
                "A model that has learnt from a sample must not be measured on it",
                where="--data, --eval-data" if eval_data else "--data",
                found=f"{shared.shared} of {shared.of} samples to measure on are learnt from: "
                + ", ".join(shared.examples),
                expected="other samples"
                + ("" if eval_data else f": {EMBEDDED} is measured on its own test clips"),
            )

    def plain(self) -> dict[str, Any]:
        """Return what was asked for as JSON values, by the command line's names."""
        return {
            "train": self.method,
            **self.preparation.plain(),
            **self.settings.options.plain(),
            "data": data_name(self.data),
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells the run from any other: only an equal one may be resumed."""
        return {
            "source": self.source.identity(),
            "tune": self.plain(),
            "listing": self.listing,
            "versions": versions(),
        }

    def provenance(self) -> dict[str, Any]:
        """Return where the adapter came from; fingerprints of the data let leakage be noticed."""
        return {
            "source": self.source.sha256(),
            "data": {"name": data_name(self.data), "kind": self.kind, "samples": self.samples},
            "listing": self.listing,
            "versions": versions(),
        }

    def command(self, target: Path, *, shown: bool = False) -> str:
        """Return the shell command that asks for the same.

        Args:
            target: The result directory.
            shown: As others may see it: of paths the last names alone.
        """
        called: Callable[[Path], str] = given_path if shown else str
        words = ["--data", called(self.data), "--train", self.method]
        if self.eval_data is not None:
            words += ["--eval-data", called(self.eval_data)]
        words += [*spelled(self.preparation), *spelled(self.settings.options)]
        model = model_name(self.asked, self.source.name) if shown else self.asked
        return command_line("tune", model, words, target.name if shown else str(target))
