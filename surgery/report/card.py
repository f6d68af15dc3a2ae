"""The model card (README.md) of a restructured checkpoint: front matter and Markdown."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from surgery.architectures import ARCHITECTURES
from surgery.architectures.base import CAUSAL
from surgery.report.model.report import Report
from surgery.report.model.tuning import Tuning
from surgery.report.model.vocabulary import VocabularyReport
from surgery.report.text import feed_forward_tables
from surgery.report.text.calibration import calibration_sentence, data_text, leak_text
from surgery.report.text.damage import damage_text, is_priced
from surgery.report.text.executed import executed_text
from surgery.report.text.feed_forward import (
    final_text,
    form_text,
    is_narrower,
    is_ragged,
    lost_neurons,
    refit_text,
)
from surgery.report.text.layers import layer_rows
from surgery.report.text.linear_tables import columns, role_rows
from surgery.report.text.linear_views import byte_rows, is_linear
from surgery.report.text.linear_words import words
from surgery.report.text.linears import growth_text
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.text.summary import (
    cut_text,
    is_pruned,
    measured_rows,
    option_items,
    sentence,
    untouched_reasons,
    worded_items,
)
from surgery.report.text.tuning import curve_rows, fact_rows, method_name, warning_text
from surgery.report.text.tuning_tables import moved_columns, moved_rows
from surgery.report.text.vocabulary import reason_rows, use_rows
from surgery.report.wording import amount, capitalised, change, count, percent, printable

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def to_card(report: Report) -> str:
    """Return the card.

    Everything that comes from a configuration is escaped: in the front matter as a quoted
    YAML scalar, in the text as literal Markdown. The source's path on this machine is left
    out, since cards are published.
    """
    output = PurePosixPath(report.output or "").name
    family = ARCHITECTURES.get(report.source.model_type)
    template, context = _contents(report)
    text = (
        _environment()
        .get_template(template)
        .render(
            report=report,
            name=output or f"{report.source.name}, {report.method}",
            front_matter=_front_matter(report),
            sentence=sentence(report),
            damage=damage_text(report),
            measurements=measured_rows(report),
            options=option_items(report),
            carried=report.tuning is None,  # an adapter is no model
            auto_class=CAUSAL if family is None else family.auto_class,
            untrusted=_untrusted(report),
            **context,
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> Environment:
    """Return where the templates are: each is compiled once a process."""
    environment = Environment(  # noqa: S701 - Markdown: escaped by the filters below
        loader=PackageLoader("surgery.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        md=_markdown,
        yaml=_yaml,
        indented=_indented,
        count=count,
        percent=percent,
        amount=amount,
        change=change,
    )
    return environment


def _contents(report: Report) -> tuple[str, dict[str, Any]]:
    if report.tuning is not None:
        return _tuning(report, report.tuning)
    if report.vocabulary is not None:
        return _vocabulary(report, report.vocabulary)
    if is_narrower(report):
        return _feed_forward(report)
    return _linears(report) if is_linear(report) else _attention(report)


def _vocabulary(report: Report, told: VocabularyReport) -> tuple[str, dict[str, Any]]:
    return "card_vocabulary.md.j2", {
        "told": told,
        "uses": use_rows(told),
        "reasons": reason_rows(told),
        "tables": quantity_tables(report.quantities),
        "remote": False,
    }


def _feed_forward(report: Report) -> tuple[str, dict[str, Any]]:
    told = report.calibration
    return "card_feed_forward.md.j2", {
        "form": form_text(report),
        "ragged": is_ragged(report),
        "layers": layer_rows(report),
        "narrower": lost_neurons(report),
        "final": final_text(report),
        "refit": capitalised(refit_text(report)),
        "calibrated": "" if told is None else data_text(told),
        "leak": "" if told is None else leak_text(told),
        "priced": is_priced(report),
        "columns": feed_forward_tables.columns(report),
        "rows": feed_forward_tables.tower_rows(report),
        "tables": quantity_tables(report.quantities),
    }


def _attention(report: Report) -> tuple[str, dict[str, Any]]:
    told = report.calibration
    return "card_attention.md.j2", {
        "calibrated": "" if told is None else calibration_sentence(told),
        "leak": "" if told is None else leak_text(told),
        "pruned": is_pruned(report),
        "priced": is_priced(report),
        "what": cut_text(report),
        "executed": executed_text(report),
        "tables": quantity_tables(report.quantities),
        "untouched": untouched_reasons(report),
    }


def _linears(report: Report) -> tuple[str, dict[str, Any]]:
    total = report.trainable
    return "card_linears.md.j2", {
        "words": words(report.method),
        "total": total,
        "growth": "" if total is None else growth_text(total, dry=report.output is None),
        "columns": columns(report),
        "rows": role_rows(report),
        "tables": quantity_tables(byte_rows(report)),
    }


def _tuning(report: Report, tuning: Tuning) -> tuple[str, dict[str, Any]]:
    return "card_tuning.md.j2", {
        "method": method_name(tuning.method),
        "warning": warning_text(tuning),
        "facts": fact_rows(tuning),
        "settings": worded_items(tuning.settings),
        "total": report.trainable,
        "curves": [row for _, row in curve_rows(tuning)],
        "columns": moved_columns(tuning.moved),
        "rows": moved_rows(tuning.moved),
    }


def _untrusted(report: Report) -> str:
    """Return what transformers makes of the result where it may not run code from it."""
    if is_linear(report):
        return (
            "Without that argument transformers leaves the small parts out, which changes what it "
            "computes, and only warns; shapes that were reduced before it refuses."
        )
    if is_pruned(report):
        return "Without that argument transformers refuses the reduced shapes."
    if report.tuning is None:
        return "Without that argument it loads, too: all shapes are the original's."
    return ""


def _front_matter(report: Report) -> dict[str, Any]:
    """Return what hubs index. ``base_model`` only where the source is a hub id."""
    narrower = is_narrower(report) and not is_ragged(report)
    stock = narrower or report.vocabulary is not None
    matter: dict[str, Any] = {"library_name": "transformers" if stock else "model-surgery"}
    if _HUB_ID.fullmatch(report.source.name):
        matter["base_model"] = report.source.name
    if report.source.model_type in ARCHITECTURES:
        matter["pipeline_tag"] = ARCHITECTURES[report.source.model_type].pipeline
    tags = ["model-surgery", report.method, report.source.model_type]
    matter["tags"] = [*tags, "pruned"] if is_pruned(report) else tags
    return matter


def _yaml(value: object) -> str:
    """Write a value as one line of YAML: JSON is YAML, once control characters are gone."""
    if isinstance(value, list):
        return json.dumps([printable(str(item)) for item in value], ensure_ascii=False)
    return json.dumps(printable(str(value)), ensure_ascii=False)


_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def _markdown(value: object) -> str:
    """Return text as literal Markdown on one line, in a table cell too."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", printable(str(value)))


def _indented(value: object) -> str:
    """Return text as an indented code block of one line, which nothing can close."""
    return "    " + printable(str(value))
