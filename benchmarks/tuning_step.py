"""What does a whole training step cost with each kind of small part, beside PEFT's equivalents?

    python benchmarks/tuning_step.py [--width 1024] [--layers 4] [--key-value-heads 16]
        [--repeats 7] [--processor] [--dtype bfloat16] [--device cuda] [--skip NAME …] [-o FILE]

A LLaMA of random weights; parts on q, k, v, o, gate, up and down, where the method allows, of
comparable numbers of trainable parameters. A step is the tuner's: forward, loss and penalty,
backward, clipping, AdamW; ``--dtype`` is that of autocast over float32 weights, as the tuner's.
Contestants take turns; a ratio is the median over rounds of the step's time over that of PEFT's
LoRA in the same round. ``--processor`` counts processor time, which other work on the machine
lengthens little. Memory on a CPU is what a fresh process grows by in its first steps
(RssAnon, sampled), optimiser state included, on a GPU what is allocated beyond the model; and
what autograd saves. PEFT's HRA multiplies d×d matrices, one a reflection: it steps once, unless
skipped. Forward and backward of one square map write eight tensors of the activations' size with
PEFT's LoRA, five with our low-rank maps: one product adds the map, scaled, to what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Prepared, Step, memory, saved_bytes, turns
from peft import HRAConfig, LoraConfig, OFTConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.choices.parts import recipes
from surgery.methods.behind import block_sizes
from surgery.runtime.linears import swap_linear
from surgery.training.losses import mean_loss
from surgery.training.penalty import Penalty
from surgery.training.trained import freeze, parted_linears

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, REFLECTIONS, UP_BLOCK = 8, 16, 64
PEFT: dict[str, Callable[[], Any]] = {
    "PEFT LoRA": lambda: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS),
    "PEFT PiSSA": lambda: LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="pissa_niter_2"
    ),
    "PEFT OFT": lambda: OFTConfig(oft_block_size=32, target_modules=TARGETS),
    "PEFT HRA": lambda: HRAConfig(r=REFLECTIONS, target_modules=TARGETS),
}
BESIDE = {
    **dict.fromkeys(("diagonal", "core", "core, no up"), "PEFT LoRA"),
    **dict.fromkeys(("sorsa", "pissa"), "PEFT PiSSA"),
    "hra": "PEFT HRA",
    **dict.fromkeys(("goft", "qgoft"), "PEFT OFT"),
}
"""Our contestants, each with what PEFT has in its place."""
REFERENCE, SLOW = "PEFT LoRA", "PEFT HRA"


Shape = argparse.Namespace
"""Sizes of the model and of a step, dtype and device: the options of the command line."""


def llama(shape: Shape) -> Any:
    """Return a model of random weights, the same on every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.length,
        use_cache=False,
    )
    with torch.device(shape.device):
        return LlamaForCausalLM(config).train()


