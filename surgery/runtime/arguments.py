"""What a model hands to its attention modules, read by the stock class's own signature.

Names of these arguments change between releases of transformers: until 5.23 the cache came as
``past_key_values``, since 5.24 as ``cache``. A module that expects the one and swallows the other
attends to the newest token alone, and nothing says so. So names are looked up in the signature of
the class that is replaced, and what is not understood is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import nn

from .errors import LoadError
from .releases import remedy, running

CACHE = "cache"
SPELLINGS = {"past_key_values": CACHE, "past_key_value": CACHE}
"""Names that an argument had in other releases."""

PASSED_ON = frozenset(
    {
        "cache_position",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "ignore_index",
        "is_causal",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "position_ids",
        "return_dict",
        "seq_idx",
        "shift_labels",
        "token_type_ids",
        "use_cache",
    }
)
"""Arguments of models that reach stock modules and change nothing in them, in any release."""


class Arguments:
    """Arguments of a stock attention class, and how ours takes them.

    Args:
        stock: The class whose module is replaced.
        taken: Names that our module computes with, as spelled here; the stock class must have
            them all.

    Raises:
        LoadError: It does not: this release of transformers is beyond this runtime.
    """

    def __init__(self, stock: type[nn.Module], taken: Sequence[str]) -> None:
        self._stock, self._taken = stock, frozenset(taken)
        parameters = list(inspect.signature(stock.forward).parameters.values())[1:]
        kinds = inspect.Parameter
        self._order = [
            SPELLINGS.get(each.name, each.name)
            for each in parameters
            if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        named = {
            *self._order,
            *(each.name for each in parameters if each.kind is kinds.KEYWORD_ONLY),
        }
        rest = next((each for each in parameters if each.kind is kinds.VAR_KEYWORD), None)
        self._passed_on = PASSED_ON if rest is None else PASSED_ON | _declared(rest.annotation)
        if missing := sorted(self._taken - named):
            raise LoadError(
                f"{stock.__name__} of this transformers takes arguments that this runtime does "
                "not know.",
                where=running(),
                found=", ".join(each.name for each in parameters),
                expected=f"among them {', '.join(missing)}",
                hint=remedy(),
            )

    def read(
        self, args: Sequence[Any], given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what our module computes with, and what goes on to the attention implementation.

        Args:
            args: As the model gave them by position.
            given: As the model gave them by name.

        Raises:
            LoadError: One is not known, or came twice.
        """
        if len(args) > len(self._order):
            raise self._refused(f"{len(args)} arguments by position", ", ".join(self._order))
        found = dict(zip(self._order, args, strict=False))
        for name, value in given.items():
            spelled = SPELLINGS.get(name, name)
            if found.get(spelled) is not None and value is not None:
                raise self._refused(f"{name} given twice", "one value")
            if spelled not in found or value is not None:
                found[spelled] = value
        taken = {name: value for name, value in found.items() if name in self._taken}
        passed = {}
        for name, value in found.items():
            if name in self._passed_on and name not in taken:
                passed[name] = value
            elif name not in taken and value is not None:
                raise self._refused(name, ", ".join(sorted(self._taken | self._passed_on)))
        return taken, passed

    def _refused(self, found: str, expected: str) -> LoadError:
        return LoadError(
            f"{self._stock.__name__} was given what this runtime does not know how to heed.",
            where=running(),
            found=found,
            expected=expected,
            hint=remedy(),
        )


def _declared(annotation: Any) -> frozenset[str]:
    """Return the names that ``**kwargs: Unpack[SomeTypedDict]`` admits; none where it says less."""
    return frozenset(
        name for each in get_args(annotation) for name in getattr(each, "__annotations__", ())
    )
