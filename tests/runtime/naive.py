"""A deliberately plain pruner, and the dense model that it must equal.

Every head keeps its first rows; rotary queries and keys keep random frequency pairs. In the dense
model the other rows of q, k and v and the other columns of o are set to zero, which leaves stock
transformers as the oracle; in the checkpoint they are cut out. Nothing here shares code with the
runtime.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.models import CAPPED, ROTARY, TINY

HEAD = 8  # head dimension of most models below
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _whisper() -> Any:
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=48,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=2,
            encoder_ffn_dim=40,
            decoder_ffn_dim=40,
            num_mel_bins=8,
            max_source_positions=12,
            max_target_positions=40,
            decoder_start_token_id=1,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            **SPECIAL,
        )
    )


def _rotary(family: str, **extra: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = getattr(transformers, f"{family}Config")(
            vocab_size=48,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **SPECIAL,
            **extra,
        )
        return getattr(transformers, f"{family}ForCausalLM")(config)

    return build


def _bert(kind: str, **extra: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.BertConfig(
            vocab_size=48,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=64,
            num_labels=3,
            **extra,
        )
        return getattr(transformers, kind)(config)

    return build


def _gpt2(kind: str, **extra: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.GPT2Config(
            vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL, **extra
        )
        return getattr(transformers, kind)(config)

    return build


WINDOW = 5
VARIED = [name for name in TINY if name.startswith(("llama", "mistral", "qwen", "olmo2"))]
"""Tiny models of families that have variants of their own here."""

MODELS: dict[str, Callable[[], Any]] = {
    "whisper": _whisper,
    "llama": _rotary("Llama"),
    "llama-biased-tied": _rotary("Llama", attention_bias=True, tie_word_embeddings=True),
    "mistral-window-wide": _rotary("Mistral", sliding_window=WINDOW, head_dim=12),
    "qwen2-mixed-layers": _rotary(
        "Qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3-wide": _rotary("Qwen3", head_dim=12),
    "qwen3-biased-mixed-layers": _rotary(
        "Qwen3",
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=1,
    ),
    "olmo2": _rotary("Olmo2"),
    **{name: TINY[name] for name in ROTARY if name not in VARIED},
    "bert-masked": _bert("BertForMaskedLM"),
    "bert-plain": _bert("BertModel"),
    "bert-classifier": _bert("BertForSequenceClassification"),
    "bert-decoder": _bert("BertLMHeadModel", is_decoder=True, **SPECIAL),
    "gpt2": _gpt2("GPT2LMHeadModel"),
    "gpt2-scaled-upcast": _gpt2(
        "GPT2LMHeadModel", scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
}
GENERATING = [
    name for name in MODELS if name not in ("bert-masked", "bert-plain", "bert-classifier")
]


def exact(name: str) -> torch.dtype:
    """Dtype to compare in: float64, but some scores exist in float32 at most."""
    return torch.float32 if "upcast" in name or name in CAPPED else torch.float64


def dense_model(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """Build a stock model with every tensor random, so that no term is trivially zero."""
    torch.manual_seed(seed)
    return randomised(MODELS[name]()).to(dtype)


def randomised(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    return model


@dataclass(frozen=True)
class Site:
    path: str
    heads: int
    kv_heads: int
    head_dim: int
    rotary: bool
    projections: tuple[str, str, str, str]
    normed: bool = False  # queries and keys go through a norm, or turn in part, and stay whole


def sites(model: PreTrainedModel) -> list[Site]:
    found = []
    for path, module in model.named_modules():
        kind, config = type(module).__name__, getattr(module, "config", None)
        if kind == "WhisperAttention":
            heads = module.num_heads
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            found.append(Site(path, heads, heads, module.head_dim, False, names))
        elif kind.endswith("Attention") and getattr(config, "model_type", "") in ROTARY:
            heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
            names = ("q_proj", "k_proj", "v_proj", "o_proj")
            if hasattr(module, "qkv_proj"):
                names = (*["qkv_proj"] * 3, "o_proj")
            normed = hasattr(module, "q_norm")
            turned = bool(getattr(module, "use_rope", True))
            partly = config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0
            normed = normed or partly
            found.append(Site(path, heads, kv_heads, module.head_dim, turned, names, normed))
        elif kind == "BertAttention":
            heads, size = module.self.num_attention_heads, module.self.attention_head_size
            names = ("self.query", "self.key", "self.value", "output.dense")
            found.append(Site(path, heads, heads, size, False, names))
        elif kind == "GPT2Attention":
            heads, names = module.num_heads, (*["c_attn"] * 3, "c_proj")
            found.append(Site(path, heads, heads, module.head_dim, False, names))
    return found


def outputs_of(site: Site, part: int) -> slice:
    """Where the outputs of q, k or v (0, 1, 2) lie in their map: behind those it is fused with."""
    sizes = [site.heads * site.head_dim, *[site.kv_heads * site.head_dim] * 2]
    start = sum(sizes[:part]) if site.projections[0] == site.projections[1] else 0
    return slice(start, start + sizes[part])


def output_axis(module: Any) -> int:
    """The axis of a map's outputs in its weight: the last one of GPT-2's."""
    return int(isinstance(module, Conv1D))


Ranks = dict[str, tuple[list[int], list[int]]]
"""QK and V rank of every key/value head, by site."""


def choose_ranks(model: PreTrainedModel, layout: str, *, seed: int = 0) -> Ranks:
    """Choose ranks for every site: ``full``, ``tied``, ``block``, ``ragged`` or ``empty``.

    Rotary queries and keys have an even rank, and stay whole where ``tied``. Where ``empty``, no
    head keeps any values, but for one of every third block.
    """
    draw = random.Random(f"{layout}{seed}")
    chosen: Ranks = {}
    for site in sites(model):
        full, count = site.head_dim, site.kv_heads
        if layout == "ragged":
            qk = [draw.randint(1, full) for _ in range(count - 1)] + [full // 2]
            v = [draw.randint(1, full - 1) for _ in range(count - 1)] + [full]
        elif layout == "empty":
            ragged, some = len(chosen) % 2, len(chosen) % 3 == 2
            qk = [2 + 2 * ragged * (head % 2) for head in range(count)]
            v = [0] * (count - 1) + [3 * some]
        else:
            low, high = {"full": (full, full), "tied": (3, 3), "block": (3, 5)}[layout]
            shift = 0 if layout == "full" else len(chosen) % 2
            qk, v = [low + shift] * count, [high + shift] * count
        if site.rotary:
            whole = site.normed or layout in ("full", "tied")
            qk = [full] * count if whole else [rank + rank % 2 for rank in qk]
        chosen[site.path] = (qk, v)
    return chosen


def kept_pairs(site: Site, qk: list[int]) -> list[list[int]]:
    """Choose the frequencies that each key/value head of a rotary site keeps at these ranks."""
    draw = random.Random(f"{site.path}{qk}")
    return [sorted(draw.sample(range(site.head_dim // 2), rank // 2)) for rank in qk]


def pair_rows(site: Site, qk: list[int], repeats: int = 1) -> Tensor:
    """Rows of the kept pairs, head by head: first halves, then second halves."""
    half, kept, rows = site.head_dim // 2, kept_pairs(site, qk), []
    for head in range(len(qk) * repeats):
        for second in (0, half):
            rows += [head * site.head_dim + second + i for i in kept[head // repeats]]
    return torch.tensor(rows)


def kept_rows(ranks: list[int], head_dim: int, repeats: int = 1) -> Tensor:
    heads = [rank for rank in ranks for _ in range(repeats)]
    kept = [h * head_dim + j for h, rank in enumerate(heads) for j in range(rank)]
    return torch.tensor(kept, dtype=torch.long)


def _zero_others(tensor: Tensor, kept: Tensor, dim: int) -> None:
    mask = torch.zeros(tensor.shape[dim], dtype=tensor.dtype)
    mask[kept] = 1
    tensor.mul_(mask.view(-1, *[1] * (tensor.dim() - dim - 1)))


def cuts(model: PreTrainedModel, ranks: Ranks) -> dict[str, tuple[Tensor, int]]:
    """Say which indices of which dimension each attention tensor keeps, by name."""
    found: dict[str, tuple[Tensor, int]] = {}
    for site in sites(model):
        qk, v = ranks[site.path]
        groups = site.heads // site.kv_heads
        rows = [
            pair_rows(site, qk, groups) if site.rotary else kept_rows(qk, site.head_dim, groups),
            pair_rows(site, qk) if site.rotary else kept_rows(qk, site.head_dim),
            kept_rows(v, site.head_dim),
        ]
        columns = kept_rows(v, site.head_dim, groups)
        module = model.get_submodule(site.path)
        together: dict[str, list[Tensor]] = {}
        for part, (name, kept) in enumerate(zip(site.projections[:3], rows, strict=True)):
            together.setdefault(name, []).append(outputs_of(site, part).start + kept)
        for name, pieces in together.items():
            map_, kept = module.get_submodule(name), torch.cat(pieces)
            found[f"{site.path}.{name}.weight"] = (kept, output_axis(map_))
            if map_.bias is not None:
                found[f"{site.path}.{name}.bias"] = (kept, 0)
        o = site.projections[3]
        axis = 1 - output_axis(module.get_submodule(o))
        found[f"{site.path}.{o}.weight"] = (columns, axis)
    return found


@torch.no_grad()
def cut(model: PreTrainedModel, ranks: Ranks) -> dict[str, Tensor]:
    """Zero the dropped rows of ``model`` in place; return the packed tensors, by name."""
    packed: dict[str, Tensor] = {}
    for name, (kept, dim) in cuts(model, ranks).items():
        tensor = model.get_parameter(name)
        _zero_others(tensor, kept, dim)
        packed[name] = tensor.detach().index_select(dim, kept).contiguous()
    return packed


def surgery_block(model: PreTrainedModel, ranks: Ranks) -> dict[str, Any]:
    described = {
        site.path: {
            "heads": site.heads,
            "kv_heads": site.kv_heads,
            "head_dim": site.head_dim,
            "qk_ranks": ranks[site.path][0],
            "v_ranks": ranks[site.path][1],
        }
        for site in sites(model)
    }
    for site in sites(model):
        qk = ranks[site.path][0]
        if site.rotary and min(qk) < site.head_dim:
            described[site.path]["rope_pairs"] = kept_pairs(site, qk)
    operation = {"method": "absorb-decompose", "options": {}, "sites": described}
    return {"format_version": 1, "operations": [operation]}


@dataclass(frozen=True)
class Case:
    """A checkpoint, and the stock model it must equal."""

    name: str
    path: Path
    oracle: Any
    ranks: Ranks

    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text())

    def write_config(self, config: dict[str, Any]) -> None:
        (self.path / "config.json").write_text(json.dumps(config))


def make_case(
    name: str, layout: str, path: Path, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Case:
    return write_case(name, dense_model(name, dtype=dtype, seed=seed), layout, path, seed=seed)


def write_case(name: str, model: Any, layout: str, path: Path, *, seed: int = 0) -> Case:
    """Cut a dense model, and write the checkpoint of what is left."""
    ranks = choose_ranks(model, layout, seed=seed)
    block = surgery_block(model, ranks)
    packed = cut(model, ranks)
    model.save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    assert set(packed) <= set(tensors)
    save_file(tensors | packed, path / "model.safetensors", metadata={"format": "pt"})
    case = Case(name, path, model, ranks)
    case.write_config(case.config() | {"surgery": block})
    return case


def strip_prefix(case: Case, prefix: str) -> None:
    """Respell the checkpoint's tensors and sites without ``prefix``, as hub checkpoints may."""
    file = case.path / "model.safetensors"
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    config = case.config()
    operation = config["surgery"]["operations"][0]
    operation["sites"] = {
        path.removeprefix(prefix): site for path, site in operation["sites"].items()
    }
    case.write_config(config)


