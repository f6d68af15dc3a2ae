"""A Whisper as openai-whisper and whisper.cpp shape it: their names, their feed-forward width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.checkpoint.directory import read_json
from surgery.checkpoint.openai_whisper import tensor_names
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.whisper_assets import Dimensions
from surgery.checkpoint.whisper_assets import alignment_heads as known_heads
from surgery.export.output_layer import lacking, word_layers
from surgery.export.whisper.alignment import GENERATION, KEY, Alignment, read_alignment
from surgery.export.whisper.words import foreign
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored

FRAMES = 1500
"""Positions of the encoder in every published Whisper: both runtimes always hear 30 s."""
SPEAKING = "WhisperForConditionalGeneration"
EMBEDDING, OUTPUT = "decoder.embed_tokens.weight", "proj_out.weight"
"""Names of the token embedding (below the prefix) and of the output layer."""


def dimensions(stored: Stored) -> Dimensions:
    """Return everything the shape of a Whisper depends on, there."""
    config = stored.config
    embeddings = stored.source.infos[embedding(stored)].shape
    convolution = stored.source.infos[f"{stored.claims.prefix}encoder.conv1.weight"].shape
    return Dimensions(
        n_mels=convolution[1],
        n_audio_ctx=config.max_source_positions,
        n_audio_state=config.d_model,
        n_audio_head=config.encoder_attention_heads,
        n_audio_layer=config.encoder_layers,
        n_vocab=embeddings[0],
        n_text_ctx=config.max_target_positions,
        n_text_state=config.d_model,
        n_text_head=config.decoder_attention_heads,
        n_text_layer=config.decoder_layers,
    )


def embedding(stored: Stored) -> str:
    """Return the stored tensor that embeds the tokens of a Whisper with a decoder."""
    usual = stored.claims.prefix + EMBEDDING
    return usual if usual in stored.source.infos else OUTPUT


def output(stored: Stored) -> str:
    """Return the stored tensor that makes logits of tokens, of a Whisper with a decoder."""
    return OUTPUT if OUTPUT in stored.source.infos else embedding(stored)


def no_speech(stored: Stored) -> str | None:
    """Say why a Whisper says nothing; ``None`` where it does."""
    raw, infos = stored.source.config, stored.source.infos
    named = (raw.get("architectures") or [SPEAKING])[0]
    if named != SPEAKING:
        return f"its class is {named}, and only {SPEAKING} says words"
    if not any(name.startswith(f"{stored.claims.prefix}decoder.") for name in infos):
        return "it has no decoder"
    names = stored.claims.prefix + EMBEDDING, OUTPUT
    if not any(name in infos for name in names):
        return "it has no token embedding"
    return lacking(stored.source, *names, tied=bool(raw.get("tie_word_embeddings", True)))


def obstacle(stored: Stored) -> str | None:
    """Say why a Whisper cannot be written in their form at all; ``None`` where it can."""
    raw = stored.source.config
    if reason := no_speech(stored):
        return reason
    if foreign := [
        name for name in stored.source.infos if name.startswith(("projector.", "classifier."))
    ]:
        return f"it is no speech recogniser: it has {foreign[0]}"
    if raw.get("activation_function", "gelu") != "gelu":
        return f"its activation is {raw['activation_function']}, and there it is always gelu"
    if raw.get("scale_embedding"):
        return "it scales its embeddings, which is never done there"
    layers = word_layers(stored.source, stored.claims.prefix + EMBEDDING, OUTPUT)
    if layers is not None and not layers.tied:
        return "its output layer is not its token embedding, and there it always is"
    width = 4 * stored.config.d_model
    for path, one in stored.maps.items():
        if path.endswith(".fc1") and one.out_features > width:
            return f"{path} has {one.out_features} units, and there is room for {width}"
    return None


def speaks(stored: Stored) -> str | None:
    """Say why its recordings or tokens are none of theirs; ``None`` where they are."""
    positions = stored.config.max_source_positions
    if positions != FRAMES:
        return f"its window has {positions} positions, and theirs always {FRAMES} (30 s)"
    return foreign(stored, dimensions(stored).n_vocab)


@dataclass(frozen=True)
class Renamed:
    """One tensor under openai-whisper's name.

    Attributes:
        name: Name there.
        dtype: Stored dtype.
        shape: Shape there.
        tensor: Returns it, computed when called.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    tensor: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Size in the stored dtype."""
        return math.prod(self.shape) * self.dtype.itemsize


def refilled(stored: Stored) -> str | None:
    """Say that feed-forward blocks are narrower than both runtimes have them; ``None``: none is."""
    if all(block.neurons == 4 * block.width for block in stored.blocks):
        return None
    return "feed-forward blocks filled up with zeros to four times the model's width"


def renamed(stored: Stored, tensors: MergedTensors) -> Iterator[Renamed]:
    """Yield every tensor of a Whisper under openai-whisper's names.

    Both runtimes want four times the model's width between the maps of a feed-forward block.
    Fewer units are filled up with zeros: gelu(0) = 0, so the function stays.

    Args:
        stored: A Whisper without :func:`obstacle`.
        tensors: Its dense or pruned tensors.
    """
    specs = {spec.name: spec for shard in tensors.specs().values() for spec in shard}
    width = 4 * stored.config.d_model
    prefix = stored.claims.prefix
    for there, usual in tensor_names(dimensions(stored)):
        name = prefix + usual.removeprefix("model.")
        if name == prefix + EMBEDDING:
            name = embedding(stored)
        axis = {"mlp.0": 0, "mlp.2": 1}.get(there.rpartition(".")[0][-5:])
        shape = specs[name].shape
        if axis is None or axis >= len(shape):
            yield Renamed(there, specs[name].dtype, shape, _whole(tensors, name))
        else:
            grown = (*shape[:axis], width, *shape[axis + 1 :])
            yield Renamed(there, specs[name].dtype, grown, _grown(tensors, name, grown))


def _whole(tensors: MergedTensors, name: str) -> Callable[[], Tensor]:
    return lambda: tensors.tensor(name)


def _grown(tensors: MergedTensors, name: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    def tensor() -> Tensor:
        small = tensors.tensor(name)
        missing = [wanted - size for wanted, size in zip(shape, small.shape, strict=True)]
        return F.pad(small, [each for gap in reversed(missing) for each in (0, gap)])

    return tensor


def alignment_heads(source: TensorSource, dims: Dimensions) -> Alignment:
    """Return the cross-attention heads (layer, head) that follow the audio, where known."""
    raw: Mapping[str, Any] = {}
    for path in source.sidecars():
        if path.name == GENERATION:
            raw = read_json(path)
    if source.directory is None and not source.sidecars():  # openai-whisper's own file
        raw = {KEY: known_heads(dims, source.name)}
    return read_alignment(raw, dims.n_text_layer, dims.n_text_head)
