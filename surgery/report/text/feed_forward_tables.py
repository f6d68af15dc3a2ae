"""Tables of feed-forward blocks that lost neurons: the same rows on page, card and screen."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.report.model.report import FeedForwardReport, Report
from surgery.report.text.feed_forward import (
    DASH,
    error_span,
    is_fitted,
    is_known,
    is_refitted,
    span,
    towers_of,
)
from surgery.report.text.linear_tables import Column, Row
from surgery.report.wording import percent

_WIDTHS = (
    Column("before", "Neurons", "of a block of the original"),
    Column("kept", "Kept", "of these"),
    Column("removed", "Removed", "share of the neurons that went"),
)
_ERRORS = (
    Column("fitted", "Error", "relative error of a block's output, on the rows it was fitted to"),
    Column(
        "deleted",
        "Without refit",
        "the same, had neurons only been deleted",
        "no refit",
    ),
)


def columns(report: Report) -> list[Column]:
    """Return the columns of a table of blocks: errors only where something was run."""
    errors = _ERRORS if is_refitted(report) else _ERRORS[:1]
    return [*_WIDTHS, *(errors if is_fitted(report) else ())]


def row(label: str, blocks: Sequence[FeedForwardReport], *, known: bool = True) -> Row:
    """Word the figures of some blocks (at least one): ranges; a dash for what is not known yet."""
    before, kept = (sum(getattr(one, name) for one in blocks) for name in ("before", "kept"))
    return {
        "label": label,
        "blocks": str(len(blocks)),
        "before": span([one.before for one in blocks]),
        "kept": span([one.kept for one in blocks]) if known else DASH,
        "removed": percent(1 - kept / before) if before and known else DASH,
        "fitted": error_span([one.fitted_error for one in blocks]),
        "deleted": error_span([one.deleted_error for one in blocks]),
    }


def tower_rows(report: Report) -> list[Row]:
    """Word every tower, one row each."""
    known = is_known(report)
    return [row(scope, blocks, known=known) for scope, blocks in towers_of(report).items()]


def block_rows(report: Report) -> list[Row]:
    """Word every block, tower by tower in layer order."""
    blocks = [one for some in towers_of(report).values() for one in some]
    return [row(one.path, [one], known=is_known(report)) for one in blocks]