def entry_of(name: str, role: str, shape: Shape) -> tuple[str, dict[str, Any]] | None:
    """Return method and entry of one of our contestants for a linear map, None for no parts."""
    heads = {"blocks": [shape.width // shape.heads] * shape.key_value_heads, "offset": 0}
    behind = role in ("k_proj", "v_proj")
    match name:
        case "diagonal":
            # The two rows of a frequency pair under RoPE share a value.
            return (name, heads | {"shared": 1 + (role == "k_proj")}) if behind else None
        case "core" | "core, no up":
            blocks = block_sizes(shape.intermediate, shape.width, UP_BLOCK)
            if role == "up_proj" and name == "core":
                return "core", {"blocks": blocks, "offset": 0}
            return ("core", heads) if behind else None
        case "sorsa" | "pissa":
            return name, {"rank": RANK, "scale": 1.0}
        case "hra":
            return name, {"reflections": REFLECTIONS}
        case _:
            return name, {}


@torch.no_grad()
def fill(name: str, part: Tensor) -> None:
    """Give a part values as a training might: orthonormal factors, paired reflections, noise."""
    if name in ("sorsa_u", "hra_u"):
        nn.init.orthogonal_(part)
    elif name == "sorsa_vt":
        nn.init.orthogonal_(part.T)
    elif name != "sorsa_s":
        part.add_(torch.randn_like(part), alpha=0.02)
    if name == "hra_u":
        part[:, 1::2] = part[:, ::2]


def contestant(name: str, shape: Shape) -> tuple[Any, Penalty | None]:
    """Return a model that a contestant changes, and the penalty of its paper."""
    model = llama(shape)
    if name in PEFT:
        return get_peft_model(model, PEFT[name]()), None
    for path in [each for each, _ in model.named_modules()]:
        role = path.rpartition(".")[2]
        swap = entry_of(name, role, shape) if role in TARGETS else None
        if swap is not None:
            swap_linear(model, path, *swap)
    maps = list(parted_linears(model).values())
    for one in maps:
        for part_name, part in one.parts().items():
            fill(part_name, part)
    freeze(model)
    weight = recipes()[name].penalty if name in recipes() else None
    return model, Penalty(name, maps, weight) if weight else None


def training(name: str, shape: Shape) -> tuple[Step, Step, list[Tensor]]:
    """Return a contestant's step, its loss alone, and every tensor that exists before."""
    model, penalty = contestant(name, shape)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    rows = torch.randint(shape.vocabulary, (shape.batch, shape.length), device=shape.device)
    dtype: torch.dtype = getattr(torch, shape.dtype)

    def loss() -> Tensor:
        with torch.autocast(shape.device, dtype, enabled=dtype != torch.float32):
            found = mean_loss(model(input_ids=rows), rows)
        return found if penalty is None else found + penalty()

    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if shape.device == "cuda":
            torch.cuda.synchronize()

    return step, loss, [rows, *model.parameters(), *model.buffers()]


def prepare(name: str, shape: Shape) -> Prepared:
    """Return a contestant's first steps, for a process that has stepped with a small model."""
    small = {"width": 64, "layers": 1, "heads": 2, "key_value_heads": 2, "intermediate": 96}
    training(name, Shape(**vars(shape) | small | {"length": 8}))[0]()
    step, loss, known = training(name, shape)
    steps = 1 if name == SLOW else 2
    return lambda: [step() for _ in range(steps)], loss, known


def allocated(name: str, shape: Shape) -> tuple[float, float]:
    """Return MB that the first steps allocate on a GPU, and MB that autograd saves."""
    run, loss, known = prepare(name, shape)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    grown = torch.cuda.max_memory_allocated() - before
    return grown / 1e6, saved_bytes(loss, known) / 1e6


def measure(
    names: list[str], shape: Shape, repeats: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Return a row for every contestant."""
    rows = []
    for name in names:
        on_cpu = shape.device == "cpu"
        grows, saves = memory(prepare, name, shape) if on_cpu else allocated(name, shape)
        rows.append({"name": name, "grows": grows, "saves": saves})
        print(f"{name}: grows {grows:.1f} MB, saves {saves:.1f} MB", flush=True)
    runs = {name: training(name, shape) for name in names}
    times = turns({n: run[0] for n, run in runs.items() if n != SLOW}, repeats, clock=clock)
    if SLOW in runs:
        times |= turns({SLOW: runs[SLOW][0]}, 1, warm_up=0, clock=clock)
    for row in rows:
        name = row["name"]
        taken, reference = times[name], times[REFERENCE]
        if name == SLOW:  # which did not take turns
            reference = [statistics.median(reference)]
        row["trainable"] = sum(each.numel() for each in runs[name][2] if each.requires_grad)
        row["ms"] = statistics.median(taken)
        row["ratio"] = statistics.median(a / b for a, b in zip(taken, reference, strict=True))
        row["tokens_per_second"] = 1000 * shape.batch * shape.length / row["ms"]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown, and beside ours what they are compared with."""
    known = {row["name"]: row for row in rows}
    lines = [
        "| | trainable | ms a step | / LoRA | tokens/s | grows MB | saves MB | beside |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        beside = ""
        if other := known.get(BESIDE.get(row["name"], "")):
            beside = f"{other['name']}: {row['ms'] / other['ms']:.3g} of its time, "
            beside += f"{row['grows'] / other['grows']:.3g} of its memory"
        lines.append(
            f"| {row['name']} | {row['trainable']:,} | {row['ms']:.1f} | {row['ratio']:.2f} "
            f"| {row['tokens_per_second']:.0f} | {row['grows']:.1f} | {row['saves']:.1f} "
            f"| {beside} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"width": 1024, "layers": 4, "heads": 16, "key-value-heads": 16}
    sizes |= {"intermediate": 2816, "vocabulary": 4096, "batch": 4, "length": 256, "repeats": 7}
    for size, default in sizes.items():
        parser.add_argument(f"--{size}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processor", action="store_true", help="count processor time")
    parser.add_argument("--skip", nargs="*", default=[], choices=[*PEFT, *BESIDE])
    parser.add_argument("-o", "--output", type=Path)
    options = vars(parser.parse_args())
    repeats, skip, output = (options.pop(each) for each in ("repeats", "skip", "output"))
    clock = time.process_time if options.pop("processor") else time.perf_counter
    shape = Shape(**options)
    names = [name for name in (*PEFT, *BESIDE) if name not in skip or name == REFERENCE]
    rows = measure(names, shape, repeats, clock)
    print(f"\n{vars(shape)}, {torch.get_num_threads()} threads\n\n{table(rows)}")
    if output is not None:
        output.write_text(json.dumps({"shape": vars(shape), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
