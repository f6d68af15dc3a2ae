"""A page together with the pictures on it, drawn once for every claim about either."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from surgery.report.figures import Picture
from surgery.report.html import to_html
from surgery.report.model.report import Report
from surgery.report.pages import attention as attention_page
from surgery.report.pages import calibration as calibration_page
from surgery.report.pages import feed_forward as feed_forward_page
from surgery.report.pages import linears as linears_page
from surgery.report.pages import tuning as tuning_page

MAKERS = {
    attention_page: ("savings_bars", "rank_maps", "spectra", "pair_errors", "trade_off"),
    calibration_page: ("price_curves", "sensitivity_dots"),
    feed_forward_page: ("model_column",),
    tuning_page: ("losses", "moved_maps", "moved_spectra"),
    linears_page: ("trainable_bars", "captured_maps", "principal_spectra", "schematic"),
}


@dataclass(frozen=True)
class Drawn:
    """A page, and its pictures by the function that drew them."""

    html: str
    by_maker: dict[str, list[Picture]] = field(repr=False)

    def __iter__(self) -> Iterator[Picture]:
        return (picture for pictures in self.by_maker.values() for picture in pictures)


def drawn(report: Report) -> Drawn:
    """Render a page; keep what was drawn for it."""
    made: dict[str, list[Picture]] = defaultdict(list)

    def recorded(maker: Callable[[Report], list[Picture]]) -> Callable[[Report], list[Picture]]:
        def make(shown: Report) -> list[Picture]:
            pictures = maker(shown)
            made[maker.__name__] += pictures
            return pictures

        return make

    with pytest.MonkeyPatch.context() as patch:
        for page, names in MAKERS.items():
            for name in names:
                maker: Any = getattr(page, name)
                patch.setattr(page, name, recorded(maker))
        return Drawn(to_html(report), made)
