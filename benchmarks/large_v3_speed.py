"""How fast is the whole command on a checkpoint with Whisper-large-v3's exact shapes?

    python benchmarks/large_v3_speed.py [--runs 3] [--keep DIR]

Writes a synthetic fp16 checkpoint (3.1 GB, 2 shards) of random weights whose head spectra decay,
then, in turn: ``cp -r`` and ``sync`` of it, and ``surgery absorb-decompose`` with the paper's
preset. Prints the ratio pair by pair, the peak anonymous memory of the command, and how much
faster the decomposition of a block is than dense SVDs of its heads' d×d products.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from surgery.checkpoint.hashing import FileHashes
from surgery.checkpoint.writer import ShardWriter, TensorSpec, write_index
from surgery.methods import AttentionWeights, absorb_decompose

LARGE_V3 = {
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "vocab_size": 51866,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}
SHARD_BYTES = 1_600_000_000


def write_checkpoint(directory: Path) -> int:
    """Write the synthetic checkpoint tensor by tensor; return its bytes."""
    directory.mkdir(parents=True)
    config = WhisperConfig(**LARGE_V3)
    config.architectures = ["WhisperForConditionalGeneration"]
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in WhisperForConditionalGeneration(config).state_dict().items()
            if name != "proj_out.weight"
        }
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for name in sorted(shapes):
        spec = TensorSpec(name, torch.float16, shapes[name])
        if size + spec.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    files = {
        f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors": specs
        for index, specs in enumerate(shards)
    }
    generator = torch.Generator().manual_seed(0)
    # Vectors of a head fade over two decades, so that the paper's thresholds cut some of them.
    fade = torch.logspace(0.3, -1.7, 64).repeat(20)
    for file, specs in files.items():
        with ShardWriter(directory / file, specs) as writer:
            for spec in specs:
                tensor = torch.randn(spec.shape, generator=generator) * 0.02
                if spec.name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                    tensor *= fade[:, None]
                writer.write(spec.name, tensor.half())
    write_index(directory / "model.safetensors.index.json", files)
    config.save_pretrained(directory)
    return sum(spec.nbytes for specs in files.values() for spec in specs)


def anonymous_kib(pid: int) -> int:
    """Return RssAnon of a process in KiB; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line), 0)


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return seconds and its peak anonymous memory in GB."""
    peak = 0
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, anonymous_kib(process.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    return time.perf_counter() - start, peak * 1024 / 1e9


def decomposition_speedup(dense_heads: int = 2) -> tuple[float, float]:
    """Return seconds of one large-v3 block by product SVD, and by dense d×d SVDs (scaled)."""
    heads, d, width = 20, 64, 1280
    generator = torch.Generator().manual_seed(0)

    def factor() -> torch.Tensor:
        return torch.randn(heads, d, width, generator=generator, dtype=torch.float64) * 0.02

    q, k, v, o = (factor() for _ in range(4))
    weights = AttentionWeights(q=q[:, None], k=k, v=v, o=o[:, None])
    absorb_decompose(weights, qk=True, vo=True)
    start = time.perf_counter()
    absorb_decompose(weights, qk=True, vo=True)
    fast = time.perf_counter() - start
    start = time.perf_counter()
    for head in range(dense_heads):
        torch.linalg.svd(q[head].T @ k[head])
    dense = (time.perf_counter() - start) / dense_heads * heads * 2
    return fast, dense


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="directory to work in and leave behind")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="large-v3-"))
    source = work / "synthetic-large-v3"
    try:
        if not source.exists():
            size = write_checkpoint(source)
            print(f"synthetic checkpoint: {size / 1e9:.2f} GB")
        command = [str(Path(sys.executable).with_name("surgery")), "absorb-decompose", str(source)]
        command += ["--preset", "paper"]
        ratios, peaks = [], []
        for index in range(options.runs):
            os.sync()
            start = time.perf_counter()
            subprocess.run(["cp", "-r", str(source), str(work / "copy")], check=True)
            os.sync()
            copying = time.perf_counter() - start
            shutil.rmtree(work / "copy")
            os.sync()
            result = work / "result"
            seconds, peak = run([*command, "-o", str(result), "--json"])
            report = json.loads((result / "report.json").read_text())
            shutil.rmtree(result)
            ratios.append(seconds / copying)
            peaks.append(peak)
            print(
                f"run {index + 1}: cp + sync {copying:.1f} s, command {seconds:.1f} s, "
                f"ratio {ratios[-1]:.2f}, peak RssAnon {peak:.2f} GB"
            )
        removed = next(saving for saving in report["savings"] if saving["name"] == "attention")
        print(f"removed {1 - removed['stored'] / removed['before']:.1%} of the encoder's attention")
        print(f"median ratio {statistics.median(ratios):.2f} (goal: at most 3)")
        print(f"peak RssAnon {max(peaks):.2f} GB (goal: at most 1.5)")
        start = time.perf_counter()
        FileHashes(sorted(source.glob("*.safetensors"))).wait()
        print(f"hashing the source alone: {time.perf_counter() - start:.1f} s")
        fast, dense = decomposition_speedup()
        print(
            f"one block of 20 heads, QK and VO: product SVD {fast:.3f} s, dense SVDs {dense:.1f} s "
            f"(scaled from 2 heads): {dense / fast:.0f} times faster (goal: 50)"
        )
    finally:
        if options.keep is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
