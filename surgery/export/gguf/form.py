"""How llama.cpp can hold a decoder of the LLaMA kind: which architecture, and how wide its heads.

* ``llama``: one width for queries, keys and values of the whole model. Frequencies may be any
  table (``rope_freqs``), so whole frequency pairs may be missing. Biases may be there.
* ``mimo2``: one width for queries and keys, one for values. Only RoPE's usual frequencies, no
  biases, and the output layer is always stored.
* ``qwen2``: what everybody writes Qwen2 as; one width, usual frequencies.
* ``deci``: as ``llama``, with a width of its own for every feed-forward block.
* ``qwen3``, ``olmo2``: with norms behind queries and keys; the original widths, usual frequencies,
  no biases.

Everything else is global: a head of less rank, or a narrower feed-forward block, is filled up with
zeros, to the widest of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from surgery.export.fit import removed_neurons, widest
from surgery.export.hf.config import effective, frequencies, plain_config
from surgery.export.hf.forms import Native, mimo_form, normed, own_form, rope_kind
from surgery.export.output_layer import WordLayers, lacking, word_layers
from surgery.stored.stored import Stored

TABLES = ("default", "linear", "llama3", "yarn")
"""Kinds of RoPE whose frequencies are one table, whatever the length of the text."""
EMBEDDING, OUTPUT = "embed_tokens.weight", "lm_head.weight"
"""Names of the token embedding (below the prefix) and of the output layer."""
BLOCK = 32
"""Values that share a scale where llama.cpp quantises rows of weights, or of its KV cache."""
GENERAL, RAGGED = "llama", "deci"
"""llama.cpp's architectures for any table of frequencies and any width of heads, the second also
for any width of each feed-forward block."""


@dataclass(frozen=True)
class GgufForm:
    """What is written.

    Attributes:
        arch: llama.cpp's architecture.
        heads: Widths of every head, and the frequencies it turns by.
        smaller: Whether that is smaller than dense.
        factors: What the usual frequencies are divided by, (width / 2); ``None``: nothing.
        attention: Factor of q and k behind RoPE.
        output: The output layer is stored apart though it is the embedding.
        widths: Neurons of feed-forward blocks, where config.json says others, by their path.
    """

    arch: str
    heads: Native
    smaller: bool
    factors: Tensor | None = None
    attention: float = 1.0
    output: bool = False
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def cache(self) -> str | None:
        """Why llama.cpp cannot quantise its KV cache, where it could the original's."""
        widths = {self.heads.head_dim, self.heads.value_dim}
        odd = [str(width) for width in sorted(widths) if width % BLOCK]
        if not odd or self.heads.full % BLOCK:
            return None
        return f"no quantised KV cache: {' and '.join(odd)} is no multiple of {BLOCK}"

    @property
    def interleaved(self) -> bool:
        """Whether RoPE turns rows 2i and 2i + 1, not i and i + half the width."""
        return self.arch in (GENERAL, RAGGED)

    def lengths(self, stored: Stored) -> list[int]:
        """Return the neurons of every layer."""
        return [self.widths.get(block.path, block.neurons) for block in stored.blocks]


def obstacle(stored: Stored) -> str | None:
    """Say why llama.cpp cannot run a checkpoint in any form; ``None`` where it can."""
    raw = stored.source.config
    if "gguf" not in stored.family.exports:
        return f"{stored.family.title} is not of the LLaMA kind"
    named = (raw.get("architectures") or ["a model without a named class"])[0]
    one = stored.claims.model_class
    if one is None or not one.predicts_next:
        return f"{named} has no output layer that llama.cpp knows"
    if raw.get("hidden_act", "silu") != "silu":
        return f"its activation is {raw['hidden_act']}, and there it is always silu"
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
        return "some of its layers attend to a sliding window, which is not done there"
    if rope_kind(raw) not in TABLES:
        return f"its RoPE is {rope_kind(raw)}, whose frequencies are no single table"
    if normed(stored):
        if rope_kind(raw) != "default":
            return f"its RoPE is {rope_kind(raw)}, which is not written beside norms of queries"
        if _biased(stored):
            return "its projections have biases, which are not read there beside norms of queries"
    names = stored.claims.prefix + EMBEDDING, OUTPUT
    if not any(name in stored.source.infos for name in names):
        return "it has no token embedding"
    tied = bool(effective(plain_config(raw)).tie_word_embeddings)
    return lacking(stored.source, *names, tied=tied)


def forms(stored: Stored) -> list[GgufForm]:
    """Return every form of a checkpoint without :func:`obstacle`, the usual one first."""
    raw = stored.source.config
    full = stored.claims.sites[0].head_dim
    dense = Native(False, full, full, None, full)
    arch = stored.family.exports["gguf"] if rope_kind(raw) == "default" else GENERAL
    equal = widest(stored)
    if normed(stored):
        return [GgufForm(arch, dense, smaller=False, widths=equal)]
    general = GENERAL
    if len({block.neurons for block in stored.blocks}) > 1:
        arch = general = RAGGED
    found = [_with_table(stored, arch, dense, smaller=False)]
    own = own_form(stored)
    if own.head_dim < full:
        found.append(_with_table(stored, general, own, smaller=True))
    mimo = mimo_form(stored)
    # llama.cpp takes cached values for transposed by their strides, which say nothing at width 1.
    mimo = replace(mimo, value_dim=max(2, mimo.value_dim))
    usual = mimo.pairs is None and rope_kind(raw) == "default"
    if usual and mimo.value_dim < full and not _biased(stored):
        again = layers(stored).tied
        found.append(GgufForm("mimo2", mimo, smaller=True, output=again, widths=equal))
    return found


def _biased(stored: Stored) -> bool:
    return any(info.endswith("proj.bias") for info in stored.source.infos)


def choose(stored: Stored) -> GgufForm:
    """Return the smallest form; the first of equals."""
    return min(forms(stored), key=lambda form: parameters(stored, form))


def parameters(stored: Stored, form: GgufForm) -> int:
    """Return how many parameters a form's heads have, and what it must store again or leaves out.

    All but for a number that is the same for every form.
    """
    config = stored.config
    again = config.vocab_size * config.hidden_size if form.output else 0
    return form.heads.parameters(stored) + int(again) - removed_neurons(stored, form.widths)[1]


def layers(stored: Stored) -> WordLayers:
    """Return where the token embedding and the output layer are stored."""
    embedding = stored.claims.prefix + EMBEDDING
    return word_layers(stored.source, embedding, OUTPUT) or WordLayers(embedding, OUTPUT)


def _with_table(stored: Stored, arch: str, heads: Native, *, smaller: bool) -> GgufForm:
    # A layer without any neuron would there be without its attention, too.
    own = {path: max(1, width) for path, width in stored.neurons.items()}
    config: Any = effective(plain_config(stored.source.config))
    rope: dict[str, Any] = config.rope_parameters
    theta, kind = float(rope["rope_theta"]), str(rope["rope_type"])
    if heads.pairs is None and kind == "default":
        return GgufForm(arch, heads, smaller, widths=own)
    table, attention = frequencies(config, theta, kind, None)
    kept = table if heads.pairs is None else table[list(heads.pairs)]
    usual = theta ** (torch.arange(0, heads.head_dim, 2).double() / heads.head_dim)
    factors = 1 / (kept.double() * usual)
    return GgufForm(arch, heads, smaller, factors, float(attention), widths=own)
