"""What the page of a tuning run shows: how it went, what was trained, how far it moved."""

from __future__ import annotations

import json
import shlex

from surgery.report.figures import losses, moved_maps, moved_spectra
from surgery.report.model.report import Report
from surgery.report.model.tuning import Tuning
from surgery.report.pages.page import Group, Tile, View, measured_tiles
from surgery.report.text.linear_words import words
from surgery.report.text.linears import error_text
from surgery.report.text.roles import layer_order, place_text, worst
from surgery.report.text.summary import worded_items
from surgery.report.text.tuning import (
    change_text,
    curve_rows,
    fact_rows,
    figure_text,
    method_name,
    warning_text,
)
from surgery.report.text.tuning_tables import all_moved, moved_columns, moved_row, moved_rows
from surgery.report.text.tuning_views import curves_of, pass_losses
from surgery.report.wording import amount, count, percent


def tuning_view(report: Report, tuning: Tuning) -> View:
    """Return tiles, pictures and tables of losses, trainable parts and how far they moved."""
    told = words(tuning.method)
    return View(
        template="tuning.html.j2",
        kicker=f"{method_name(tuning.method)}: what was trained, and how far it moved",
        tiles=_tiles(report, tuning),
        context={
            "warning": warning_text(tuning),
            "pictures": losses(report),
            "facts": fact_rows(tuning),
            "settings": worded_items(tuning.settings),
            "curves": [row for _, row in curve_rows(tuning)],
            "smoothed": max((curve.window for curve, _ in curve_rows(tuning)), default=1),
            "held_out": [
                (
                    f"{one.step:,}",
                    figure_text(one.loss),
                    "—" if one.wer is None else figure_text(one.wer, "%"),
                )
                for one in tuning.held_out
            ],
            "transcribed": any(one.wer is not None for one in tuning.held_out),
            "total": report.trainable,
            "trained": told.trained if told.name else "",
            "groups": _groups(report, tuning),
            "columns": moved_columns(tuning.moved),
            "roles": moved_rows(tuning.moved),
            "all_maps": all_moved(tuning.moved),
            "layers": [moved_row(one.path, [one]) for one in sorted(tuning.moved, key=layer_order)],
            "load": json.dumps(report.output, ensure_ascii=False),
            "merge": shlex.quote(report.output or ""),
        },
    )


def _tiles(report: Report, tuning: Tuning) -> list[Tile]:
    measured = measured_tiles(report)
    # the table of measures may hold the held-out loss, too: it is told once
    told = any(one.metric == "held_out_loss" for one in report.measurements[: len(measured)])
    losses_told = [] if told else _loss_tiles(tuning)
    return [*measured, *losses_told, *_size_tiles(report), *_moved(tuning)]


def _loss_tiles(tuning: Tuning) -> list[Tile]:
    curves = curves_of(tuning)
    curve = curves.get("held_out") or curves.get("training")
    if curve is None:
        return []
    first, last = (figure_text(curve.smooth[i], curve.unit) for i in (0, -1))
    detail = "nats a token"
    if curve.name == "training":  # single steps are of other samples
        passes = pass_losses(tuning)
        if passes is None:
            return [Tile(curve.title, last, detail)]
        first, last = map(figure_text, passes)
        return [Tile(curve.title, f"{first} → {last}", f"{detail}, from first to last pass")]
    lowest = curve.lowest
    if curve.name == "held_out" and lowest != len(curve.steps) - 1:
        detail += f"; lowest {figure_text(curve.smooth[lowest])} at step {curve.steps[lowest]:,}"
    return [Tile(curve.title, last if len(curve.steps) == 1 else f"{first} → {last}", detail)]


def _size_tiles(report: Report) -> list[Tile]:
    total = report.trainable
    if total is None:
        return []
    of_all = f"of {count(total.total)}, {percent(total.share)}"
    small, source = (amount(n, "bytes") for n in (total.adapter_bytes, total.bytes_before))
    return [
        Tile("Trained parameters", count(total.trainable), of_all, "trained"),
        Tile("Adapter", small, f"beside {source} of weights"),
    ]


def _moved(tuning: Tuning) -> list[Tile]:
    tiles = []
    for name, label, meaning in (
        ("change", "Change of the weights", "relative, at most"),
        ("defect", "Orthogonality defect", "after training, at worst"),
    ):
        found = worst(tuning.moved, name)
        if found is not None:
            value, one = found
            text = change_text(value) if name == "change" else error_text(value)
            tiles.append(Tile(label, text, f"{meaning}; {place_text(one)}"))
    return tiles


def _groups(report: Report, tuning: Tuning) -> list[Group]:
    values = any(one.before and one.after for one in tuning.moved)
    groups = [
        Group(
            "How far the weights moved",
            "Every map with its trained part merged, after against before"
            + ("; and its singular values, each against itself." if values else "."),
            moved_maps(report),
        ),
        Group(
            "Where singular values went",
            "Values that grew count for more in what the map computes than before; values that "
            "shrank, for less.",
            moved_spectra(report),
        ),
    ]
    return [group for group in groups if group.pictures]
