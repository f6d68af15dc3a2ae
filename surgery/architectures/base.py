"""What a model family must say about itself: plain data, no code of its own.

A family is one :class:`Architecture` value. It names the tensors that play q, k, v and o
in every attention block, what stands between them, and the tensors no method touches.
From a parsed configuration it yields concrete :class:`AttentionSite` values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Input = Literal["audio", "text"]
Scope = Literal["encoder", "decoder", "cross"]
Role = Literal["q", "k", "v", "o"]
LayerKey = Literal["list", "bound", "pairs", "number"]
FeedForwardRole = Literal["gate", "up", "down"]

ROLES: tuple[Role, ...] = ("q", "k", "v", "o")
CAUSAL, BASE = "AutoModelForCausalLM", "AutoModel"
"""Auto classes of what predicts the next token of text, and of models without a head."""

Shape = tuple[int | str, ...]
"""A tensor's shape: numbers, configuration attributes that hold them, and ``a * b`` of these."""


def tower_holding(scope: str) -> Literal["encoder", "decoder"]:
    """Return the tower whose layers hold blocks of a scope: cross-attention is the decoder's."""
    return "encoder" if scope == "encoder" else "decoder"


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention block, as the family stores it.

    Maps that name one module are fused in it: their outputs lie one after the other, q before k
    before v.

    Attributes:
        module: Module path relative to the attention module (``q_proj``, ``self.query``).
        bias: Whether it has a bias, or the configuration attribute that decides.
        transposed: Stored ``(in, out)`` as in GPT-2's ``Conv1D`` instead of ``(out, in)``.
        norm: Module, relative to the attention module, of a norm between the map and what reads it
            (``q_norm``).
    """

    module: str
    bias: bool | str = False
    transposed: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class AttentionKind:
    """All attention blocks of one kind: one block a layer.

    Attributes:
        scope: Which tower the block is counted in.
        path: Module path with a ``{layer}`` field, below the family's prefix.
        layers: Configuration attribute with the number of layers.
        heads: Configuration attribute with the number of query heads.
        kv_heads: Configuration attribute with the number of key/value heads.
        width: Configuration attribute with the model width ``d_model``.
        head_dim: Configuration attribute with the head dimension; where it is absent or
            ``None``, ``width // heads``.
        between: What stands between projection and score or after it: ``rope``.
        unless: Configuration attribute with an entry a layer, and the entry of layers where nothing
            stands there.
        causal: Whether position i attends to positions <= i only.
    """

    scope: Scope
    path: str
    layers: str
    heads: str
    kv_heads: str
    width: str
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    head_dim: str = "head_dim"
    between: tuple[str, ...] = ()
    unless: tuple[str, object] | None = None
    causal: bool = False


@dataclass(frozen=True)
class StoredProjection:
    """A projection of one concrete block: tensor names and dense shapes.

    ``out_features`` and ``in_features`` are those of this map alone, before any surgery.
    """

    weight: str
    bias: str | None
    out_features: int
    in_features: int
    transposed: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class AttentionSite:
    """One attention block of one checkpoint.

    ``path`` is the attention module's path as the checkpoint spells it, the key of this
    site in ``config.json``'s ``surgery`` block. ``closed`` says by seam (``qk``, ``vo``) why it
    can only be left as it is; nothing else about the block asks.
    """

    path: str
    scope: Scope
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    between: tuple[str, ...]
    causal: bool
    q: StoredProjection
    k: StoredProjection
    v: StoredProjection
    o: StoredProjection
    closed: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    def projection(self, role: Role) -> StoredProjection:
        """Return the projection that plays ``role``."""
        return {"q": self.q, "k": self.k, "v": self.v, "o": self.o}[role]

    def fused(self, role: Role) -> tuple[Role, ...]:
        """Return the roles whose maps are in the same tensor as this one, itself too, in order."""
        weight = self.projection(role).weight
        return tuple(each for each in ROLES if self.projection(each).weight == weight)

    def tensors(self) -> tuple[str, ...]:
        """Names of every tensor of this block, fused ones once, in storage order."""
        names: dict[str, None] = {}
        for role in ROLES:
            projection = self.projection(role)
            names[projection.weight] = None
            if projection.bias is not None:
                names[projection.bias] = None
        return tuple(names)


@dataclass(frozen=True)
class Preset:
    """What the bare command prunes in a family, and why (shown in the report).

    Attributes:
        scope: Which attention blocks.
        pairs: Which pairs.
        fraction: Share of them that goes at most, by real input: less, where that harms more
            than the tool allows itself.
        reason: Why that much, as a phrase.
    """

    scope: Scope | Literal["all"]
    pairs: tuple[Literal["qk", "vo"], ...]
    fraction: float
    reason: str


@dataclass(frozen=True)
class Published:
    """Absolute thresholds on the weights' singular values that a paper gives for a family.

    Attributes:
        scope: Which attention blocks.
        threshold_qk: QK singular values at or below it go.
        threshold_vo: Likewise of VO.
        reason: Where they stand, as a phrase.
    """

    scope: Scope | Literal["all"]
    threshold_qk: float
    threshold_vo: float
    reason: str


@dataclass(frozen=True)
class ModelClass:
    """One of transformers' model classes of a family: the body, and what it has beside that.

    Names are below the checkpoint's prefix, or anywhere when they start with ``/``.

    Attributes:
        name: As ``architectures`` in config.json spells it.
        beside: Every tensor beside the body, with its shape.
        tied: Of them, those that need not be stored where ``tie_word_embeddings`` holds and the
            tensor that each is tied to is; or the other way about.
        without: Towers that it lacks.
        autos: The auto classes that transformers lists it under, a test compares; the first is
            its own. None: results of this class carry no code.
    """

    name: str
    beside: Mapping[str, Shape] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    autos: tuple[str, ...] = ()

    @property
    def predicts_next(self) -> bool:
        """Whether its head predicts the next token: of a text, or of what was said."""
        return not {CAUSAL, "AutoModelForSpeechSeq2Seq"}.isdisjoint(self.autos)


@dataclass(frozen=True)
class Architecture:
    """A model family.

    Attributes:
        model_type: ``config.json``'s ``model_type``.
        title: The family's name as people write it.
        input: What it hears, or reads.
        predicts: What its output layer is made for. Only families that predict the next token
            have a perplexity, or a word error rate; others are measured by their hidden states.
        pipeline: transformers' pipeline for most of its checkpoints, by which hubs list them.
        prefixes: Tensor-name prefixes a checkpoint of the family may carry; the first that
            occurs is the checkpoint's.
        attentions: Every kind of attention block.
        linears: Glob patterns (below the prefix) of MLP tensors, by role.
        tensors: Every tensor of the body that is not attention, to its shape; ``{layer}`` stands
            for each layer of the tower.
        untouched: Glob patterns (below the prefix, or anywhere when they start with ``/``)
            of tensors that no method touches.
        towers: Which scopes make up which tower, with the glob patterns of its tensors.
        convolutions: Glob patterns (below the prefix) of the encoder's convolution kernels, to how
            many outputs each computes for one position of the encoder.
        exports: The export targets that have a form for this family, to its name there. ``hf``
            and ``peft`` take every family; under ``hf`` stands another family whose classes run
            this one with values narrower than keys.
        preset: What the bare command prunes.
        classes: Its model classes, the usual one first. Where config.json names none of them, the
            tensors decide: the first that has what is stored.
        ignored: Glob patterns, as of ``untouched``, of tensors that files carry and that no
            loading misses: buffers of older releases, what only the pre-training needed.
        when: Configuration attributes that some of ``tensors`` and of what stands beside the
            body depend on.
        published: Thresholds that a paper gives for the family, to repeat it by.
        defaults: What the family's configuration means by a key that is absent.
        derived: Attributes that are told by others where they are absent or null, as ``a * b`` and
            the like (see :func:`surgery.architectures.config.value`).
        alternating: Attributes with an entry a layer, to what an absent list means: after how many
            layers the other entry comes (a number, or the key that holds it), the usual entry, and
            the other.
        score_scale: The attribute that says by what queries times keys are scaled; ``None``: by
            the inverse root of the head dimension.
        aliases: Keys of ``config.json`` that stand for the attribute names used here.
        closing: Configuration attributes that close a seam when they hold anything but the given
            harmless value: that value, the seam, and the reason.
        by_layer: Keys of its configurations that speak of single layers, to the tower and how: a
            ``list`` with an entry a layer; a ``bound``, the first layer that something holds for;
            ``pairs`` of a layer and something in it; ``number``: where it is set, layers compute
            with their own number, so that none may get another.
        undescribed: Those by which a model has parts that nothing here describes: the harmless
            value, and what is there otherwise.
    """

    model_type: str
    title: str
    input: Input
    predicts: Literal["next token", "masked token"]
    pipeline: str
    prefixes: tuple[str, ...]
    attentions: tuple[AttentionKind, ...]
    linears: Mapping[str, tuple[str, ...]]
    tensors: Mapping[str, Shape]
    untouched: tuple[str, ...]
    towers: Mapping[str, str]
    preset: Preset
    classes: tuple[ModelClass, ...] = ()
    ignored: tuple[str, ...] = ()
    when: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    alternating: Mapping[str, tuple[int | str, object, object]] = field(default_factory=dict)
    score_scale: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    published: Published | None = None
    closing: Mapping[str, tuple[object, str, str]] = field(default_factory=dict)
    undescribed: Mapping[str, tuple[object, str]] = field(default_factory=dict)
    by_layer: Mapping[str, tuple[Scope, LayerKey]] = field(default_factory=dict)
    convolutions: Mapping[str, int] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def auto_class(self) -> str:
        """The auto class that most of its checkpoints are used by."""
        usual = self.classes[:1] if self.predicts == "next token" else ()
        return next((one.autos[0] for one in usual), BASE)
