"""Back towards plain dense weights, as many operations as asked for, the last one first."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable
from pathlib import Path

from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.choices.option import command_line
from surgery.choices.places import model_name
from surgery.engine.result import beside, write_config
from surgery.errors import SurgeryWarning, UsageError
from surgery.events import Progress, ignore
from surgery.report.wording import printable
from surgery.runtime.manifest import COMPRESS, FINAL, TRIM_VOCABULARY
from surgery.stored.adapted import AdaptedSource, open_model
from surgery.stored.block import Operation, surgery_block
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored, check_loads, read_stored
from surgery.stored.stream import stream
from surgery.version import versions

CARD = """# {name}, merged

{what}

- Merged from: {merged}
- Made from: {source}

The command (absolute paths are cut to their last names):

    {command}
"""
NARROW = """

But its feed-forward blocks stay as narrow as they were made: what is behind the neurons that stay
was fitted to them, and the others are in no file."""
TRIMMED = """

Tokens that left its vocabulary stay away: their rows are in no file."""
DENSE = """The dense form of a checkpoint that was operated on with model-surgery: original shapes,
small parts merged into their weights, zeros where vectors were cut. It computes what that
checkpoint computes, loads without the package, and saves nothing at run time."""
PARTLY = """The last operations ({steps}) of a checkpoint made with model-surgery, merged back: it
computes what that checkpoint computes. Still in place: {left}.

Load it with `surgery.load`, or by transformers alone with `trust_remote_code=True`."""
WHOLE = """In place: {left}.

Load it with `surgery.load`, or by transformers alone with `trust_remote_code=True`."""
TUNED = """What was trained in {adapter} is in the weights of its base, {base}.

"""


def merge(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    steps: int | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Write a checkpoint that computes the same as one that was operated on, with plainer weights.

    Args:
        checkpoint: A directory that surgery wrote: a checkpoint, or an adapter on its base.
        out: Result directory; ``<checkpoint>-merged`` by default.
        base: The base of an adapter, if it is not where it was.
        steps: How many operations to merge back, from the last one; all of them by default,
            which leaves a dense checkpoint that any transformers loads. For an adapter also 0,
            which only puts it into its base.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The result directory.

    Raises:
        UsageError: The checkpoint is dense already, or stock after what was done to it, or has
            fewer operations than ``steps``.
        CheckpointError: Its tensors contradict its ``surgery`` block, or the base is another
            one than the adapter was trained on.
    """
    with open_model(checkpoint, base=base, progress=progress) as source:
        stored = read_stored(source)
        steps = _checked_steps(stored, steps)
        _refuse_final(stored, steps)
        check_loads(source)
        merged = MergedTensors(stored, stored.operations[len(stored.operations) - steps :])
        target = Path(out) if out is not None else beside(source, "merged")
        check_separate(source.directory, target)
        if isinstance(source, AdaptedSource):
            check_separate(source.base.directory, target)
        words = [] if base is None else ["--base", model_name(base)]
        words += ["--steps", str(steps)] if steps < len(stored.operations) else []
        called = model_name(checkpoint, source.name)
        command = command_line("merge", called, words, target.name)
        fingerprint = {
            "source": source.identity(),
            "merge": steps,
            "versions": versions(),
        }
        with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
            stream(source, transaction, merged.specs(), merged.blocks(), merged.compute, progress)
            source.write_sidecars(transaction.staging)
            raw = source.config
            raw.pop("surgery", None)
            left = _left(stored, steps)
            if left:
                raw["surgery"] = surgery_block(left)
            write_config(transaction, raw)
            transaction.write_text("README.md", _card(stored, target.name, steps, command))
            transaction.commit()
        left_out = source.left_out()
        if left_out is not None:
            warnings.warn(left_out, SurgeryWarning, stacklevel=2)
        return target


def _checked_steps(stored: Stored, steps: int | None) -> int:
    done, adapted = len(stored.operations), isinstance(stored.source, AdaptedSource)
    if not done and not adapted:
        raise UsageError(
            "This checkpoint is dense already: there is nothing to merge",
            where=f"{stored.source.name}/config.json",
        )
    least = 0 if adapted else 1
    if steps is not None and not least <= steps <= done:
        raise UsageError(
            "There are not as many operations to merge back",
            where="--steps",
            found=steps,
            expected=f"{least} to {done}: {', '.join(_methods(stored.operations))}",
        )
    return done if steps is None else steps


def _left(stored: Stored, steps: int) -> list[Operation]:
    """Return what is still in place: narrow blocks that config.json does not speak for stay so."""
    last = len(stored.operations) - steps
    gone = stored.operations[last:]
    narrow = [one for one in gone if one["method"] == COMPRESS and one["sites"]]
    return [*stored.operations[:last], *narrow]


def _refuse_final(stored: Stored, steps: int) -> None:
    """Refuse where all that would be merged back left what is in no file: it would be copied.

    Raises:
        UsageError: Says so.
    """
    gone = stored.operations[len(stored.operations) - steps :]
    adapted = isinstance(stored.source, AdaptedSource)
    if gone and not adapted and all(one["method"] in FINAL for one in gone):
        name = stored.source.name
        ragged = any(one["sites"] for one in gone)
        stock = f"{shlex.join(['surgery', 'export', name, '--to', 'hf'])} writes a stock checkpoint"
        raise UsageError(
            "There is nothing to merge: the layers, neurons and tokens that left are in no file",
            where=f"{name}/config.json",
            found=", ".join(_methods(gone)),
            hint=f"{stock if ragged else 'use it as it is'}, or go back to the original",
        )


def _methods(operations: Iterable[Operation]) -> list[str]:
    return [operation["method"] for operation in operations]


def _card(stored: Stored, name: str, steps: int, command: str) -> str:
    left = _left(stored, steps)
    what = DENSE
    if left and steps == 0:
        what = WHOLE.format(left=", ".join(_methods(left)))
    elif left:
        what = PARTLY.format(steps=steps, left=", ".join(_methods(left)))
    if COMPRESS in _methods(stored.operations):
        what += NARROW
    if TRIM_VOCABULARY in _methods(stored.operations):
        what += TRIMMED
    made_from = stored.source.name
    if isinstance(stored.source, AdaptedSource):
        made_from = stored.source.adapter.base_name
        what = TUNED.format(adapter=stored.source.name, base=made_from) + what
    first = stored.operations[0]["provenance"] if stored.operations else {}
    done = ", ".join(_methods(stored.operations))
    return CARD.format(
        name=name,
        what=what,
        merged=stored.source.name + (f" ({done})" if done else ""),
        source=first.get("source", made_from),
        command=printable(command),
    )
