"""Pictures of a report, as SVG text: one file a picture, one visual language in ``canvas``."""

from surgery.report.figures.canvas import Picture
from surgery.report.figures.errors import pair_errors
from surgery.report.figures.ranks import rank_maps
from surgery.report.figures.savings import savings_bars
from surgery.report.figures.spectra import spectra
from surgery.report.figures.trade_off import trade_off

__all__ = ["Picture", "pair_errors", "rank_maps", "savings_bars", "spectra", "trade_off"]
