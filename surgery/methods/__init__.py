"""Methods: the weights of one block or linear map in, what becomes of them out."""

from surgery.choices.rules import (
    LAYOUTS,
    LITTLE_ERROR,
    LITTLE_PERPLEXITY,
    OF,
    Bound,
    Energy,
    Layout,
    Lossless,
    MaxError,
    MaxPplIncrease,
    MaxWerIncrease,
    Of,
    Remove,
    Rule,
    SeamName,
    Thresholds,
    UpTo,
)
from surgery.choices.settings import FORMS, Form
from surgery.methods.absorb_decompose import absorb_decompose
from surgery.methods.activation_aware import activation_aware
from surgery.methods.adopted import Adopted
from surgery.methods.attention import AttentionWeights
from surgery.methods.behind import (
    Behind,
    block_sizes,
    factor_queries_keys,
    factor_rotary_keys,
    factor_rows,
    factor_values_outputs,
)
from surgery.methods.budget import most_removable, predicted_damage
from surgery.methods.damage import DamageCurve
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare
from surgery.methods.frequencies import share_frequencies
from surgery.methods.givens import Goft, Qgoft
from surgery.methods.householder import Hra
from surgery.methods.linear import LinearStart, Treatment
from surgery.methods.low_rank import Pissa, Sorsa
from surgery.methods.magnitude import magnitude
from surgery.methods.neuron_refit import NarrowDown, narrow, output_error
from surgery.methods.neurons import AMENDS, Amends, Elimination, NeuronMoments, eliminate
from surgery.methods.ranks import choose_ranks
from surgery.methods.units import PairSpectrum, Ranks, SiteSpectra

__all__ = [
    "AMENDS",
    "FORMS",
    "LAYOUTS",
    "LITTLE_ERROR",
    "LITTLE_PERPLEXITY",
    "OF",
    "Adopted",
    "Amends",
    "AttentionWeights",
    "Behind",
    "Bound",
    "DamageCurve",
    "Elimination",
    "Energy",
    "Form",
    "Goft",
    "Hra",
    "Layout",
    "LinearStart",
    "Lossless",
    "MaxError",
    "MaxPplIncrease",
    "MaxWerIncrease",
    "NarrowDown",
    "NeuronMoments",
    "Of",
    "PairDecomposition",
    "PairSpectrum",
    "Pissa",
    "Qgoft",
    "Ranks",
    "Remove",
    "Rule",
    "SeamName",
    "SiteDecomposition",
    "SiteSpectra",
    "Sorsa",
    "Thresholds",
    "Treatment",
    "UpTo",
    "absorb_decompose",
    "activation_aware",
    "block_sizes",
    "choose_ranks",
    "eliminate",
    "factor_queries_keys",
    "factor_rotary_keys",
    "factor_rows",
    "factor_values_outputs",
    "magnitude",
    "most_removable",
    "narrow",
    "output_error",
    "predicted_damage",
    "prepare",
    "share_frequencies",
]
