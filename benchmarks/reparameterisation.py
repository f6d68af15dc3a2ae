"""What do reflections and rotations in front of a linear map cost, in time and in memory?

    python benchmarks/reparameterisation.py [--width 4096] [--tokens 512] [--repeats 7]

Times forward + backward in float32 on all cores, contestants taking turns; prints medians. The
weight is frozen, gradients go to the activations and to the trainable parts. Against PEFT's HRA
and LoRA layers on the same linear map, and against multiplying by the dense matrix of every
stage of rotations, with autograd. Memory is what a fresh process grows by while it takes one
step (RssAnon, sampled), and what autograd saves. Runs on Linux; needs peft.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from measuring import Prepared, Step, medians, memory
from peft import HRAConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from surgery.runtime.givens import mix, rotate, rotation_blocks
from surgery.runtime.linears import swap_linear
from surgery.runtime.subtrees import stages

RANK = 8
ENTRIES: dict[str, dict[str, Any]] = {"hra": {"reflections": RANK}, "goft": {}, "qgoft": {}}


def linear(width: int) -> nn.Sequential:
    """Return a model of one square linear map, the same on every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width))


def layer(name: str, width: int) -> nn.Module:
    """Return the linear map, frozen, as a contestant changes it."""
    model: Any = linear(width)
    if name.startswith("PEFT"):
        config = {
            "PEFT HRA": HRAConfig(r=RANK, target_modules=["0"]),
            "PEFT LoRA": LoraConfig(r=RANK, target_modules=["0"]),
        }[name]
        return get_peft_model(model, config)
    model.requires_grad_(False)
    if name != "linear":
        swap_linear(model, "0", name, ENTRIES[name])
        for part in model[0].parts().values():
            nn.init.normal_(part, std=0.1)
    return model


def step(forward: Callable[[Tensor], Tensor], wanted: Iterable[Tensor], x: Tensor) -> Step:
    """Return forward and backward as one call."""
    inputs = [x, *(tensor for tensor in wanted if tensor.requires_grad)]
    upstream = torch.randn_like(x)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(x), inputs, upstream)

    return run


def layer_step(name: str, width: int, tokens: int) -> Step:
    """Return one training step of a contestant's layer."""
    module = layer(name, width)
    x = torch.randn(tokens, width, requires_grad=True)
    return step(module, module.parameters(), x)


def dense_rotation(x: Tensor, blocks: Tensor) -> Tensor:
    """``x P_L … P_1`` with every stage as a dense matrix: what the tree is compared with."""
    width, stop = x.shape[1], blocks.shape[0]
    for stride, count in reversed(stages(width)):
        first = torch.arange(count) * 2 * stride
        second = first + stride
        rows = torch.stack((first, first, second, second), 1)
        columns = torch.stack((first, second, first, second), 1)
        block = blocks[stop - count : stop].flatten(1)
        x = x @ torch.eye(width).index_put((rows, columns), block)
        stop -= count
    return x


def prepare(name: str, width: int, tokens: int) -> Prepared:
    """Return one step of a contestant's layer, its forward and what exists before it."""
    layer_step(name, 64, 8)()
    module = layer(name, width)
    x = torch.randn(tokens, width, requires_grad=True)
    return step(module, module.parameters(), x), lambda: module(x), [x, *module.parameters()]


def copy_bandwidth() -> float:
    """Return bytes a second that a large copy reads and writes, from main memory."""
    source = torch.zeros(64_000_000)
    target = torch.ones_like(source)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(taken)


def compare(width: int, tokens: int, repeats: int, bandwidth: float) -> None:
    """Time every contestant at one width, and print the table and the ratios."""
    x = torch.randn(tokens, width, requires_grad=True)
    angles = (0.3 * torch.randn(width - 1)).requires_grad_()
    blocks = rotation_blocks(angles.detach()).requires_grad_()
    quick = {
        name: layer_step(name, width, tokens)
        for name in ("linear", "PEFT LoRA", "hra", "goft", "qgoft")
    }
    quick["rotation alone, goft"] = step(lambda x: rotate(x, angles), [angles], x)
    quick["rotation alone, qgoft"] = step(lambda x: mix(x, blocks), [blocks], x)
    slow = {
        "PEFT HRA": layer_step("PEFT HRA", width, tokens),
        "dense stages, goft": step(
            lambda x: dense_rotation(x, rotation_blocks(angles)), [angles], x
        ),
        "dense stages, qgoft": step(lambda x: dense_rotation(x, blocks), [blocks], x),
    }
    took = medians(quick, 3 * repeats) | medians(slow, max(2, repeats // 2))

    print(f"\nd = {width}, {tokens} tokens, float32, {torch.get_num_threads()} threads")
    print(f"{'forward + backward':24} {'ms':>9} {'/ linear':>9}")
    for name, median in took.items():
        print(f"{name:24} {median:9.1f} {median / took['linear']:9.2f}")
    print(f"HRA: {took['PEFT HRA'] / took['hra']:.1f} times faster than PEFT's (goal: 10)")
    for name in ("goft", "qgoft"):
        alone = took[f"rotation alone, {name}"]
        faster = took[f"dense stages, {name}"] / alone
        print(
            f"{name}: rotation {faster:.0f} times faster than dense stages (goal: 20); "
            f"layer {took[name] / took['PEFT LoRA']:.2f} times LoRA's (goal: at most 2), "
            f"of which the rotation alone is {alone / took[name]:.0%}"
        )
    # Forward reads x and writes y; backward reads x and y's gradient and writes x's.
    floor = 1000 * 5 * x.nbytes / bandwidth
    print(
        f"floor of a rotation: 5 passes over {x.nbytes / 1e6:.1f} MB at {bandwidth / 1e9:.1f} GB/s "
        f"take {floor:.1f} ms"
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    bandwidth = copy_bandwidth()
    for width in (options.width, options.width + 1):
        compare(width, options.tokens, options.repeats, bandwidth)
    activations = options.tokens * options.width * 4 / 1e6
    print(f"\none step at d = {options.width}: activations {activations:.1f} MB,", end=" ")
    print(f"a d×d matrix {options.width**2 * 4 / 1e6:.1f} MB")
    print(f"{'':24} {'grows MB':>9} {'saves MB':>9}")
    for name in ("linear", "PEFT LoRA", "hra", "goft", "qgoft", "PEFT HRA"):
        peak, saved = memory(prepare, name, options.width, options.tokens)
        print(f"{name:24} {peak:9.1f} {saved:9.1f}")


if __name__ == "__main__":
    main()
