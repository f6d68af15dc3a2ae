"""The small trainable parts: a new one is its mathematics, its runtime, and an entry here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgery.choices.small_part import MethodWords, Recipe, SmallPart
from surgery.choices.table import Table, later

_META = "LLaMA-2-7B, MetaMathQA"
_SORSA = f"arXiv 2409.00055: {_META}"
_HRA = f"arXiv 2405.17484: {_META}; batch and epochs are ours"
_LORA = "usual for LoRA, arXiv 2106.09685; the numbers are ours"
_GOFT = "arXiv 2404.04316: LLaMA-2-7B; schedule and epochs are ours"
_SPLIT = MethodWords(
    did="Split {maps} at rank {size}",
    would="{maps} would be split at rank {size}",
    splits=True,
    size="rank",
    frozen="The residual: the original weight less its principal part, in the shape it always had.",
    start=(
        "Principal part and residual add up to the original weight. The residual is rounded after "
        "the subtraction, and that rounding is the whole difference."
    ),
)
_IN_FRONT = MethodWords(
    frozen="The original weight, untouched: whatever is put in front does not change it.",
    defect="of the map put in front, as it starts",
)
_BEHIND = MethodWords(
    frozen=(
        "Orthonormal rows where a head's keys and values were, the matching vectors in queries and "
        "outputs; under RoPE queries are the original's."
    ),
    start=(
        "What stands behind a head, times the rows frozen in it, is what the head computed before. "
        "The cast of those rows is the whole difference."
    ),
    defect="of the rows that are frozen, in each head",
    compared="product or map",
    reading=(
        "Of all heads of a map together: those of each head's product with queries or outputs; of "
        "keys under RoPE, and of up maps, those of the rows themselves, or for a diagonal their "
        "norms."
    ),
)

_CLOVER = Recipe(
    "clover", 1e-4, "linear", 100, 16, 3, "CLOVER, arXiv 2411.17426: LLaMA-2-7B, commonsense"
)

PARTS = Table(
    SmallPart(
        "sorsa",
        command="split",
        help="U, S and V are trained apart",
        settings=("rank", "targets"),
        treatment=later("surgery.methods.low_rank:Sorsa"),
        title="split into principal and residual",
        words=replace(
            _SPLIT,
            name="SORSA",
            trained=(
                "The principal part U·diag(S)·Vᵀ: the largest singular values and their vectors."
            ),
            merging="adds the principal part, U·diag(S)·Vᵀ, to the residual",
            defect="of U and V, whose columns should be orthonormal",
            prefix="sorsa_",
        ),
        recipe=Recipe("sorsa", 3e-5, "cosine", 0.03, 128, 1, f"SORSA, {_SORSA}", 4e-4),
        penalty="mean over all U and V of ‖UᵀU − I‖_F",
    ),
    SmallPart(
        "pissa",
        command="split",
        help="two factors",
        settings=("rank", "targets"),
        treatment=later("surgery.methods.low_rank:Pissa"),
        title="split into principal and residual",
        words=replace(
            _SPLIT,
            name="PiSSA",
            trained=(
                "The principal part B·A: singular vectors, with the root of each singular value "
                "in both factors."
            ),
            merging="adds the principal part, B·A, to the residual",
            defect="of the singular vectors behind A and B",
            prefix="pissa_",
        ),
        recipe=Recipe("pissa", 2e-5, "cosine", 0.03, 128, 1, f"PiSSA, arXiv 2404.02948: {_META}"),
    ),
    SmallPart(
        "hra",
        command="reparam",
        help="Householder reflections in front",
        settings=("reflections", "targets"),
        treatment=later("surgery.methods.householder:Hra"),
        title="re-parameterised",
        words=replace(
            _IN_FRONT,
            name="HRA",
            did="Put {size} reflections in front of {maps}",
            would="{size} reflections would be put in front of {maps}",
            size="reflections",
            trained="One vector u for each Householder reflection, the mirror I − 2ûûᵀ.",
            start=(
                "Reflections start in equal pairs, and a mirror used twice changes nothing: their "
                "product is the identity."
            ),
            merging="multiplies the weight by the product of the reflections",
            prefix="hra_",
        ),
        recipe=Recipe("hra", 3e-5, "cosine", 0.005, 32, 2, f"HRA, {_HRA}", 1e-4),
        penalty="Σ ‖UᵀU − I‖_F²",
    ),
    SmallPart(
        "goft",
        command="reparam",
        help="Givens rotations in front",
        treatment=later("surgery.methods.givens:Goft"),
        title="re-parameterised",
        words=replace(
            _IN_FRONT,
            name="GOFT",
            did="Put rotations in front of {maps}",
            would="Rotations would be put in front of {maps}",
            trained=(
                "One angle for each Givens rotation: d − 1 rotations for d inputs, in stages that "
                "pair neighbours at stride 1, 2, 4 and so on."
            ),
            start="Every angle starts at zero: their product is the identity.",
            merging="multiplies the weight by the product of the rotations",
            prefix="goft_",
        ),
        recipe=Recipe("goft", 1e-4, "linear", 0.03, 64, 2, f"GOFT, {_GOFT}"),
    ),
    SmallPart(
        "qgoft",
        command="reparam",
        help="free 2×2 blocks in front",
        treatment=later("surgery.methods.givens:Qgoft"),
        title="re-parameterised",
        words=replace(
            _IN_FRONT,
            name="qGOFT",
            did="Put 2×2 blocks in front of {maps}",
            would="2×2 blocks would be put in front of {maps}",
            trained=(
                "Four free numbers where GOFT has one angle: d − 1 blocks of 2×2 for d inputs, in "
                "stages that pair neighbours at stride 1, 2, 4 and so on."
            ),
            start="Every block starts as I₂: their product is the identity.",
            merging="multiplies the weight by the product of the blocks",
            prefix="qgoft_",
        ),
        recipe=Recipe("qgoft", 1e-4, "linear", 0.03, 64, 2, f"qGOFT, {_GOFT}", 0.01),
        penalty="Σ ⟨α, β⟩²",
    ),
    SmallPart(
        "core",
        command="reparam",
        help="square blocks behind heads",
        settings=("pairs", "up_block"),
        title="cores behind heads",
        words=replace(
            _BEHIND,
            name="Absorb-Decompose, cores",
            did="Put cores behind {maps}",
            would="Cores would be put behind {maps}",
            trained=(
                "A square block behind each head of keys and values, or behind each block of rows: "
                "diag(S), or the triangle R of a QR factorisation, at first."
            ),
            merging="multiplies the rows and biases of each head by its block",
            prefix="core_",
            spectra="cores",
        ),
        recipe=_CLOVER,
    ),
    SmallPart(
        "diagonal",
        command="reparam",
        help="singular values behind heads",
        settings=("pairs",),
        title="singular values behind heads",
        words=replace(
            _BEHIND,
            name="Absorb-Decompose, singular values",
            did="Put singular values behind {maps}",
            would="Singular values would be put behind {maps}",
            trained=(
                "The singular values S of each head's product; under RoPE one number a frequency "
                "pair of the keys."
            ),
            merging="multiplies the rows and biases of each head by its singular values",
            prefix="singular_",
            spectra="heads",
        ),
        recipe=_CLOVER,
    ),
    SmallPart(
        "lora",
        command="tune",
        help="two factors beside the weight, through PEFT",
        settings=("rank", "targets", "layers"),
        words=MethodWords(name="LoRA", trained=""),
        recipe=Recipe("lora", 2e-4, "linear", 0.03, 16, 3, _LORA),
    ),
    SmallPart(
        "full",
        command="tune",
        help="every weight",
        settings=(),
        words=MethodWords(name="full fine-tuning", trained=""),
        recipe=Recipe("full", 2e-5, "cosine", 0.03, 128, 1, "usual for full fine-tuning; ours"),
    ),
)
"""Every method under its name, in the order that it is offered in."""


def by_command(*commands: str) -> tuple[str, ...]:
    """Return the names of the methods that some commands give to a checkpoint."""
    return tuple(name for name, part in PARTS.items() if part.command in commands)


def described(command: str) -> str:
    """Return what the methods of a command are."""
    return " ".join(f"{name}: {PARTS[name].help}." for name in by_command(command))


def taking(setting: str) -> tuple[str, ...]:
    """Return the names of the methods that have a setting."""
    return tuple(name for name, part in PARTS.items() if setting in part.settings)


def penalised() -> tuple[str, ...]:
    """Return the names of the methods whose papers add something to the loss."""
    return tuple(name for name, part in PARTS.items() if part.penalty)


def recipes() -> dict[str, Recipe]:
    """Return every recipe by its name."""
    found = [part.recipe for part in PARTS.values() if part.recipe is not None]
    return {recipe.name: recipe for recipe in found}


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names as a sentence has them: ``a, b and c``."""
    return f" {last} ".join(each for each in (", ".join(names[:-1]), names[-1]) if each)
