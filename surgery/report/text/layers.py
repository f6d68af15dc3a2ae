"""Layers that left, as people are told of them; worded once for screen, card and page."""

from __future__ import annotations

from surgery.report.model.layers import LayersReport
from surgery.report.model.report import Report
from surgery.report.wording import ranges, scientific

_ORDERS = {
    "given": "They were named.",
    "trials": "Each was left out in turn on real input; the one that the output minded least went "
    "first, and the others were tried again without it.",
    "budget": "They shared the budget: each was left out in turn on real input, and one left where "
    "that cost less than as many parameters of blocks.",
    "influence": "By influence, the baseline: those that turn what they are given least, each "
    "looked at alone (ShortGPT).",
}


def left_layers(report: Report) -> bool:
    """Whether any layer left, or will."""
    return report.layers is not None


def layers_clause(report: Report) -> str:
    """Say which layers left, as a clause: ``layers 7 and 14 of 30 left``; empty for none."""
    if report.layers is None:
        return ""
    dry = report.output is None
    said = []
    for tower in report.layers.towers:
        if tower.gone:
            one = len(tower.gone) == 1
            where = f" {tower.scope}" if len(report.layers.towers) > 1 else ""
            said.append(
                f"{where.strip()} layer{'' if one else 's'} {ranges(tower.gone)} of "
                f"{tower.before}".strip()
            )
    if not said:
        return "layers would leave, and which is told by real input"
    return f"{' and '.join(said)} {'would leave' if dry else 'left'} the stack"


def layer_rows(report: Report) -> list[tuple[str, str]]:
    """Return by tower what left of it, and how that was chosen, as facts."""
    layers = report.layers
    if layers is None or not any(tower.gone for tower in layers.towers):
        return []
    rows = []
    for tower in layers.towers:
        stay = tower.before - len(tower.gone)
        rows.append((tower.scope, f"{ranges(tower.gone) or 'none'}; {stay} of {tower.before} stay"))
    rows.append(("how", _ORDERS.get(layers.order, "")))
    if layers.steps:
        rows.append(("in this order", steps_text(layers)))
    return rows


def steps_text(layers: LayersReport) -> str:
    """Say in which order layers left, at what error or influence, and what came next to each."""
    said = []
    for step in layers.steps:
        others = {name: value for name, value in step.tried.items() if name != step.layer}
        text = f"{step.layer} ({_value(step.value, layers)}"
        if others:
            second = min(others, key=others.__getitem__)
            text += f"; next best tried {second}, {_value(others[second], layers)}"
        said.append(text + ")")
    return ", then ".join(said)


def _value(value: float, layers: LayersReport) -> str:
    what = {"": "influence", "relative": "error"}.get(layers.unit, "")
    unit = "" if layers.unit in ("", "relative") else f" {layers.unit}"
    return f"{what} {scientific(value)}{unit}".strip()
