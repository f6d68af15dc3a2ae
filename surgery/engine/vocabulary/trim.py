"""``trim-vocabulary`` from a model's name to a finished directory with fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.result import Clock, default_output, planned, produce
from surgery.engine.vocabulary.options import TrimOptions
from surgery.engine.vocabulary.plan import TrimPlan, make_plan
from surgery.engine.vocabulary.reporting import build_report
from surgery.events import Progress, ignore
from surgery.report.model.report import Report
from surgery.runtime.manifest import TRIM_VOCABULARY
from surgery.stored.block import Operation
from surgery.stored.stream import Computed, stream


def trim_vocabulary(
    model: str | Path,
    out: str | Path | None = None,
    *,
    options: TrimOptions,
    data: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Remove tokens that texts, speech and languages never use, and the rows of the weights.

    What stays is copied bit for bit, so hidden states and logits of kept tokens are the original's
    wherever it was given kept tokens.

    Args:
        model: Directory (dense or operated on), ``.pt``, short name, hub id, or ``whisper-micro``.
        out: Result directory; ``checkpoints/<name>-trim-vocabulary`` by default.
        options: What stays.
        data: Audio folder or text file to measure on, before and after, each with its own tokens.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same source and options.
        dry_run: Count and report, write nothing.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The report; ``report.output`` is ``None`` for a dry run.

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    with resolve(str(model), revision=revision) as source:
        if not dry_run:
            source.start_hashing()
        surgery = Trim(make_plan(source, options, str(model), progress))
        target = Path(out) if out is not None else default_output(source, TRIM_VOCABULARY)
        if dry_run:
            return planned(surgery.report({}, None), surgery, str(model), target, data)
        return produce(
            surgery,
            target,
            method=TRIM_VOCABULARY,
            asked=str(model),
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )


class Trim:
    """What :func:`produce` needs to write and report a checkpoint with fewer tokens."""

    def __init__(self, plan: TrimPlan) -> None:
        self.plan = plan

    @property
    def source(self) -> TensorSource:
        """The checkpoint before."""
        return self.plan.source

    @property
    def options(self) -> TrimOptions:
        """What was asked for."""
        return self.plan.options

    @property
    def before(self) -> tuple[Operation, ...]:
        """What was done to it before; all of that stays."""
        return self.plan.stored.operations

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Copy every tensor, of those with a row a token the rows that stay."""
        del clock  # one stage

        def nothing(block: str) -> Computed:
            raise KeyError(block)

        stream(self.plan.trimmed, transaction, self.specs(), {}, nothing, progress)

    def write_sidecars(self, directory: Path) -> None:
        """Write the files beside the weights; whatever names tokens follows."""
        self.plan.trimmed.write_sidecars(directory)

    def configure(self, config: dict[str, Any]) -> None:
        """Put the size of the vocabulary and every id into the configuration."""
        new = self.plan.trimmed.config
        config |= {key: value for key, value in new.items() if key != "surgery"}

    def provenance(self) -> dict[str, Any]:
        """Return how many tokens stay, and what tells the choice from any other."""
        choice = self.plan.choice
        return {
            "tokens": {
                "before": self.plan.tokens.rows,
                "kept": len(choice.kept),
                "sha256": choice.sha256,
            }
        }

    def specs(self) -> Mapping[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return self.plan.specs()

    def sites(self) -> dict[str, Any]:
        """Return nothing: ``config.json`` says how many tokens there are."""
        return {}

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what stays."""
        return build_report(self.plan, sha256=sha256, output=output)
