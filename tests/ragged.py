"""Checkpoints whose blocks differ in width, made by plain slicing, and their oracle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from surgery.carried.remote_code import FILE, place_code
from tests.engine.support import config_of, tensors_of

_MAP = re.compile(
    r"(?P<block>.*\.\d+(?:\.mlp)?)\."
    r"(?P<name>gate_proj|up_proj|gate_up_proj|down_proj|(?<=mlp\.)c_fc|(?<=mlp\.)c_proj|fc1|fc2"
    r"|intermediate\.dense|(?<!attention\.)output\.dense)\.(?P<kind>weight|bias)"
)
_OUT = ("down_proj", "c_proj", "fc2", "output.dense")


def axes(tensors: dict[str, Tensor]) -> dict[str, dict[str, tuple[int, int]]]:
    """Which axis is the neurons' and how often they lie there, by naive reading of names."""
    transposed = any(".c_attn." in name for name in tensors)  # GPT-2's
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name in sorted(tensors):
        if match := _MAP.fullmatch(name):
            out = match["name"] in _OUT
            block = found.setdefault(match["block"], {})
            if match["kind"] == "weight":
                block[name] = int(out != transposed), 1 + (match["name"] == "gate_up_proj")
            elif not out:
                block[name] = 0, 1
    return found


def make_ragged(
    source: Path, out: Path, widths: Sequence[int], *, zeroed: Path | None = None
) -> Path:
    """Write a checkpoint whose blocks have these widths, the first again behind the last.

    Args:
        source: A dense checkpoint.
        out: Where to.
        widths: In the order of the blocks' names.
        zeroed: Where to write the oracle: the dense model, what reads the others zeroed.
    """
    tensors, config = tensors_of(source), config_of(source)
    whole, sites = dict(tensors), {}
    for number, (path, block) in enumerate(axes(tensors).items()):
        neurons = next(tensors[n].shape[axis] for n, (axis, times) in block.items() if times == 1)
        width = min(widths[number % len(widths)], neurons)
        shuffled = torch.randperm(neurons, generator=torch.Generator().manual_seed(number))
        kept = shuffled[:width].sort().values
        sites[path] = {"neurons": width}
        for name, (axis, times) in block.items():
            zeros = tensors[name].clone()
            stay, go = (
                torch.cat([each + neurons * i for i in range(times)])
                for each in (kept, shuffled[width:])
            )
            zeros.index_fill_(axis, go, 0)
            whole[name] = zeros
            tensors[name] = tensors[name].index_select(axis, stay).contiguous()
    for directory, content in ((out, tensors), (zeroed, whole)):
        if directory is not None:
            shutil.copytree(source, directory)
            for file in directory.glob("*.safetensors*"):
                file.unlink()
            save_file(content, directory / "model.safetensors", {"format": "pt"})
    operation = {"method": "compress", "options": {}, "provenance": {}, "sites": sites}
    config["surgery"] = {"format_version": 1, "operations": [operation]}
    code = place_code(config)
    assert code is not None
    (out / FILE).write_text(code)
    (out / "config.json").write_text(json.dumps(config))
    return out
