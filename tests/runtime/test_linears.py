"""Linear maps with small trainable parts: every method, on both kinds of map."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from surgery.runtime import LoadError
from surgery.runtime.linears import COUNTERPARTS, PartedLinear, swap_linear
from surgery.runtime.lowrank import add_lowrank
from surgery.runtime.parts import FLOAT32_PARTS, LINEAR_METHODS, merged_weight, part_shapes
from tests.runtime.memory import largest_tensor
from tests.runtime.oracles import reflections, rotations, tree

ENTRIES: dict[str, dict[str, Any]] = {
    "sorsa": {"rank": 3, "scale": 1.5},
    "pissa": {"rank": 3, "scale": 2},
    "hra": {"reflections": 4},
    "goft": {},
    "qgoft": {},
    "core": {"blocks": [2, 3], "offset": 1},
    "diagonal": {"blocks": [2, 4], "offset": 0, "shared": 2},
}
IN, OUT = 11, 6
METHODS = pytest.mark.parametrize("method", ENTRIES)
KINDS = pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def make(kind: type[nn.Module], into: int = IN, out: int = OUT) -> nn.Sequential:
    """A model of one map, with a bias that is not zero."""
    linear: Any = nn.Linear(into, out) if kind is nn.Linear else Conv1D(out, into)
    nn.init.normal_(linear.bias)
    return nn.Sequential(linear)


def swapped(
    method: str, kind: type[nn.Module], *, random: bool = True, dtype: torch.dtype = torch.float32
) -> Any:
    """The map with parts: random ones, or those it is made with."""
    model = make(kind).to(dtype)
    swap_linear(model, "0", method, ENTRIES[method])
    linear: Any = model[0]
    if random:
        for part in linear.parts().values():
            nn.init.normal_(part)
    return linear


def dense(linear: Any) -> Tensor:
    """The weight ``(out, in)`` that the map stands for, in float64, by explicit products."""
    weight = linear.weight.detach().double()
    weight = weight.T if isinstance(linear, Conv1D) else weight
    parts = {name: part.detach().double() for name, part in linear.parts().items()}
    scale = linear.entry.get("scale")
    match linear.method:
        case "sorsa":
            low = parts["sorsa_u"] @ parts["sorsa_s"].diag() @ parts["sorsa_vt"]
            return weight + scale * low
        case "pissa":
            return weight + scale * parts["pissa_b"] @ parts["pissa_a"]
        case "hra":
            return weight @ reflections(parts["hra_u"])
        case "goft":
            return weight @ rotations(parts["goft_angles"]).T
        case "qgoft":
            return weight @ tree(parts["qgoft_blocks"]).T
        case _:
            return behind(linear.method, linear.entry, parts) @ weight


def behind(method: str, entry: dict[str, Any], parts: dict[str, Tensor]) -> Tensor:
    """The dense ``(out, out)`` matrix behind the map, in float64."""
    matrix, row, taken = torch.eye(OUT, dtype=torch.float64), entry["offset"], 0
    flat = parts["core_blocks" if method == "core" else "singular_values"].detach().double()
    for size in entry["blocks"]:
        for i in range(size):
            if method == "core":
                for j in range(size):
                    matrix[row + i, row + j] = flat[taken + i * size + j]
            else:
                matrix[row + i, row + i] = flat[taken + i % (size // entry["shared"])]
        taken += size * size if method == "core" else size // entry["shared"]
        row += size
    assert taken == len(flat)
    return matrix


def shift(linear: Any) -> Tensor:
    """The bias that the map stands for, in float64."""
    bias: Tensor = linear.bias.detach().double()
    if linear.method in ("core", "diagonal"):
        return behind(linear.method, linear.entry, linear.parts()) @ bias
    return bias


@KINDS
@METHODS
def test_a_map_with_blank_parts_computes_what_it_did(method: str, kind: type[nn.Module]) -> None:
    model, x = make(kind), torch.randn(2, 5, IN)
    before = model(x)

    swap_linear(model, "0", method, ENTRIES[method])

    assert torch.equal(model(x), before)


@KINDS
@METHODS
@pytest.mark.parametrize("shape", [(2, 5, IN), (7, IN), (0, IN)])
def test_a_map_computes_what_its_explicit_weight_does(
    method: str, kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    linear = swapped(method, kind).double()
    x = torch.randn(shape, dtype=torch.float64)

    expected = x @ dense(linear).T + shift(linear)

    torch.testing.assert_close(linear(x), expected, rtol=1e-11, atol=1e-11)


@KINDS
@METHODS
def test_the_merged_weight_is_the_explicit_one_in_the_stored_orientation(
    method: str, kind: type[nn.Module]
) -> None:
    linear = swapped(method, kind, dtype=torch.bfloat16)

    merged = linear.merged()

    assert merged.shape == linear.weight.shape
    assert merged.dtype == torch.float64
    assert merged.is_contiguous() and not merged.requires_grad
    expected = dense(linear).T if kind is Conv1D else dense(linear)
    torch.testing.assert_close(merged, expected, rtol=1e-12, atol=1e-12)
    bias = linear.merged_bias()
    assert bias.dtype == torch.float64 and not bias.requires_grad
    torch.testing.assert_close(bias, shift(linear), rtol=1e-12, atol=1e-12)


@KINDS
@METHODS
def test_every_gradient_is_that_of_finite_differences(method: str, kind: type[nn.Module]) -> None:
    linear = swapped(method, kind).double()
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    named = linear.parts()

    def forward(x: Tensor, *parts: Tensor) -> Tensor:
        given = dict(zip(named, parts, strict=True))
        result: Tensor = torch.func.functional_call(linear, given, (x,))
        return result

    linear.weight.requires_grad_(False)
    assert torch.autograd.gradcheck(forward, (x, *named.values()))


@KINDS
@METHODS
def test_float32_results_are_off_by_a_few_roundings(method: str, kind: type[nn.Module]) -> None:
    linear = swapped(method, kind)
    x = torch.randn(50, IN)

    found = linear(x).double()

    truth = x.double() @ dense(linear).T + shift(linear)
    scale = x.double().norm(dim=1, keepdim=True) * dense(linear).norm() + shift(linear).norm()
    assert ((found - truth).abs() <= 64 * torch.finfo(torch.float32).eps * scale).all()


@HALVES
@KINDS
@METHODS
def test_sixteen_bit_results_are_as_good_as_the_merged_maps(
    method: str, kind: type[nn.Module], half: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear = swapped(method, kind, dtype=half)
    merged = make(kind)[0]
    merged.weight.data = linear.merged().to(half)
    merged.bias.data = linear.merged_bias().to(half)
    x = torch.randn(300, IN).to(half)
    truth = x.double() @ dense(linear).T + shift(linear)

    ours = (linear(x).double() - truth).norm() / truth.norm()
    plain = (merged(x).double() - truth).norm() / truth.norm()

    assert linear(x).dtype == half
    # A merged map rounds weight and result; ours rounds activations or the frozen map's result.
    assert ours <= 3 * plain


@KINDS
@METHODS
def test_parts_stay_float32_beside_a_sixteen_bit_weight(method: str, kind: type[nn.Module]) -> None:
    linear = swapped(method, kind, dtype=torch.bfloat16)

    assert {part.dtype for part in linear.parts().values()} == {torch.float32}
    assert linear.weight.dtype == torch.bfloat16
    linear(torch.randn(3, IN, dtype=torch.bfloat16)).sum().backward()
    for part in linear.parts().values():
        assert part.grad.dtype == torch.float32 and part.grad.isfinite().all()


@METHODS
def test_under_autocast_only_the_frozen_product_is_in_sixteen_bits(method: str) -> None:
    linear = swapped(method, nn.Linear)
    x = torch.randn(40, IN)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear(x)
        plain = nn.functional.linear(x, linear.weight)

    assert found.dtype == plain.dtype == torch.bfloat16
    truth = x.double() @ dense(linear).T + shift(linear)
    assert (found.double() - truth).norm() <= 2e-2 * truth.norm()


@KINDS
@METHODS
def test_names_and_shapes_are_those_of_the_table(method: str, kind: type[nn.Module]) -> None:
    linear = swapped(method, kind)

    shapes = part_shapes(method, ENTRIES[method], OUT, IN)

    found = {name: tuple(value.shape) for name, value in linear.state_dict().items()}
    stored = (IN, OUT) if kind is Conv1D else (OUT, IN)
    assert found == {"weight": stored, "bias": (OUT,), **shapes}
    assert tuple(shapes) == LINEAR_METHODS[method].parts == tuple(linear.parts())


def test_every_part_is_named_once() -> None:
    assert len(set(FLOAT32_PARTS)) == len(FLOAT32_PARTS)
    assert COUNTERPARTS.keys() == LINEAR_METHODS.keys()


@KINDS
@METHODS
def test_copies_and_pickles_are_the_same_map(method: str, kind: type[nn.Module]) -> None:
    linear = swapped(method, kind)
    x = torch.randn(4, IN)
    saved = io.BytesIO()
    torch.save(linear, saved)
    saved.seek(0)

    for same in (
        copy.deepcopy(linear),
        pickle.loads(pickle.dumps(linear)),
        torch.load(saved, weights_only=False),
    ):
        assert type(same) is type(linear)
        assert (same.method, same.entry) == (linear.method, linear.entry)
        assert same.parts().keys() == linear.parts().keys()
        assert torch.equal(same(x), linear(x))


@KINDS
@METHODS
def test_it_is_the_same_module_with_its_weight_hooks_and_class(
    method: str, kind: type[nn.Module]
) -> None:
    model = make(kind)
    module, weight, bias = model[0], model[0].weight, model[0].bias
    seen = []
    module.register_forward_hook(lambda *_: seen.append("called"))

    swap_linear(model, "0", method, ENTRIES[method])
    model(torch.randn(1, IN))

    linear: Any = model[0]
    assert linear is module and linear.weight is weight and linear.bias is bias
    assert isinstance(linear, kind) and isinstance(linear, PartedLinear)
    assert type(linear) is COUNTERPARTS[method][kind is Conv1D]
    assert seen == ["called"]


@METHODS
def test_a_map_without_bias_works(method: str) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT, bias=False))
    swap_linear(model, "0", method, ENTRIES[method])

    assert model(torch.randn(2, IN)).shape == (2, OUT)
    linear: Any = model[0]
    assert linear.merged_bias() is None


@KINDS
@METHODS
def test_it_can_be_made_without_data(method: str, kind: type[nn.Module]) -> None:
    model = make(kind).to("meta", torch.bfloat16)

    swap_linear(model, "0", method, ENTRIES[method])

    linear: Any = model[0]
    parts = linear.parts().values()
    assert {(part.device.type, part.dtype) for part in parts} == {("meta", torch.float32)}
    assert model(torch.empty(2, IN, device="meta", dtype=torch.bfloat16)).shape == (2, OUT)


@METHODS
def test_a_map_of_one_input_works(method: str) -> None:
    entry = {**ENTRIES[method], **({"rank": 1} if "rank" in ENTRIES[method] else {})}
    model = nn.Sequential(nn.Linear(1, OUT))
    x = torch.randn(4, 1)
    before = model(x)

    swap_linear(model, "0", method, entry)

    assert torch.equal(model(x), before)
    model(x).sum().backward()


@pytest.mark.parametrize("grouping", ["frozen", "trained"])
def test_the_low_rank_map_is_never_multiplied_out(grouping: str) -> None:
    base, x = torch.randn(2, 256), torch.randn(2, 256, requires_grad=True)
    down, up = torch.randn(3, 256), torch.randn(256, 3)
    for part in (down, up):
        part.requires_grad_(grouping == "trained")

    largest = largest_tensor(lambda: add_lowrank(base, x, down, up, 1.5).sum().backward())

    assert largest <= 256 * 3


def test_sorsas_penalty_is_the_mean_of_its_two_defects() -> None:
    linear = swapped("sorsa", nn.Linear)
    u, v = linear.sorsa_u.double(), linear.sorsa_vt.double().T

    defects = [torch.linalg.norm(c.T @ c - torch.eye(3)) for c in (u, v)]

    torch.testing.assert_close(linear.penalty().double(), sum(defects) / 2)


def test_hras_penalty_is_squared_unless_asked() -> None:
    linear = swapped("hra", nn.Linear)

    torch.testing.assert_close(linear.penalty(), linear.penalty(squared=False).square())


def test_only_free_blocks_need_a_penalty_among_trees_and_low_ranks() -> None:
    assert swapped("goft", nn.Linear).penalty() is None
    assert swapped("pissa", nn.Linear).penalty() is None
    assert swapped("qgoft", nn.Linear).penalty() > 0
    assert swapped("qgoft", nn.Linear, random=False).penalty() == 0


class Narrow(nn.Linear):
    """A subclass: it may compute anything."""


@pytest.mark.parametrize(
    "module", [lambda: nn.LayerNorm(IN), lambda: Narrow(IN, OUT), lambda: nn.Embedding(OUT, IN)]
)
def test_only_plain_maps_are_taken(module: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(module())

    with pytest.raises(LoadError) as raised:
        swap_linear(model, "0", "goft", {})

    assert raised.value.where == "0"
    assert raised.value.expected == "Linear or Conv1D"


def test_a_map_that_already_has_parts_is_not_taken_again() -> None:
    model = nn.Sequential(swapped("goft", nn.Linear))

    with pytest.raises(LoadError, match="GoftLinear"):
        swap_linear(model, "0", "hra", ENTRIES["hra"])


def test_a_map_whose_forward_was_replaced_is_not_taken() -> None:
    model = make(nn.Linear)
    linear: Any = model[0]
    linear.forward = lambda x: x

    with pytest.raises(LoadError, match="replaced"):
        swap_linear(model, "0", "goft", {})


def test_a_rank_beyond_the_weights_is_refused_by_name() -> None:
    with pytest.raises(LoadError) as raised:
        swap_linear(make(nn.Linear), "0", "sorsa", {"rank": 7, "scale": 1})

    assert (raised.value.where, raised.value.found) == ("0", "rank 7")


@METHODS
def test_parts_that_do_not_fit_cannot_be_merged(method: str) -> None:
    weight = torch.randn(OUT, IN)
    name, shape = next(iter(part_shapes(method, ENTRIES[method], OUT, IN).items()))

    for parts in ({}, {name: torch.zeros(*shape, 1)}):
        with pytest.raises(LoadError) as raised:
            merged_weight(method, ENTRIES[method], weight, parts)
        assert raised.value.where == name
