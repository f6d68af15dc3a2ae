"""What each method that leaves small trainable parts has to say for itself, as data.

A new method is one entry of :data:`WORDS`; no view asks for a method by name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodWords:
    """How a method is told to people.

    ``{maps}`` stands for the linear maps treated, ``{size}`` for the rank or the number of
    reflections.

    Attributes:
        name: The method as its authors write it.
        did: What was done, past tense, the start of a sentence.
        would: The same for a run that writes nothing.
        splits: Whether a principal part was taken out of the weight.
        size: Option that holds the method's size; empty where it has none.
        frozen: What the stored weight is now.
        trained: What the small part is.
        start: Why the function starts unchanged.
        merging: What merging computes.
        defect: What the orthogonality defect was measured on.
        prefix: How the names of the small tensors begin.
        compared: What is compared with the original for the start error.
        spectra: What the singular values are of.
        reading: How to read a picture of them.
    """

    name: str
    did: str
    would: str
    splits: bool
    size: str
    frozen: str
    trained: str
    start: str
    merging: str
    defect: str
    prefix: str
    compared: str = "weight"
    spectra: str = "principal parts"
    reading: str = (
        "A steep curve is caught by a small rank; a flat one goes on below the last value drawn."
    )


_RESIDUAL = "The residual: the original weight less its principal part, in the shape it always had."
_SPLIT_START = (
    "Principal part and residual add up to the original weight. The residual is rounded "
    "after the subtraction, and that rounding is the whole difference."
)
_IN_FRONT = "The original weight, untouched: whatever is put in front does not change it."
_ORTHONORMAL = (
    "Orthonormal rows where a head's keys and values were, the matching vectors in queries and "
    "outputs; under RoPE queries are the original's."
)
_BEHIND_START = (
    "What stands behind a head, times the rows frozen in it, is what the head computed before. "
    "The cast of those rows is the whole difference."
)
_BEHIND_READING = (
    "Of all heads of a map together: those of each head's product with queries or outputs; of keys "
    "under RoPE, and of up maps, those of the rows themselves, or for a diagonal their norms."
)
_DEFECT_IN_FRONT = "of the map put in front, as it starts"

WORDS = {
    "sorsa": MethodWords(
        name="SORSA",
        did="Split {maps} at rank {size}",
        would="{maps} would be split at rank {size}",
        splits=True,
        size="rank",
        frozen=_RESIDUAL,
        trained="The principal part U·diag(S)·Vᵀ: the largest singular values and their vectors.",
        start=_SPLIT_START,
        merging="adds the principal part, U·diag(S)·Vᵀ, to the residual",
        defect="of U and V, whose columns should be orthonormal",
        prefix="sorsa_",
    ),
    "pissa": MethodWords(
        name="PiSSA",
        did="Split {maps} at rank {size}",
        would="{maps} would be split at rank {size}",
        splits=True,
        size="rank",
        frozen=_RESIDUAL,
        trained=(
            "The principal part B·A: singular vectors, with the root of each singular value "
            "in both factors."
        ),
        start=_SPLIT_START,
        merging="adds the principal part, B·A, to the residual",
        defect="of the singular vectors behind A and B",
        prefix="pissa_",
    ),
    "hra": MethodWords(
        name="HRA",
        did="Put {size} reflections in front of {maps}",
        would="{size} reflections would be put in front of {maps}",
        splits=False,
        size="reflections",
        frozen=_IN_FRONT,
        trained="One vector u for each Householder reflection, the mirror I − 2ûûᵀ.",
        start=(
            "Reflections start in equal pairs, and a mirror used twice changes nothing: their "
            "product is the identity."
        ),
        merging="multiplies the weight by the product of the reflections",
        defect=_DEFECT_IN_FRONT,
        prefix="hra_",
    ),
    "goft": MethodWords(
        name="GOFT",
        did="Put rotations in front of {maps}",
        would="Rotations would be put in front of {maps}",
        splits=False,
        size="",
        frozen=_IN_FRONT,
        trained=(
            "One angle for each Givens rotation: d − 1 rotations for d inputs, in stages that pair "
            "neighbours at stride 1, 2, 4 and so on."
        ),
        start="Every angle starts at zero: their product is the identity.",
        merging="multiplies the weight by the product of the rotations",
        defect=_DEFECT_IN_FRONT,
        prefix="goft_",
    ),
    "qgoft": MethodWords(
        name="qGOFT",
        did="Put 2×2 blocks in front of {maps}",
        would="2×2 blocks would be put in front of {maps}",
        splits=False,
        size="",
        frozen=_IN_FRONT,
        trained=(
            "Four free numbers where GOFT has one angle: d − 1 blocks of 2×2 for d inputs, in "
            "stages that pair neighbours at stride 1, 2, 4 and so on."
        ),
        start="Every block starts as I₂: their product is the identity.",
        merging="multiplies the weight by the product of the blocks",
        defect=_DEFECT_IN_FRONT,
        prefix="qgoft_",
    ),
    "core": MethodWords(
        name="Absorb-Decompose, cores",
        did="Put cores behind {maps}",
        would="Cores would be put behind {maps}",
        splits=False,
        size="",
        frozen=_ORTHONORMAL,
        trained=(
            "A square block behind each head of keys and values, or behind each block of rows: "
            "diag(S), or the triangle R of a QR factorisation, at first."
        ),
        start=_BEHIND_START,
        merging="multiplies the rows and biases of each head by its block",
        defect="of the rows that are frozen, in each head",
        prefix="core_",
        compared="product or map",
        spectra="cores",
        reading=_BEHIND_READING,
    ),
    "diagonal": MethodWords(
        name="Absorb-Decompose, singular values",
        did="Put singular values behind {maps}",
        would="Singular values would be put behind {maps}",
        splits=False,
        size="",
        frozen=_ORTHONORMAL,
        trained=(
            "The singular values S of each head's product; under RoPE one number a frequency pair "
            "of the keys."
        ),
        start=_BEHIND_START,
        merging="multiplies the rows and biases of each head by its singular values",
        defect="of the rows that are frozen, in each head",
        prefix="singular_",
        compared="product or map",
        spectra="heads",
        reading=_BEHIND_READING,
    ),
}

_UNKNOWN = MethodWords(
    name="",
    did="Gave {maps} small trainable parts",
    would="{maps} would get small trainable parts",
    splits=False,
    size="",
    frozen="The stored weight.",
    trained="The small parts beside or in front of it.",
    start="The small parts start so that the function is the original's.",
    merging="folds the small parts into the weight",
    defect="of the small parts",
    prefix="",
)


def words(method: str) -> MethodWords:
    """Return what ``method`` says for itself; general words for one this version does not know."""
    return WORDS.get(method, _UNKNOWN)
