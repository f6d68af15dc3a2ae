"""Loss, penalty and steps are those of the formulas, whatever the micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import surgery
from surgery.choices.parts import PARTS, recipes
from surgery.runtime.linears import swap_linear
from surgery.training.penalty import Penalty, orthogonality_defect
from tests.engine.support import tensors_of
from tests.training.runs import LENGTH, save_model, tokenizer, tune, write_text

pytestmark = pytest.mark.usefixtures("quick")

BATCH, RATE, STEPS, CLIP = 8, 3e-3, 3, 1.0
WEIGHT = {"sorsa": 0.5, "hra": 0.02, "qgoft": 0.5}  # as strong as the task


def naive(method: str, parts: Mapping[str, Tensor]) -> Tensor:
    """What the papers add, before its weight, of a model's parts by name."""
    found = []
    for name, part in sorted(parts.items()):
        if name.endswith("sorsa_s"):
            continue
        if method == "qgoft":
            found += [(block[:, 0] @ block[:, 1]) ** 2 for block in part]
            continue
        columns = part.T if name.endswith("sorsa_vt") else part
        square = ((columns.T @ columns - torch.eye(columns.shape[1])) ** 2).sum()
        found.append(square.sqrt() if method == "sorsa" else square)
    total = torch.stack(found).sum()
    return total / len(found) if method == "sorsa" else total


