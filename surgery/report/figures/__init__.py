"""Pictures of a report, as SVG text: one file a picture, one visual language in ``canvas``."""

from surgery.report.figures.canvas import Picture
from surgery.report.figures.captured import captured_maps
from surgery.report.figures.column import model_column
from surgery.report.figures.coverage import coverage_curve
from surgery.report.figures.errors import pair_errors
from surgery.report.figures.losses import losses
from surgery.report.figures.moved import moved_maps
from surgery.report.figures.moved_spectra import moved_spectra
from surgery.report.figures.price import price_curves
from surgery.report.figures.principal import principal_spectra
from surgery.report.figures.ranks import rank_maps
from surgery.report.figures.savings import savings_bars
from surgery.report.figures.schematic import schematic
from surgery.report.figures.sensitivity import sensitivity_dots
from surgery.report.figures.spectra import spectra
from surgery.report.figures.trade_off import trade_off
from surgery.report.figures.trainable import trainable_bars

__all__ = [
    "Picture",
    "captured_maps",
    "coverage_curve",
    "losses",
    "model_column",
    "moved_maps",
    "moved_spectra",
    "pair_errors",
    "price_curves",
    "principal_spectra",
    "rank_maps",
    "savings_bars",
    "schematic",
    "sensitivity_dots",
    "spectra",
    "trade_off",
    "trainable_bars",
]
