"""Write ``core`` and ``diagonal``: heads factored, cast once, their trainable parts beside them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.architectures.base import Role
from surgery.checkpoint.validate import check_finite
from surgery.engine.parts.factor_plan import FactorPlan, FactorSite
from surgery.engine.parts.linear_reporting import Facts
from surgery.engine.parts.parts_surgery import PartsSurgery
from surgery.linalg import product_error
from surgery.methods import (
    AttentionWeights,
    Behind,
    Form,
    factor_queries_keys,
    factor_rotary_keys,
    factor_rows,
    factor_values_outputs,
    prepare,
)
from surgery.runtime.parts import merged_bias, merged_weight
from surgery.stored.pack import kept_rows, read_site, write_site
from surgery.stored.stream import Computed, cast


class Factor(PartsSurgery):
    """Heads and rows of one checkpoint about to be factored.

    Args:
        plan: The checked plan.
    """

    def __init__(self, plan: FactorPlan) -> None:
        super().__init__()
        self._plan = plan

    @property
    def plan(self) -> FactorPlan:
        """The checked plan."""
        return self._plan

    def blocks(self) -> dict[str, str]:
        """Return which attention block or map each computed tensor belongs to."""
        found: dict[str, str] = {}
        for path, each in self.plan.sites.items():
            found |= dict.fromkeys(each.site.tensors(), path)
        for path in self.plan.rows:
            found |= dict.fromkeys(self._tensors(path), path)
        for one in self.plan.maps:
            found |= dict.fromkeys(self.plan.part_names(one), found[one.weight])
        return found

    def compute(self, block: str) -> Computed:
        """Factor one attention block, or one map."""
        each = self.plan.sites.get(block)
        names = each.site.tensors() if each is not None else self._tensors(block)
        for name in names:
            check_finite(name, self.source.tensor(name))
        computed = self._rows(block) if each is None else self._site(each)
        for name in names:
            self.source.release(name)
        return computed

    def _tensors(self, path: str) -> list[str]:
        """Return weight and, where there is one, bias of a map."""
        both = (self.plan.stored.maps[path].weight, f"{path}.bias")
        return [name for name in both if name in self.source.infos]

    def _site(self, each: FactorSite) -> Computed:
        old = read_site(self.source.tensor, each.site, each.ranks)
        weights, behind = factor_site(old, each, self.plan.form)
        tensors = self._cast(write_site(weights, each.site, each.ranks))
        joined: dict[str, Behind] = {}
        for role, found in behind.items():
            path = each.site.projection(role).weight.removesuffix(".weight")
            joined[path] = joined[path].join(found) if path in joined else found
        for path, found in joined.items():
            tensors |= {f"{path}.{part}": value for part, value in found.parts().items()}
        new = read_site(lambda name: self._merged(name, tensors), each.site, each.ranks)
        errors: dict[str, float] = {}
        for role, error in site_errors(each, old, new).items():
            path = each.site.projection(role).weight.removesuffix(".weight")
            errors[path] = max(errors.get(path, 0.0), error)
        facts = {path: _facts(found, errors[path]) for path, found in joined.items()}
        return Computed(tensors, facts)

    def _rows(self, path: str) -> Computed:
        one = self.plan.stored.maps[path]
        names = self._tensors(path)

        def beside(tensor: dict[str, Tensor]) -> Tensor:
            """[W | b] in float64."""
            weight = tensor[one.weight].double()
            rows = [weight.T if one.transposed else weight]
            return torch.cat([*rows, *(tensor[name].double()[:, None] for name in names[1:])], 1)

        original = beside({name: self.source.tensor(name) for name in names})
        frozen, behind = factor_rows(original, self.plan.rows[path])
        weight = frozen[:, : one.in_features]
        values = {one.weight: weight.T if one.transposed else weight}
        values |= dict.fromkeys(names[1:], frozen[:, -1])
        tensors = self._cast(values)
        tensors |= {f"{path}.{part}": value for part, value in behind.parts().items()}
        merged = beside({name: self._merged(name, tensors) for name in names})
        error = _relative(merged - original, original)
        return Computed(tensors, {path: _facts(behind, error)})

    def _cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Round once, in the layout that is written."""
        return {
            name: cast(name, tensor, self.plan.output_dtype(name)).contiguous()
            for name, tensor in tensors.items()
        }

    def _merged(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a tensor as it is written, with what stands behind its map merged in."""
        path, _, kind = name.rpartition(".")
        tensor = tensors[name].double()
        if path not in self.plan.entries:
            return tensor
        one, entry = self.plan.stored.maps[path], self.plan.entries[path]
        parts = {part.removeprefix(f"{path}."): tensors[part] for part in self.plan.part_names(one)}
        if kind == "bias":
            return merged_bias(self.plan.form, entry, tensor, parts)
        weight = merged_weight(self.plan.form, entry, tensor.T if one.transposed else tensor, parts)
        return weight.T if one.transposed else weight


def factor_site(
    weights: AttentionWeights, each: FactorSite, form: Form
) -> tuple[AttentionWeights, dict[Role, Behind]]:
    """Factor the chosen pairs of one block.

    Args:
        weights: As stored, in float64; zero rows where vectors were cut.
        each: What is chosen.
        form: What is trained.

    Returns:
        The new weights, and what stands behind keys and values.
    """
    behind: dict[Role, Behind] = {}
    weights = prepare(weights, qk=each.qk and not each.rotary, vo=each.vo)
    if each.qk and each.rotary:
        kept = kept_rows(each.site, each.ranks, "k")
        weights, behind["k"] = factor_rotary_keys(weights, kept, form)
    elif each.qk:
        weights, behind["k"] = factor_queries_keys(weights, each.ranks.qk, form)
    if each.vo:
        weights, behind["v"] = factor_values_outputs(weights, each.ranks.vo, form)
    return weights, behind


def site_errors(
    each: FactorSite, old: AttentionWeights, new: AttentionWeights
) -> dict[Role, float]:
    """Return the worst head's relative error behind keys and behind values, all parts merged.

    Of the product with queries or outputs; of the keys themselves where queries stay.
    """
    old, new = (prepare(w, qk=each.qk and not each.rotary, vo=each.vo) for w in (old, new))
    errors: dict[Role, float] = {}
    if each.qk and each.rotary:
        before, after = old.qk_factors()[1], new.qk_factors()[1]
        errors["k"] = max(_relative(b - a, a) for a, b in zip(before, after, strict=True))
    elif each.qk:
        errors["k"] = float(product_error(*old.qk_factors(), *new.qk_factors()).max())
    if each.vo:
        errors["v"] = float(product_error(*old.vo_factors(), *new.vo_factors()).max())
    return errors


def _facts(behind: Behind, error: float) -> Facts:
    return {
        "spectrum": behind.spectrum().tolist(),
        "captured": None,
        "shortfall": None,
        "defect": behind.defect,
        "start_error": error,
    }


def _relative(difference: Tensor, reference: Tensor) -> float:
    norm = float(torch.linalg.matrix_norm(reference))
    return float(torch.linalg.matrix_norm(difference)) / (norm or 1.0)
