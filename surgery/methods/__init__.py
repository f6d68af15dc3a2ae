"""Methods: the weights of one attention block in, spectra and small transforms out."""

from surgery.methods.absorb_decompose import absorb_decompose
from surgery.methods.attention import AttentionWeights
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare
from surgery.methods.magnitude import magnitude
from surgery.methods.ranks import choose_ranks
from surgery.methods.rules import (
    LAYOUTS,
    PAIRS,
    Energy,
    Layout,
    Lossless,
    Pair,
    Remove,
    Rule,
    Thresholds,
)
from surgery.methods.units import PairSpectrum, Ranks, SiteSpectra

__all__ = [
    "LAYOUTS",
    "PAIRS",
    "AttentionWeights",
    "Energy",
    "Layout",
    "Lossless",
    "Pair",
    "PairDecomposition",
    "PairSpectrum",
    "Ranks",
    "Remove",
    "Rule",
    "SiteDecomposition",
    "SiteSpectra",
    "Thresholds",
    "absorb_decompose",
    "choose_ranks",
    "magnitude",
    "prepare",
]
