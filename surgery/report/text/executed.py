"""What a forward pass multiplies by beyond what is stored: why, and which layout spares it."""

from __future__ import annotations

from surgery.report.model.report import Quantity, Report
from surgery.report.text.summary import PAIRS, pair_of, quantity_named, sites_by_scope


def executed_text(report: Report) -> str:
    """Say why more is executed than is stored, and what spares it; empty where nothing is."""
    sequence = _padded(report, "flops_encoder")
    token = _padded(report, "flops_decoder", "flops_cross")
    parts = []
    if sequence:
        parts.append("over a sequence, heads run at one width for queries, keys and values")
    if token:
        parts.append("a new token meets heads of unequal width with zeros between them")
        if any(one.executed is not None and one.executed > one.before for one in token):
            parts[-1] += ", and multiplies more than before"
    return f"{'; '.join(parts)}. {_remedy(report, bool(sequence))}" if parts else ""


def _remedy(report: Report, sequence: bool) -> str:
    if not sequence:
        return "--layout block runs what is stored, and no more"
    sites = sites_by_scope(report).get("encoder", [])
    both = all(any(pair_of(site, pair).untouched is None for site in sites) for pair in PAIRS)
    if both:
        return "--layout tied runs what is stored, and no more"
    return "No layout spares it where one of QK and VO stays whole"


def _padded(report: Report, *names: str) -> list[Quantity]:
    found = (quantity_named(report, name) for name in names)
    return [one for one in found if one is not None and one.executed not in (None, one.after)]
