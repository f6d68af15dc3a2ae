"""No table loses a column: not on a phone, not on a narrow screen."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from surgery.report.html import to_html
from surgery.report.model.report import Report
from surgery_cli.render import report_view
from tests.report.calibrated_factory import calibrated
from tests.report.factory import make_report
from tests.report.feed_forward_factory import make_narrower
from tests.report.linear_factory import make_linear_report
from tests.report.test_render import _shown
from tests.report.tuning_factory import make_tuning_report

REPORTS = {
    "attention": make_report("large"),
    "calibrated": calibrated("tiny"),
    "one pair": make_report("llama"),
    "a look": make_report("tiny", inspect=True),
    "split": make_linear_report("sorsa"),
    "reflections": make_linear_report("hra"),
    "narrower": make_narrower("large", measured=True),
    "narrower, one tower": make_narrower("llama"),
    "narrower, counted": make_narrower("tiny", dry=True),
    "tuned": make_tuning_report("core"),
}
FITS_A_PHONE = 5  # columns of figures as short as ``46.5 G`` and of words that wrap


class Tables(HTMLParser):
    """Collects what surrounds each table, and its rows: cells with the heads that they carry."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.around: list[str] = []
        self.classes: list[str] = []
        self.rows: list[list[list[str | None]]] = []
        self._before = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self.around.append(self._before)
            self.classes.append(given.get("class") or "")
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append([])
        elif tag == "td":
            self.rows[-1][-1].append(given.get("data-label"))
        self._before = given.get("class") or ""


@pytest.mark.parametrize("name", REPORTS)
def test_every_table_scrolls_and_a_wide_one_stacks_under_its_heads(
    undrawn: None, name: str
) -> None:
    page = Tables(to_html(REPORTS[name]))
    assert page.rows
    for around, classes, rows in zip(page.around, page.classes, page.rows, strict=True):
        assert "scroll" in around.split()
        if "stack" in classes.split():
            assert all(all(row) for row in rows), "a cell without the head of its column"
        else:
            assert max(map(len, rows)) < FITS_A_PHONE


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_a_screen_of_any_width_shows_every_figure_whole(name: str, width: int) -> None:
    text = _shown(report_view(REPORTS[name]), width)
    lines = [line for line in text.splitlines() if "ritten to" not in line]
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in text
    for figure in figures_of(REPORTS[name]):
        assert figure in text


def figures_of(report: Report) -> list[str]:
    """Return figures as the widest screen shows them."""
    text = _shown(report_view(report), 200)
    return [word for word in text.split() if word[:1].isdigit() and "/" not in word]


def test_nothing_is_compared_where_nothing_was_asked() -> None:
    look = REPORTS["a look"]
    bare = [
        replace(
            one,
            qk=replace(one.qk, spectrum=[], ranks=[64] * 6, cut_error=[], cast_error=[]),
            vo=replace(one.vo, spectrum=[], ranks=[64] * 6, cut_error=[], cast_error=[]),
        )
        for one in look.sites
    ]
    shown = _shown(report_view(replace(look, sites=bare)))
    heads = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.split()}
    assert heads["Parameters"] == ["of", "the", "model"]
    assert heads["Bytes"] == heads["FLOPs"] == []
