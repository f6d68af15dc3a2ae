"""What every family's restructured attention shares: its widths, its cache form, its kernel call.

A restructured module subclasses the family's own attention class, so that transformers' output
recording and weight initialisation recognise it, and replaces its projections by narrower ones.
Notation: B batch, T query length, S key length, H query heads, G key/value heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .arguments import Arguments
from .errors import LoadError
from .groups import ExecutedWidths, HeadGroups, executed_widths
from .heads import HeadLayout
from .steps import TokenStep

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


class RestructuredAttention:
    """Behaviour of an attention module whose heads keep only their ranks.

    Attributes:
        layout: Ranks of the block.
        TAKES: Arguments of the stock class's ``forward`` that :meth:`_run` computes with.
    """

    layout: HeadLayout
    TAKES: ClassVar[tuple[str, ...]]
    _run: Callable[..., tuple[Tensor, Tensor | None]]
    """The family's own: takes :attr:`TAKES` by name, and ``passed_on`` for the implementation."""

    def _arrange(self, dense: nn.Module, layout: HeadLayout) -> None:
        """Keep the ranks, what is chosen once by them, and how the stock module is called.

        Raises:
            LoadError: This release of transformers calls it as this runtime does not know.
        """
        self._arguments = Arguments(type(dense), self.TAKES)
        self.layout = layout
        self._groups = HeadGroups(layout)
        self._step = TokenStep(layout)
        # Where all ranks of a block are one, the implementation's own kernel has nothing to pad.
        self._steps = {*layout.ranks.qk} != {*layout.ranks.vo} or not layout.uniform

    def forward(self, *args: Any, **given: Any) -> tuple[Tensor, Tensor | None]:
        """Attend, called as the stock module is called.

        Raises:
            LoadError: An argument is not known, and nobody can say what leaving it out would do.
        """
        taken, passed_on = self._arguments.read(args, given)
        return self._run(**taken, passed_on=passed_on)

    @property
    def executed_widths(self) -> tuple[ExecutedWidths, ...]:
        """Widths each key/value head runs at over a sequence, padding included."""
        return executed_widths(self.layout.ranks, fused=not self._implementation.endswith("eager"))

    @property
    def _implementation(self) -> str:
        return self.config._attn_implementation or "eager"  # type: ignore[attr-defined]  # family's

    def _packed(self, query: Tensor) -> Tensor:
        """Bring packed queries ``(B, T, sum of ranks)`` into the form that keys are cached in."""
        return self.layout.queries.unpack(query) if self.layout.uniform else query.unsqueeze(1)

    def _to_cache(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Bring packed keys ``(B, S, sum of ranks)``, and values, into the form the cache holds.

        A uniform block is cached as ``(B, G, S, rank)``. A ragged one stays packed, as one
        "head" of ``(B, 1, S, sum of ranks)``, so that no cache ever holds padding. Both tensors
        take the same form: a static cache has one head count for the two.
        """
        if self.layout.uniform:
            return self.layout.keys.unpack(key), self.layout.values.unpack(value)
        return key.unsqueeze(1), value.unsqueeze(1)

    def _cached(self: Any, cache: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of self-attention with those that are cached before them."""
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        return (key, value) if cache is None else cache.update(key, value, self.layer_idx)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        eager: AttentionFunction,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the attention implementation that the model's configuration names.

        Args:
            query: In the form of the keys: ``(B, H, T, rank)`` or ``(B, 1, T, sum of ranks)``.
            key: As the cache holds it, see :meth:`_to_cache`.
            value: As the cache holds it.
            attention_mask: Mask in the form that the implementation expects.
            eager: The family's own eager attention.
            **kwargs: Passed on to the implementation (scaling, dropout, window, ...).

        Returns:
            Contexts packed as o's input ``(B, T, sum over query heads of v ranks)``, and the
            attention weights ``(B, H, T, S)`` where the implementation gives them.
        """
        name = self._implementation
        attend = cast(AttentionFunction, ALL_ATTENTION_FUNCTIONS.get_interface(name, eager))
        bare = all(kwargs.get(one) is None for one in ("cache", "softcap"))
        plain = bare and not kwargs.get("dropout")
        token = plain and query.shape[2] == 1
        if name.endswith("eager"):
            if token and not self.layout.uniform:
                return self._step(query, key, value, attention_mask, kwargs["scaling"])
            if not self.layout.uniform:
                query = self.layout.queries.unpack(query.squeeze(1))
                key = self.layout.keys.unpack(key.squeeze(1))
                value = self.layout.values.unpack(value.squeeze(1))
            context, weights = attend(self, query, key, value, attention_mask, **kwargs)
            return self.layout.contexts.pack(context), weights

        if token and name == "sdpa" and self._steps:
            return self._step(query, key, value, attention_mask, kwargs["scaling"])[0], None

        groups = self._groups
        results = [
            attend(self, *group, groups.mask(attention_mask, number), **kwargs)
            for number, group in enumerate(groups.lay_out(query, key, value))
        ]
        contexts, given = zip(*results, strict=True)
        return groups.pack(contexts), groups.order(given)


def resized(
    linear: nn.Linear, *, inputs: int | None = None, outputs: int | None = None
) -> nn.Linear:
    """Return an unloaded linear map like ``linear`` with other widths."""
    made = type(linear)(1, 1, bias=linear.bias is not None)
    made.in_features = linear.in_features if inputs is None else inputs
    made.out_features = linear.out_features if outputs is None else outputs
    # Made here, for torch warns of what has no rows or columns when it initialises it.
    like = linear.weight
    made.weight = nn.Parameter(like.new_zeros(made.out_features, made.in_features))
    if linear.bias is not None:
        made.bias = nn.Parameter(like.new_zeros(made.out_features))
    return made


def dense_module(model: nn.Module, path: str, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """Return the module at ``path``, which must be one of ``kinds`` (exactly, not a subclass).

    Raises:
        LoadError: If another kind of module is there.
    """
    module = model.get_submodule(path)
    if type(module) not in kinds:
        raise LoadError(
            "The surgery block names a module that this runtime cannot restructure.",
            where=path,
            found=type(module).__name__,
            expected=" or ".join(kind.__name__ for kind in kinds),
        )
    return module


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` in the place of the one at ``path``."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
