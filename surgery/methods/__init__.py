"""Methods: the weights of one block or linear map in, what becomes of them out."""

from surgery.methods.absorb_decompose import absorb_decompose
from surgery.methods.activation_aware import RIDGE, activation_aware
from surgery.methods.adopted import Adopted
from surgery.methods.attention import AttentionWeights
from surgery.methods.budget import most_removable, predicted_damage
from surgery.methods.damage import DamageCurve
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare
from surgery.methods.givens import Goft, Qgoft
from surgery.methods.householder import Hra
from surgery.methods.linear import LinearStart, Treatment
from surgery.methods.low_rank import SOLVERS, Pissa, Solver, Sorsa
from surgery.methods.magnitude import magnitude
from surgery.methods.ranks import choose_ranks
from surgery.methods.rules import (
    LAYOUTS,
    OF,
    PAIRS,
    Bound,
    Energy,
    Layout,
    Lossless,
    MaxError,
    MaxPplIncrease,
    MaxWerIncrease,
    Of,
    Pair,
    Remove,
    Rule,
    Thresholds,
)
from surgery.methods.units import PairSpectrum, Ranks, SiteSpectra

__all__ = [
    "LAYOUTS",
    "OF",
    "PAIRS",
    "RIDGE",
    "SOLVERS",
    "Adopted",
    "AttentionWeights",
    "Bound",
    "DamageCurve",
    "Energy",
    "Goft",
    "Hra",
    "Layout",
    "LinearStart",
    "Lossless",
    "MaxError",
    "MaxPplIncrease",
    "MaxWerIncrease",
    "Of",
    "Pair",
    "PairDecomposition",
    "PairSpectrum",
    "Pissa",
    "Qgoft",
    "Ranks",
    "Remove",
    "Rule",
    "SiteDecomposition",
    "SiteSpectra",
    "Solver",
    "Sorsa",
    "Thresholds",
    "Treatment",
    "absorb_decompose",
    "activation_aware",
    "choose_ranks",
    "magnitude",
    "most_removable",
    "predicted_damage",
    "prepare",
]
