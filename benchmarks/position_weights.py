"""Should a position whose neurons are enormous count like any other when blocks are fitted?

    python benchmarks/position_weights.py MODEL --calibrate TEXT --test TEXT [--ridge [.001 .01]]

In a LLaMA one position, mostly the first, may hold nearly all energy of a block's neurons
(massive activations, arXiv 2402.17762). First it is printed how much: of each block's energy, and
of what the output minds (the squared gradient of a drawn token's log-likelihood at the block's
output). Then every block loses an eighth of its neurons by moments in which positions count

    plain   1
    cap K   min(1, K m / e), e being the energy of a position and m its median
    unit    m / e

and the divergence from the whole model on TEXT and the rise of log-perplexity are printed.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from surgery.methods.neuron_refit import narrow
from surgery.methods.neurons import NeuronMoments, eliminate

WINDOW = 512
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": torch.ones_like,
    "cap 16": lambda energy: (16 * energy.median() / energy).clamp_max(1),
    "cap 4": lambda energy: (4 * energy.median() / energy).clamp_max(1),
    "unit": lambda energy: energy.median() / energy,
}


def main() -> None:
    """Parse, watch, cut, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--ridge", type=float, nargs="*", default=[0.001, 0.01])
    parser.add_argument("--tokens", type=int, default=16384)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    fit = _windows(tokenizer, asked.calibrate, asked.tokens)
    shares(model, fit[: 2048 // WINDOW])
    if asked.ridge:  # `--ridge` alone: only the shares
        prices(model, fit, _windows(tokenizer, asked.test, 4096), asked.ridge)


def _windows(tokenizer: Any, path: Path, tokens: int) -> Tensor:
    ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    rows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), tokens // WINDOW)).long()]


def shares(model: Any, rows: Tensor) -> None:
    """Print what the first position of a window holds of each block."""
    torch.manual_seed(0)
    seen: list[tuple[Tensor, Tensor]] = []

    def hear(_: Any, given: tuple[Tensor], out: Tensor) -> None:
        out.retain_grad()
        seen.append((given[0].detach().square().sum(-1), out))

    hooks = [layer.mlp.down_proj.register_forward_hook(hear) for layer in model.model.layers]
    for one in model.parameters():
        one.requires_grad_(False)
    logits = model(inputs_embeds=model.get_input_embeddings()(rows).requires_grad_()).logits
    drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
    logits.log_softmax(-1).gather(-1, drawn[..., None]).sum().backward()
    print(f"First of {WINDOW} positions: share of a block's energy, and of what the output minds")
    for number, (energy, out) in enumerate(seen):
        minds = out.grad.square().sum(-1)  # type: ignore[union-attr]  # retained above
        told = [float(each[:, 0].sum() / each.sum()) for each in (energy, minds)]
        print(f"{number:3d}  {told[0]:7.2%}  {told[1]:7.2%}", flush=True)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def prices(model: Any, fit: Tensor, test: Tensor, ridges: list[float]) -> None:
    """Print what a cut by each kind of moments costs."""
    before = model(test).logits[:, :-1].log_softmax(-1)
    layers = list(model.model.layers)
    moments = {way: list(_moments(model, fit, counted)) for way, counted in WAYS.items()}
    whole = [{name: p.data for name, p in layer.mlp.named_parameters()} for layer in layers]
    print("\n| ridge | positions count | divergence | rise of log-perplexity |\n|--:|---|--:|--:|")
    for ridge in ridges:
        for way, held in moments.items():
            for layer, old, seen in zip(layers, whole, held, strict=True):
                down = old["down_proj.weight"].double()
                width = down.shape[1] * 7 // 8
                kept = eliminate(down, seen, biased=False, ridge=ridge).kept(width)
                mlp = layer.mlp
                mlp.down_proj.weight.data = narrow(down, None, seen, kept, ridge=ridge).down.float()
                mlp.gate_proj.weight.data = old["gate_proj.weight"][kept]
                mlp.up_proj.weight.data = old["up_proj.weight"][kept]
            now = model(test).logits[:, :-1].log_softmax(-1)
            apart = float((before.exp() * (before - now)).sum(-1).mean())
            rise = (before - now).gather(-1, test[:, 1:, None]).squeeze(-1).mean(1)
            half = 1.96 * float(rise.std()) / sqrt(len(rise))
            print(f"| {ridge} | {way} | {apart:.3f} | {rise.mean():.3f} ± {half:.3f} |", flush=True)


def _moments(
    model: Any, rows: Tensor, counted: Callable[[Tensor], Tensor]
) -> Iterator[NeuronMoments]:
    downs = [layer.mlp.down_proj for layer in model.model.layers]
    size = downs[0].in_features
    sums = [torch.zeros(size, size, dtype=torch.float64) for _ in downs]
    weights = [0.0] * len(downs)

    def hear(number: int) -> Callable[[Any, tuple[Tensor]], None]:
        def add(_: Any, given: tuple[Tensor]) -> None:
            h = given[0].reshape(-1, size)
            weight = counted(h.square().sum(-1))
            sums[number] += ((h * weight[:, None]).mT @ h).double()
            weights[number] += float(weight.sum())

        return add

    hooks = [one.register_forward_pre_hook(hear(at)) for at, one in enumerate(downs)]
    for some in rows.split(8):
        model.model(some)
    for hook in hooks:
        hook.remove()
    for total, weight in zip(sums, weights, strict=True):
        yield NeuronMoments(total / weight, torch.zeros(size, dtype=torch.float64), weight)


if __name__ == "__main__":
    main()
