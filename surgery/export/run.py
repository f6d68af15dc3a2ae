"""Export: check that it fits, write, run it where it is to run, and only then keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.choices.option import command_line
from surgery.choices.places import model_name
from surgery.engine.result import beside, default_output
from surgery.errors import UnsupportedModelError, UsageError
from surgery.events import Event, Progress, ignore
from surgery.export.card import write_card
from surgery.export.reference import Reference
from surgery.export.routes import fit_of
from surgery.export.sizes import Sizes, original_bytes, weight_files
from surgery.export.target import Choice, Comparison, Target
from surgery.export.targets import target
from surgery.stored.adapted import AdaptedSource, open_model
from surgery.stored.stored import check_loads, read_stored
from surgery.version import versions


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        output: The directory that was written.
        target: Name of the target.
        title: The runtime as its users call it.
        form: What was written, in a few words.
        kept: Share of the parameters removed by surgery that stay removed, 0 to 1; ``None`` where
            nothing was removed.
        files: Bytes of every file, by name.
        sizes: Bytes of the weights here, in the checkpoint, and in its original.
        comparison: How it ran; ``None`` where it was not run.
        notes: What else is worth knowing.
        usage: Lines that load it.
    """

    output: Path
    target: str
    title: str
    form: str
    kept: float | None
    files: dict[str, int]
    sizes: Sizes
    comparison: Comparison | None
    usage: str
    notes: list[str] = field(default_factory=list)


def export_model(
    checkpoint: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    original: str | Path | None = None,
    quantization: str | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress = ignore,
) -> Exported:
    """Write a checkpoint in another runtime's format, and run it there.

    Args:
        checkpoint: What surgery wrote, an adapter, or any model it can read.
        to: A target: ``hf``, ``ct2``, ``openai-whisper``, ``gguf``, ``ggml`` or ``peft``.
        out: Result directory; ``<checkpoint>-<target>`` by default.
        base: Of an adapter, its base, if it is not where it was.
        original: For ``peft``, the model that the last operation was applied to; by default it is
            looked up by the name in the checkpoint.
        quantization: Type of the weights, by the target's own name.
        verify: Run the result in its own runtime and compare, where that is installed.
        force: Replace a result that is in the way.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        UnsupportedModelError: The target cannot hold this checkpoint; the message says what can.
        UsageError: There is no such target or quantization, a package is missing, or there is
            nothing to export.
        SurgeryError: The result does not compute the same there. Nothing was written.
    """
    chosen = target(to)
    choice = Choice(quantization, None if original is None else str(original))
    chosen.check(choice)
    with open_model(checkpoint, base=base, progress=progress) as source:
        stored = read_stored(source)
        fit = fit_of(chosen, stored, choice)
        if not fit.needed:
            raise UsageError(
                "There is nothing to export", where=source.name, found=fit.form, hint=fit.remedy
            )
        if not fit.possible:
            raise UnsupportedModelError(
                f"{chosen.title} cannot hold this checkpoint",
                where=source.name,
                found=fit.form,
                hint=fit.remedy or "see what fits with surgery export --list",
            )
        check_loads(source)
        suffix = to if quantization is None else f"{to}-{quantization}"
        if out is not None:
            output = Path(out)
        elif source.directory is None:
            output = default_output(source, suffix)
        else:
            output = beside(source, suffix)
        check_separate(source.directory, output)
        if isinstance(source, AdaptedSource):
            check_separate(source.base.directory, output)
        fingerprint = {
            "source": source.identity(),
            "export": to,
            "quantization": quantization,
            "versions": versions(),
        }
        with Transaction(output, fingerprint, force=force, keep=False) as transaction:
            notes = list(chosen.write(stored, choice, transaction, progress))
            comparison = None
            if verify:
                comparison = _compare(
                    chosen, Reference(source), transaction.staging, output, choice, notes, progress
                )
            sizes = Sizes(
                weight_files(transaction.staging),
                sum(info.nbytes for info in source.infos.values()),
                original_bytes(stored),
            )
            given = ("--base", base), ("--original", original)
            words = [word for flag, place in given if place for word in (flag, model_name(place))]
            words += [] if quantization is None else ["--quantization", quantization]
            words += [] if verify else ["--no-verify"]
            command = command_line(
                "export", model_name(checkpoint, source.name), ["--to", to, *words], output.name
            )
            write_card(
                transaction, stored, chosen, fit, quantization, sizes, comparison, notes, command
            )
            transaction.commit()
        return Exported(
            output=output,
            target=to,
            title=chosen.title,
            form=fit.form,
            kept=fit.kept,
            files={
                path.relative_to(output).as_posix(): path.stat().st_size
                for path in sorted(output.rglob("*"))
                if path.is_file()
            },
            sizes=sizes,
            comparison=comparison,
            usage=chosen.usage(str(output)),
            notes=notes,
        )


def _compare(
    chosen: Target,
    reference: Reference,
    staging: Path,
    output: Path,
    choice: Choice,
    notes: list[str],
    progress: Progress,
) -> Comparison | None:
    if missing := chosen.missing(comparing=True):
        notes.append(
            f"Not run in {chosen.title}: {', '.join(missing)} is not installed ({chosen.install})."
        )
        return None
    progress(Event("Running it there", 0, 1, chosen.title))
    comparison = chosen.compare(reference, staging, choice)
    comparison.check(output)
    progress(Event("Running it there", 1, 1))
    return comparison
