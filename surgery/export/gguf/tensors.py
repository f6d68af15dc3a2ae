"""A decoder's tensors as llama.cpp wants them: its names, its order of rotated rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from surgery.architectures import AttentionSite
from surgery.checkpoint.writer import TensorSpec
from surgery.export.gguf.form import EMBEDDING, OUTPUT, GgufForm, layers
from surgery.export.hf.tensors import BUFFER, NativeTensors
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored

EMBEDDED, SAID = "token_embd.weight", "output.weight"
"""The token embedding there, and the output layer; without the latter it is the embedding."""
NORM = "norm.weight", "output_norm.weight"
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Modules of a layer, here and there."""
BEHIND = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Where norms stand behind attention and MLP, as in OLMo 2."""


@dataclass(frozen=True)
class Placed:
    """One tensor of the file.

    Attributes:
        name: Its name there.
        source: Its name in the checkpoint; ``None`` for the table of frequencies.
        shape: Its shape, in torch's order.
        dtype: Stored dtype.
    """

    name: str
    source: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype


class GgufTensors:
    """Every tensor of the file, computed when asked for.

    Args:
        stored: The checkpoint.
        form: How it is written.
    """

    def __init__(self, stored: Stored, form: GgufForm) -> None:
        self._stored, self._form = stored, form
        self._rotated = {
            name: site
            for site in stored.claims.sites
            for projection in (site.q, site.k)
            for name in (projection.weight, projection.bias)
        }
        self._tensors: MergedTensors | NativeTensors = (
            NativeTensors(stored, form.heads, form.widths)
            if form.smaller
            else MergedTensors(stored, stored.operations, form.widths)
        )
        self._blocks = self._tensors.blocks()
        # Tensors of one block are asked for one after another.
        self._computed = lru_cache(maxsize=2)(self._tensors.compute)

    def placed(self) -> Iterator[Placed]:
        """Yield every tensor of the file, in its order."""
        prefix, words = self._stored.claims.prefix, layers(self._stored)
        both = prefix + EMBEDDING, OUTPUT
        specs = {spec.name: spec for shard in self._tensors.specs().values() for spec in shard}
        behind = any(name.endswith("post_feedforward_layernorm.weight") for name in specs)
        inside = INSIDE | (BEHIND if behind else {})
        for name, spec in specs.items():
            if not name.endswith(BUFFER) and name not in both:
                yield _placed(_there(name.removeprefix(prefix), inside), spec)
        yield _placed(EMBEDDED, specs[words.embedding])
        if self._form.output or not words.tied:
            yield _placed(SAID, specs[words.output])
        if self._form.factors is not None:
            shape = tuple(self._form.factors.shape)
            yield Placed("rope_freqs.weight", None, shape, torch.float32)

    def tensor(self, placed: Placed) -> Tensor:
        """Return one tensor, in its stored dtype or a wider one."""
        name, factors = placed.source, self._form.factors
        if name is None:
            return torch.ones(placed.shape) if factors is None else factors
        block = self._blocks.get(name)
        found = self._stored.finite(name) if block is None else self._computed(block).tensors[name]
        site = self._rotated.get(name)
        return found if site is None else self._turned(name, found, site)

    def _turned(self, name: str, tensor: Tensor, site: AttentionSite) -> Tensor:
        """Return q's or k's rows in the order RoPE turns them there.

        Row i of a head stays beside row i + d/2 where rows are turned in neighbours. And the
        factor of cosines and sines goes where the scores are made: into q, twice.
        """
        form, query = self._form, name in (site.q.weight, site.q.bias)
        if query and form.attention != 1:
            tensor = tensor.double() * form.attention**2
        if form.interleaved:
            heads = site.heads if query else site.kv_heads
            halves = torch.unflatten(tensor, 0, (heads, 2, form.heads.head_dim // 2))
            tensor = halves.transpose(1, 2).flatten(0, 2)
        return tensor


def _placed(there: str, spec: TensorSpec) -> Placed:
    return Placed(there, spec.name, spec.shape, spec.dtype)


def _there(name: str, inside: Mapping[str, str]) -> str:
    """Return llama.cpp's name of a tensor."""
    if name == NORM[0]:
        return NORM[1]
    _, layer, rest = name.split(".", 2)  # layers.3.self_attn.q_proj.weight
    module, _, part = rest.rpartition(".")
    return f"blk.{layer}.{inside[module]}.{part}"
