"""What the page of a report about linear maps with small trainable parts shows."""

from __future__ import annotations

import json
import shlex

from surgery.report.figures import captured_maps, principal_spectra, schematic, trainable_bars
from surgery.report.model.report import Report
from surgery.report.pages.page import Group, Tile, View, measured_tiles
from surgery.report.text.linear_tables import Row, columns, row
from surgery.report.text.linear_views import (
    byte_rows,
    groups_by_scope,
    trainable_of,
    weights_of,
)
from surgery.report.text.linear_words import words
from surgery.report.text.linears import (
    DASH,
    error_text,
    growth_text,
    share_text,
    shortfall_text,
    size_text,
    span_text,
    start_tone,
)
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.text.roles import known, place_text, worst
from surgery.report.wording import amount, change, count, percent


def linears_view(report: Report) -> View:
    """Return tiles, pictures and tables of trainable parts, captured energy and errors."""
    dry = report.output is None
    return View(
        template="linears.html.j2",
        kicker=report.method
        + (": what it would take" if dry else ": small trainable parts, and where they start"),
        tiles=_tiles(report),
        context={
            "words": words(report.method),
            "total": report.trainable,
            "growth": ""
            if report.trainable is None
            else growth_text(report.trainable, dry=report.output is None),
            "tables": quantity_tables(byte_rows(report)),
            "bars": trainable_bars(report),
            "schematic": schematic(report),
            "groups": _groups(report),
            "columns": columns(report),
            "roles": _roles(report),
            "all_maps": row("All", report.linears) if report.linears else None,
            "layers": _layers(report),
            "load": json.dumps(report.output, ensure_ascii=False),
            "merge": shlex.quote(report.output or ""),
        },
    )


def _tiles(report: Report) -> list[Tile]:
    measured = measured_tiles(report)
    own = [*_size_tiles(report), *_fidelity_tiles(report)]
    return own + measured


def _size_tiles(report: Report) -> list[Tile]:
    numbers, weights = trainable_of(report.linears), weights_of(report.linears)
    of_maps = f"{percent(numbers / weights)} of the weights treated" if weights else ""
    total = report.trainable
    if total is None:
        return [
            Tile("Trainable parameters", count(numbers), f"{numbers:,}", "trained"),
            Tile("Share of all parameters", DASH, of_maps),
            Tile("Small parts alone", DASH, "bytes"),
            Tile("Checkpoint", DASH, "bytes, before and after"),
        ]
    before, after = total.bytes_before, total.bytes_after
    both = f"{amount(before, 'bytes')} → {amount(after, 'bytes')}"
    why = "; the weights keep their shapes" if after > before else ""
    return [
        Tile(
            "Trainable parameters",
            count(total.trainable),
            f"of {count(total.total)} in the result",
            "trained",
        ),
        Tile("Share of all parameters", percent(total.share), of_maps, "trained"),
        Tile("Small parts alone", amount(total.adapter_bytes, "bytes"), "in float32"),
        Tile("Checkpoint", change(before, after), both + why),
    ]


def _fidelity_tiles(report: Report) -> list[Tile]:
    told = words(report.method)
    captured = known(report.linears, "captured")
    tiles: list[Tile] = []
    if told.splits or captured:
        mean = sum(captured) / len(captured) if captured else None
        span = f"; {span_text(captured)}" if captured else ""
        detail = f"of the squared norm at rank {size_text(report)}{span}"
        tiles = [
            Tile("Energy captured", share_text(mean), detail),
            _worst_tile(report, "shortfall", "Certified shortfall", "below the best of this rank"),
        ]
    tiles.append(_worst_tile(report, "defect", "Orthogonality defect", told.defect))
    start = _worst_tile(
        report, "start_error", "Start error", f"{told.compared} merged back", start_tone(report)
    )
    return [*tiles, start]


def _worst_tile(report: Report, name: str, label: str, meaning: str, tone: str = "") -> Tile:
    found = worst(report.linears, name)
    value = None if found is None else found[0]
    where = f"{meaning}; worst: {place_text(found[1])}" if found and found[0] else meaning
    text = shortfall_text(value) if name == "shortfall" else error_text(value)
    return Tile(label, text, where, tone)


def _groups(report: Report) -> list[Group]:
    told = words(report.method)
    groups = [
        Group(
            "How much of each weight the principal part holds",
            "Share of the squared norm. The darker, the more of a weight training can reach "
            "directly; what is left is frozen.",
            captured_maps(report),
        ),
        Group(
            f"Spectra of the {told.spectra}",
            f"Singular values in descending order. {told.reading}",
            principal_spectra(report),
        ),
    ]
    return [group for group in groups if group.pictures]


def _roles(report: Report) -> list[tuple[str, list[Row]]]:
    return [
        (scope, [row(group.role, group.linears) for group in groups])
        for scope, groups in groups_by_scope(report).items()
    ]


def _layers(report: Report) -> list[Row]:
    return [
        row(linear.path, [linear])
        for linear in sorted(report.linears, key=lambda one: (one.layer is None, one.layer or 0))
    ]