def inputs(model: PreTrainedModel, *, batch: int = 2, length: int = 9) -> dict[str, Tensor]:
    """Random input of a family, in the model's dtype."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 48, (batch, length), generator=generator)
    if model.config.model_type != "whisper":
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    frames = 2 * model.config.max_source_positions
    features = torch.randn(batch, 8, frames, generator=generator)
    return {"input_features": features.to(model.dtype), "decoder_input_ids": tokens}


def outputs(model: PreTrainedModel, given: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits, or the last hidden state where the model has no head.

    Weights that lie in a mapped file begin anywhere, and kernels then add up in another order
    than over memory that was allocated: those are moved, so that equal models are equal to the bit.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.data_ptr() % 64:
                tensor.data = tensor.data.clone()
        out = model(**given, **options)
    return out.logits if "logits" in out else out.last_hidden_state


def attend(model: Any, attention: str) -> str:
    """Let a model attend as asked, or eagerly where its class knows nothing else; return how."""
    how = attention if model._supports_sdpa else "eager"
    model.set_attn_implementation(how)
    return how


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def tolerance(dtype: torch.dtype) -> float:
    """Bound on the relative difference of two orders of summation in these models.

    A dot product of n terms errs by at most n eps relative to its terms' magnitudes. The longest
    has n = 48; about 12 follow one another in two layers (whisper: encoder, then decoder); the
    factor 4 allows for cancellation in the softmax and norms.
    """
    return 48 * 12 * 4 * torch.finfo(dtype).eps
