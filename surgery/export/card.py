"""What lies beside exported weights: where they come from, how they ran, and on what terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.checkpoint.sidecars import copy_sidecars, is_terms
from surgery.checkpoint.transaction import Transaction
from surgery.export.sizes import Sizes
from surgery.export.target import NOTHING, WHOLE, Comparison, Fit, Target
from surgery.report.wording import percent, printable, scientific
from surgery.stored.stored import Stored
from surgery.version import VERSION

CARD = """# {name}

{source}, exported for {title}: {form}.

```{language}
{usage}
```

{facts}

The command (absolute paths are cut to their last names):

    {command}
"""


def write_card(
    transaction: Transaction,
    stored: Stored,
    exported: Target,
    fit: Fit,
    quantization: str | None,
    sizes: Sizes,
    comparison: Comparison | None,
    notes: Sequence[str],
    command: str,
) -> None:
    """Write ``README.md``, and copy the licence.

    Args:
        transaction: What was written, not yet in its place.
        stored: What it was made from.
        exported: Whose format it is.
        fit: What that keeps.
        quantization: Type of the weights, where one was asked for.
        sizes: How large the weights are, and were.
        comparison: How it ran; ``None`` where it was not run.
        notes: What else is worth knowing.
        command: What makes it again.
    """
    terms = [path for path in stored.source.sidecars() if is_terms(path.name)]
    copy_sidecars(terms, transaction.staging)
    name = transaction.target.name
    facts = [*_history(stored), *_facts(fit, quantization, sizes, comparison), *notes]
    card = CARD.format(
        name=name,
        source=stored.source.name,
        title=exported.title,
        form=fit.form,
        language=exported.language,
        usage=exported.usage(name),
        facts="\n".join(f"- {printable(fact)}" for fact in facts),
        command=printable(command),
    )
    transaction.write_text("README.md", card)


def _history(stored: Stored) -> list[str]:
    """Say what a checkpoint was made from, and by what."""
    told = []
    for operation in stored.operations:
        made = operation["provenance"]
        hashes = ", ".join(str(value) for value in _mapping(made.get("sha256")).values())
        by = _mapping(made.get("versions")).get("surgery")
        told.append(
            f"Made by {operation['method']}{f' (surgery {by})' if by else ''} from "
            f"{made.get('source', 'an unnamed model')}{f', SHA-256 {hashes}' if hashes else ''}."
        )
    return told


def _mapping(value: object) -> Mapping[str, object]:
    """Return what should be a mapping, and in a file may be anything."""
    return value if isinstance(value, Mapping) else {}


def _facts(
    fit: Fit, quantization: str | None, sizes: Sizes, comparison: Comparison | None
) -> list[str]:
    """Say what an export keeps and how it ran."""
    told = [f"Exported by surgery {VERSION}."]
    if fit.kept is not None:
        told.append(_kept_text(fit.kept))
    told.append(f"Sizes: {sizes.told}.")
    if quantization is not None:
        told.append(f"Weights: {quantization}.")
    if comparison is None:
        told.append("It was not run and compared with what it was made from.")
    else:
        error = ""
        if comparison.error is not None:
            error = f", relative difference {scientific(comparison.error)}"
        told.append(f"Run in {comparison.runtime}: {comparison.what}{error}.")
    return told


def _kept_text(kept: float) -> str:
    if kept <= NOTHING:
        return "What surgery removed comes back here as zeros, at the original size."
    if kept >= WHOLE:
        return "All parameters that surgery removed stay removed here."
    return f"Of the parameters that surgery removed, {percent(kept)} stay removed here."
