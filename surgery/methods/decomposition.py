"""What every method hands over: per head, a spectrum and two small transforms.

A method never rewrites the large factors itself. It says how to mix the d vectors of each
head so that they are sorted by what they are worth; cutting then means keeping the first
rows. The transforms are d×d a head, small enough to hold for a whole model, to spill to
disk, and to apply while streaming.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from surgery.choices.rules import Pair
from surgery.methods.attention import AttentionWeights


@dataclass(frozen=True)
class PairDecomposition:
    """One pair (QK or VO) of one block, per key/value head.

    Attributes:
        spectrum: Worth of each new vector, descending: singular values, or norm products.
        left: Transform of the query (or output) vectors; row i gives new vector i.
        right: Transform of the key (or value) vectors.
        norm: Frobenius norm of the head's product.
        frequencies: Where RoPE stands between the two maps, the frequency pairs in the order of
            their worth; vectors are not mixed then, the transforms are identities, and
            ``spectrum`` holds the worth of a frequency's two rows one after the other.
    """

    spectrum: Float[Tensor, "kv d"]
    left: Float[Tensor, "kv d d"]
    right: Float[Tensor, "kv d d"]
    norm: Float[Tensor, " kv"]
    frequencies: Int64[Tensor, "kv half"] | None = None

    @property
    def step(self) -> int:
        """Vectors that only go together."""
        return 1 if self.frequencies is None else 2


@dataclass(frozen=True)
class SiteDecomposition:
    """Both pairs of one block; ``None`` where the pair is left as it is."""

    qk: PairDecomposition | None
    vo: PairDecomposition | None

    def pair(self, name: Pair) -> PairDecomposition | None:
        """Return the pair of this name."""
        return self.qk if name == "qk" else self.vo

    def apply(self, weights: AttentionWeights) -> AttentionWeights:
        """Return the block with all its vectors replaced, none cut yet.

        ``weights`` must have been prepared by :func:`prepare` with the same pairs.
        """
        if self.qk is not None:
            weights = weights.transform_qk(self.qk.left, self.qk.right)
        if self.vo is not None:
            weights = weights.transform_vo(self.vo.left, self.vo.right)
        return weights


def prepare(weights: AttentionWeights, *, qk: bool, vo: bool) -> AttentionWeights:
    """Remove the bias terms that the chosen pairs make redundant, exactly."""
    if qk:
        weights = weights.drop_key_bias()
    if vo:
        weights = weights.absorb_value_bias()
    return weights