def by_hand(base: Path, data: Path, method: str, weight: float) -> dict[str, Any]:
    """Three steps of Adam over all the text at once, in float64, clipped."""
    model: Any = surgery.load(base, dtype=torch.float64).requires_grad_(False)
    parts = {n: p.requires_grad_() for n, p in model.named_parameters() if f".{method}_" in n}
    rows = [line[10:-2] for line in data.read_text().splitlines()]
    ids = torch.tensor([[*tokenizer()(row)["input_ids"], 2] for row in rows])
    assert ids.shape == (BATCH, LENGTH)
    found: dict[str, Any] = {"loss": [], "penalty": []}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parts.items()}
    for step in range(1, STEPS + 1):
        scores = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        loss = -scores.gather(-1, ids[:, 1:, None]).mean()
        penalty = weight * naive(method, parts)
        found["loss"].append(loss.item())
        found["penalty"].append(penalty.item())
        gradients = torch.autograd.grad(loss + penalty, list(parts.values()))
        norm = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
        for (name, part), gradient in zip(parts.items(), gradients, strict=True):
            gradient = gradient * min(1.0, CLIP / (float(norm) + 1e-6))
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            mean, spread = first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt()
            with torch.no_grad():
                part -= RATE * mean / (spread + 1e-8)
    return {**found, "parts": {name: part.detach() for name, part in parts.items()}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases whose parts are far from orthonormal, so that the penalty's gradient is no noise."""
    folder = tmp_path_factory.mktemp("prepared")
    model = save_model("llama", folder / "model")
    write_text(folder / "text.jsonl", rows=BATCH)
    surgery.split(model, folder / "sorsa", rank=4, targets=["q", "up"])
    surgery.reparam(model, folder / "hra", method="hra", reflections=4)
    surgery.reparam(model, folder / "qgoft", method="qgoft", targets=["v"])
    torch.manual_seed(3)
    for method in WEIGHT:
        tensors = tensors_of(folder / method)
        for name in sorted(tensors):
            if f".{method}_" in name:
                tensors[name] += 0.1 * torch.randn(tensors[name].shape)
        save_file(tensors, folder / method / "model.safetensors", metadata={"format": "pt"})
    return folder


def run_of(prepared: Path, out: Path, method: str, **asked: Any) -> Any:
    data = prepared / "text.jsonl"
    return tune(prepared / method, out, data, **{"batch": BATCH, "learning_rate": RATE, **asked})


def distance(ours: Mapping[str, Tensor], other: Mapping[str, Tensor], start: Path) -> float:
    """How far apart two ends are, as a share of the way from the start."""
    assert ours.keys() == other.keys()
    begun = tensors_of(start)
    apart = sum(float((ours[n].double() - other[n].double()).square().sum()) for n in ours)
    way = sum(float((other[n].double() - begun[n].double()).square().sum()) for n in ours)
    return (apart / way) ** 0.5


# Adam divides a gradient by its own size. Where float32 (2^-24, some 100 sums deep) is off by
# 1e-5 of a usual gradient, entries below that may go the other way: one in 1e5, each as far as
# any, which is sqrt(1e-5) = 3e-3 of the way.
TOLERANCE = 1e-2


@pytest.mark.parametrize("method", WEIGHT)
def test_loss_penalty_and_steps_are_those_of_the_formulas(
    method: str, prepared: Path, tmp_path: Path
) -> None:
    weight = WEIGHT[method]
    expected = by_hand(prepared / method, prepared / "text.jsonl", method, weight)
    report = run_of(prepared, tmp_path / "out", method, penalty=weight, micro_batch=4)
    steps = report.tuning.steps
    assert [step.loss for step in steps] == pytest.approx(expected["loss"], rel=1e-4)
    assert [step.penalty for step in steps] == pytest.approx(expected["penalty"], rel=1e-4)
    assert report.tuning.penalty == f"{weight:g} · {PARTS[method].penalty}"
    tuned = tensors_of(tmp_path / "out")
    assert distance(tuned, expected["parts"], prepared / method) < TOLERANCE
    # It is not lost among the task's gradients.
    without = by_hand(prepared / method, prepared / "text.jsonl", method, 0.0)
    assert distance(tuned, without["parts"], prepared / method) > 10 * TOLERANCE


def test_the_penalty_counts_once_a_step_whatever_the_micro_batches(
    prepared: Path, tmp_path: Path
) -> None:
    ends, told = [], []
    for micro in (1, 2, 4, 8):
        report = run_of(prepared, tmp_path / str(micro), "sorsa", penalty=0.5, micro_batch=micro)
        ends.append(tensors_of(tmp_path / str(micro)))
        told.append([step.penalty for step in report.tuning.steps])
    for end, penalties in zip(ends[1:], told[1:], strict=True):
        assert distance(end, ends[0], prepared / "sorsa") < TOLERANCE
        assert penalties == pytest.approx(told[0], rel=1e-4)


def linear(method: str, entry: dict[str, Any], **parts: Tensor) -> Any:
    """One map with such parts."""
    model = nn.Sequential(nn.Linear(6, 6))
    swap_linear(model, "0", method, entry)
    with torch.no_grad():
        for name, part in model[0].parts().items():  # type: ignore[operator, union-attr]
            part.copy_(parts[name])
    return model[0]


def test_sorsas_unsquared_norm_has_a_finite_gradient_at_the_start() -> None:
    eye = torch.eye(6)[:, :3]
    one = linear(
        "sorsa", {"rank": 3, "scale": 1.0}, sorsa_u=eye, sorsa_s=torch.ones(3), sorsa_vt=eye.T
    )
    penalty = Penalty("sorsa", [one, one], 4e-4)()
    assert penalty.item() == 0.0
    penalty.backward()
    assert one.sorsa_u.grad is not None
    assert bool(torch.isfinite(one.sorsa_u.grad).all())


def test_penalties_are_means_and_sums_over_all_maps() -> None:
    torch.manual_seed(0)
    entries: dict[str, dict[str, Any]] = {
        "sorsa": {"rank": 3, "scale": 1.0},
        "hra": {"reflections": 4},
        "qgoft": {},
    }
    shapes = {
        "sorsa": {"sorsa_u": (6, 3), "sorsa_s": (3,), "sorsa_vt": (3, 6)},
        "hra": {"hra_u": (6, 4)},
        "qgoft": {"qgoft_blocks": (5, 2, 2)},
    }
    for method, entry in entries.items():
        drawn = [{n: torch.randn(s) for n, s in shapes[method].items()} for _ in range(3)]
        maps = [linear(method, entry, **parts) for parts in drawn]
        named = {f"{at}.{n}": p for at, parts in enumerate(drawn) for n, p in parts.items()}
        assert Penalty(method, maps, 0.3)().item() == pytest.approx(
            0.3 * float(naive(method, named)), rel=1e-5
        )


def test_the_defect_is_the_largest_departure_from_orthonormal() -> None:
    u, v = torch.eye(6)[:, :2], 2 * torch.eye(6)[:, :2]
    # VᵀV − I = 3 I of two columns.
    found = orthogonality_defect("sorsa", {"sorsa_u": u, "sorsa_vt": v.T})
    assert found == pytest.approx(3 * 2**0.5)
    # Two equal columns, as HRA begins: UᵀU is all ones.
    found = orthogonality_defect("hra", {"hra_u": torch.eye(6)[:, [0, 0]]})
    assert found == pytest.approx(2**0.5)
    blocks = torch.stack([torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])])
    assert orthogonality_defect("qgoft", {"qgoft_blocks": blocks}) == pytest.approx(0.5)
    for method in ("pissa", "goft", "core", "diagonal"):
        assert orthogonality_defect(method, {}) is None


def test_recipes_are_the_published_numbers() -> None:
    # theory of each method's section on LLaMA-2-7B: rate, schedule, warm-up, batch, epochs.
    published = {
        "clover": (1e-4, "linear", 100, 16, 3, None),
        "sorsa": (3e-5, "cosine", 0.03, 128, 1, 4e-4),
        "hra": (3e-5, "cosine", 0.005, None, None, 1e-4),
        "goft": (1e-4, None, None, 64, None, None),
        "qgoft": (1e-4, None, None, 64, None, 0.01),
    }
    for name, numbers in published.items():
        one = recipes()[name]
        ours = (one.learning_rate, one.schedule, one.warmup, one.batch, one.epochs, one.penalty)
        for found, said in zip(ours[:-1], numbers[:-1], strict=True):
            assert said is None or found == said, name
            assert said is not None or "ours" in one.source  # what no paper says is called ours
        assert one.penalty == numbers[-1]
