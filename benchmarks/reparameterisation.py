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
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import HRAConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from surgery.runtime.givens import mix, rotate, rotation_blocks
from surgery.runtime.linears import swap_linear
from surgery.runtime.subtrees import stages

RANK = 8
ENTRIES: dict[str, dict[str, Any]] = {"hra": {"reflections": RANK}, "goft": {}, "qgoft": {}}

Step = Callable[[], object]


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


def medians(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of every step; they take turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}


def saved_bytes(run: Step, known: Iterable[Tensor]) -> int:
    """Return the bytes that autograd saves beyond tensors which exist anyway."""
    existing = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in existing:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(saved.values())


def _one_step(name: str, width: int, tokens: int, pipe: Any) -> None:
    """In a process of its own: prepare, say so, wait, take one step, report what was saved."""
    layer_step(name, 64, 8)()  # what libraries allocate once is not the layer's
    module = layer(name, width)
    x = torch.randn(tokens, width, requires_grad=True)
    run = step(module, module.parameters(), x)
    pipe.send("ready")
    pipe.recv()
    run()
    pipe.send("done")
    pipe.recv()
    with torch.no_grad():
        known = [x, *module.parameters()]
    pipe.send(saved_bytes(lambda: module(x), known))


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line)


def memory(name: str, width: int, tokens: int) -> tuple[float, float]:
    """Return MB that a process grows by during one step, and MB that autograd saves."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_one_step, args=(name, width, tokens, theirs))
    process.start()
    pipe.recv()
    pid = process.pid or 0
    before = peak = anonymous_bytes(pid)
    pipe.send("go")
    while not pipe.poll(0.001):
        peak = max(peak, anonymous_bytes(pid))
    pipe.recv()
    pipe.send("go on")
    saved: int = pipe.recv()
    process.join()
    return (peak - before) / 1e6, saved / 1e6


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
        peak, saved = memory(name, options.width, options.tokens)
        print(f"{name:24} {peak:9.1f} {saved:9.1f}")


if __name__ == "__main__":
    main()
