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

from surgery.choices.rules import SeamName
from surgery.methods.attention import AttentionWeights


@dataclass(frozen=True)
class PairDecomposition:
    """One pair (QK or VO) of one block, per key/value head.

    Attributes:
        spectrum: Worth of each new vector, descending: singular values, or norm products.
        norm: Frobenius norm of the head's product.
        left: Transform of the query (or output) vectors; row i gives new vector i. ``None``:
            nothing is mixed, and ``order`` says which of the vectors that there are comes i-th.
        right: Transform of the key (or value) vectors; ``None`` with ``left``.
        order: Of a selection: the vectors, from the most worth to the least.
        step: Vectors that only go together: the two rows that one RoPE frequency turns.
    """

    spectrum: Float[Tensor, "kv d"]
    norm: Float[Tensor, " kv"]
    left: Float[Tensor, "kv d d"] | None = None
    right: Float[Tensor, "kv d d"] | None = None
    order: Int64[Tensor, "kv d"] | None = None
    step: int = 1

    @property
    def frequencies(self) -> Int64[Tensor, "kv half"] | None:
        """RoPE frequencies by their worth, where vectors go in their pairs."""
        return None if self.order is None or self.step == 1 else self.order[:, :: self.step]


@dataclass(frozen=True)
class SiteDecomposition:
    """Both pairs of one block; ``None`` where the pair is left as it is."""

    qk: PairDecomposition | None
    vo: PairDecomposition | None

    @property
    def parts(self) -> dict[SeamName, PairDecomposition]:
        """The pairs that are cut, by name."""
        found = {"qk": self.qk, "vo": self.vo}
        return {name: part for name, part in found.items() if part is not None}

    def apply(self, weights: AttentionWeights) -> AttentionWeights:
        """Return the block with all its vectors replaced, none cut yet.

        Of pairs that go by RoPE frequencies nothing is moved: rows have their places there.
        ``weights`` must have been prepared by :func:`prepare` with the same pairs.
        """
        for name, part in self.parts.items():
            if part.left is not None and part.right is not None:
                weights = weights.transformed(name, part.left, part.right)
            elif part.order is not None and part.step == 1:
                weights = weights.selected(name, part.order)
        return weights


def prepare(weights: AttentionWeights, *, qk: bool, vo: bool) -> AttentionWeights:
    """Remove the bias terms that the chosen pairs make redundant, exactly."""
    if qk:
        weights = weights.drop_key_bias()
    if vo:
        weights = weights.absorb_value_bias()
    return weights
