"""What ``inference_speed.py`` runs: Whispers of known shapes and random weights, and runtimes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from measuring import Step
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, WhisperConfig
from transformers import WhisperForConditionalGeneration as Whisper

import surgery
from surgery.runtime import SiteRanks, executed_widths
from surgery.runtime.cached_step import cache_name
from surgery.runtime.model import restructured_class

FRAMES = 1500  # of 20 ms: a window of 30 s
TOKENS = 50  # decoded in a run, about what 15 s of speech take
HEAD = 64  # columns of a head, in every Whisper


@dataclass(frozen=True)
class Shape:
    """Sizes of a Whisper, and how many blocks of each tower stand for all of them."""

    width: int
    heads: int
    layers: int
    mels: int
    sample: int

    @property
    def scale(self) -> float:
        """How many times what is run makes the whole."""
        return self.layers / self.sample


SHAPES = {
    "tiny": Shape(384, 6, 4, 80, 4),
    "base": Shape(512, 8, 6, 80, 6),
    "large-v3": Shape(1280, 20, 32, 128, 4),
}

Heads = list[tuple[int, int]]
"""QK and V rank of every head of a block."""
Ranks = dict[str, list[Heads]]
"""By kind of attention (``encoder``, ``decoder``, ``cross``), the blocks that were cut."""

KINDS = {
    "encoder": "model.encoder.layers.{}.self_attn",
    "decoder": "model.decoder.layers.{}.self_attn",
    "cross": "model.decoder.layers.{}.encoder_attn",
}


def ranks_of(checkpoint: Path) -> Ranks:
    """Return the ranks that a pruned Whisper's config.json lists."""
    block = json.loads((checkpoint / "config.json").read_text())["surgery"]
    sites = block["operations"][0]["sites"]
    found: Ranks = {}
    for kind, path in KINDS.items():
        for number in range(len(sites)):
            if site := sites.get(path.format(number)):
                pairs = zip(site["qk_ranks"], site["v_ranks"], strict=True)
                found.setdefault(kind, []).append(list(pairs))
    return found


