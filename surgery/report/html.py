"""The report as one page that needs nothing but itself: inline style, inline SVG, no scripts.

Names and options come from files the user did not write, so the template escapes everything;
the only text let through as markup is the SVG that :mod:`surgery.report.figures` drew.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from surgery.report.model.report import Report
from surgery.report.pages.attention import attention_view
from surgery.report.pages.feed_forward import feed_forward_view
from surgery.report.pages.linears import linears_view
from surgery.report.pages.page import View, tiles_a_row
from surgery.report.pages.tuning import tuning_view
from surgery.report.pages.vocabulary import vocabulary_view
from surgery.report.text.damage import damage_text
from surgery.report.text.feed_forward import is_narrower
from surgery.report.text.linear_views import is_linear
from surgery.report.text.summary import measured_rows, option_items, sentence
from surgery.report.wording import amount, change, count, percent


def to_html(report: Report) -> str:
    """Return the page. It makes no request, and every string of the report is escaped."""
    view = _view(report)
    page = (
        _environment()
        .get_template(view.template)
        .render(
            report=report,
            kicker=view.kicker,
            lead=sentence(report),
            damage=damage_text(report),
            tiles=view.tiles,
            tiles_a_row=tiles_a_row(len(view.tiles)),
            measurements=measured_rows(report),
            dry=report.output is None,
            options=option_items(report),
            **view.context,
        )
    )
    # control characters are not allowed in HTML, escaped or not
    return "".join(c for c in page if c >= " " or c in "\n\t")


def _view(report: Report) -> View:
    if report.tuning is not None:
        return tuning_view(report, report.tuning)
    if report.vocabulary is not None:
        return vocabulary_view(report, report.vocabulary)
    if is_narrower(report):
        return feed_forward_view(report)
    return linears_view(report) if is_linear(report) else attention_view(report)


@cache
def _environment() -> Environment:
    """Return where the templates are: each is compiled once a process."""
    environment = Environment(
        loader=PackageLoader("surgery.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count,
        percent=percent,
        amount=amount,
        change=change,
        trusted_svg=Markup,  # drawn by us, names escaped by matplotlib
    )
    return environment