def spread(real: Ranks, shape: Shape) -> Ranks:
    """Give a shape the ranks of a real Whisper: its blocks and heads, each several times."""

    def stretched(known: list[Any], count: int) -> list[Any]:
        return [known[i * len(known) // count] for i in range(count)]

    return {
        kind: [stretched(heads, shape.heads) for heads in stretched(blocks, shape.sample)]
        for kind, blocks in real.items()
    }


def whisper(shape: Shape, ranks: Ranks | None, attention: str, vocabulary: int = 51865) -> Any:
    """Return a Whisper of random weights: stock, or with narrower heads."""
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=shape.width,
        encoder_layers=shape.sample,
        decoder_layers=shape.sample,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        num_mel_bins=shape.mels,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    if ranks is None:
        return Whisper(config).eval()
    sites = {
        KINDS[kind].format(number): {
            "heads": shape.heads,
            "kv_heads": shape.heads,
            "head_dim": HEAD,
            "qk_ranks": [qk for qk, _ in heads],
            "v_ranks": [v for _, v in heads],
        }
        for kind, blocks in ranks.items()
        for number, heads in enumerate(blocks)
    }
    operation = {"method": "absorb-decompose", "options": {}, "sites": sites}
    config.surgery = {"format_version": 1, "operations": [operation]}
    return restructured_class(Whisper)(config).eval()


def removed(blocks: list[Heads]) -> float:
    """Return the share of the attention's parameters, and so of its FLOPs, that ranks leave out."""
    kept = sum(qk + v for heads in blocks for qk, v in heads)
    return 1 - kept / sum(2 * HEAD * len(heads) for heads in blocks)


def executed(shape: Shape, blocks: list[Heads], *, fused: bool) -> float:
    """Return the share of the encoder's attention FLOPs that is run, padding included."""
    run = 0
    for heads in blocks:
        qk, v = zip(*heads, strict=True)
        run += 2 * shape.width * sum(qk + v)
        run += FRAMES * sum(map(sum, executed_widths(SiteRanks(qk, v), fused=fused)))
    return run / (len(blocks) * (2 * shape.width + FRAMES) * 2 * shape.heads * HEAD)


@dataclass(frozen=True)
class Contestant:
    """What can be timed of one model in one runtime.

    Attributes:
        window: The encoder over a window, or as many of its blocks as the shape samples.
        attention: The attention modules of those blocks, projections included.
        front: What the encoder does before its first block: not multiplied by the sample.
        tokens: Decoding of :data:`TOKENS` tokens by the decoder's blocks, greedily.
        cache_bytes: Bytes of the caches after that.
    """

    window: Step
    attention: Step | None = None
    front: Step | None = None
    tokens: Step | None = None
    cache_bytes: Callable[[], int] | None = None


class Runtime(Protocol):
    """Something that runs a Whisper.

    Attributes:
        name: What the table calls it.
        fused: Whether its attention wants one width; ``None``: its widths are its own affair.
    """

    name: str
    fused: bool | None

    def contestant(self, shape: Shape, ranks: Ranks | None) -> Contestant:
        """Return a model of this shape, ready to be timed."""


class _Attention(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.modules_of_layers = nn.ModuleList(layer.self_attn for layer in layers)

    def forward(self, states: Tensor) -> Tensor:
        used = torch.zeros_like(states)  # all of them: a compiler drops what is not
        for module in self.modules_of_layers:
            used = used + module(states)[0]
        return used


class _Blocks(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states, None)
        return states


class Ours:
    """This package's runtime over transformers; a dense model there is transformers' own."""

    def __init__(self, attention: str, device: str, dtype: str, *, compiled: bool = False) -> None:
        self.name = "torch.compile" if compiled else attention
        self.fused, self._attention, self._compiled = attention != "eager", attention, compiled
        self._device, self._dtype = device, getattr(torch, dtype)

    def contestant(self, shape: Shape, ranks: Ranks | None) -> Contestant:
        """See :class:`Runtime`."""
        model = whisper(shape, ranks, self._attention).to(self._device, self._dtype)
        encoder = model.model.encoder
        states = self._random(1, FRAMES, shape.width)
        features = self._random(1, shape.mels, 2 * FRAMES)
        blocks: Any = _Blocks(encoder.layers)
        attention: Any = _Attention(encoder.layers)
        if self._compiled:
            blocks, attention = (
                torch.compile(each, fullgraph=True) for each in (blocks, attention)
            )
        caches = EncoderDecoderCache(DynamicCache(), DynamicCache())

        def front() -> object:
            first = nn.functional.gelu(encoder.conv1(features))
            return nn.functional.gelu(encoder.conv2(first)).mT + encoder.embed_positions.weight

        def tokens() -> None:
            word = torch.zeros(1, 1, dtype=torch.long, device=self._device)
            caches.self_attention_cache.crop(-caches.get_seq_length())
            name = cache_name(model)
            for _ in range(TOKENS):
                model.model.decoder(word, encoder_hidden_states=states, **{name: caches})

        def cached() -> int:
            both = (caches.self_attention_cache, caches.cross_attention_cache)
            return sum(one.keys.nbytes + one.values.nbytes for each in both for one in each.layers)

        return Contestant(
            self._timed(lambda: blocks(states)),
            self._timed(lambda: attention(states)),
            self._timed(front),
            None if self._compiled else self._timed(tokens),
            cached,
        )

    def _random(self, *size: int) -> Tensor:
        return torch.randn(*size, device=self._device, dtype=self._dtype)

    def _timed(self, run: Step) -> Step:
        def step() -> None:
            with torch.no_grad():
                run()
            if self._device == "cuda":
                torch.cuda.synchronize()

        return step


class CTranslate2:
    """CTranslate2 on a CPU, on what ``surgery export --to ct2`` writes.

    Args:
        quantization: Type of the weights there.
        like: A real Whisper, for the tokenizer and processor files beside the weights.
    """

    fused = None

    def __init__(self, quantization: str, like: str) -> None:
        self.name, self._quantization, self._like = f"ct2 {quantization}", quantization, Path(like)

    def contestant(self, shape: Shape, ranks: Ranks | None) -> Contestant:
        """See :class:`Runtime`."""
        import ctranslate2

        with tempfile.TemporaryDirectory() as work:
            self._write(shape, ranks, Path(work) / "model")
            surgery.export_model(
                f"{work}/model",
                "ct2",
                f"{work}/exported",
                quantization=self._quantization,
                verify=False,
            )
            model = ctranslate2.models.Whisper(
                f"{work}/exported",
                device="cpu",
                compute_type=self._quantization,
                intra_threads=torch.get_num_threads(),
            )
        features = torch.randn(1, shape.mels, 2 * FRAMES).numpy()
        view = ctranslate2.StorageView.from_array(features)
        states = model.encode(view, to_cpu=True)
        # it halves what it is given
        words = {"beam_size": 1, "max_length": 2 * TOKENS, "suppress_blank": False}
        words["suppress_tokens"] = [self._end()]  # so that none is the last before its time
        return Contestant(
            lambda: model.encode(view, to_cpu=True),
            tokens=lambda: model.generate(states, [[self._end() + 1]], **words),
        )

    def _write(self, shape: Shape, ranks: Ranks | None, directory: Path) -> None:
        model = whisper(shape, ranks, "sdpa", self._config("vocab_size"))
        model.save_pretrained(directory)
        for file in self._like.glob("*.json"):
            if not (directory / file.name).exists() and "index" not in file.name:
                shutil.copy(file, directory)

    def _config(self, name: str) -> int:
        return int(json.loads((self._like / "config.json").read_text())[name])

    def _end(self) -> int:
        return self._config("eos_token_id")
