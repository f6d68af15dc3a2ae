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
from surgery.engine.merged import MergedTensors
from surgery.engine.stored import Stored

FRAMES = 1500
"""Positions of the encoder in every published Whisper: both runtimes always hear 30 s."""
SPEAKING = "WhisperForConditionalGeneration"
VOCABULARIES = (51864, 51865, 51866)
"""Sizes of the vocabularies that both runtimes know: English, multilingual, with Cantonese."""


def dimensions(stored: Stored) -> Dimensions:
    """Return everything the shape of a Whisper depends on, there."""
    config = stored.config
    embeddings = stored.source.infos[f"{stored.claims.prefix}decoder.embed_tokens.weight"].shape
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


def no_speech(raw: Mapping[str, Any]) -> str | None:
    """Say why a Whisper of this configuration says nothing; ``None`` where it does."""
    named = (raw.get("architectures") or [SPEAKING])[0]
    return None if named == SPEAKING else f"its class is {named}, and only {SPEAKING} says words"


def obstacle(stored: Stored) -> str | None:
    """Say why a Whisper cannot be written in their form at all; ``None`` where it can."""
    raw, prefix = stored.source.config, stored.claims.prefix
    if reason := no_speech(raw):
        return reason
    if not any(name.startswith(f"{prefix}decoder.") for name in stored.source.infos):
        return "it has no decoder"
    if foreign := [
        name for name in stored.source.infos if name.startswith(("projector.", "classifier."))
    ]:
        return f"it is no speech recogniser: it has {foreign[0]}"
    if raw.get("activation_function", "gelu") != "gelu":
        return f"its activation is {raw['activation_function']}, and there it is always gelu"
    if raw.get("scale_embedding"):
        return "it scales its embeddings, which is never done there"
    if raw.get("tie_word_embeddings") is False and "proj_out.weight" in stored.source.infos:
        return "its output layer is not its token embedding, and there it always is"
    width = 4 * stored.config.d_model
    for path, one in stored.maps.items():
        if path.endswith(".fc1") and one.out_features > width:
            return f"{path} has {one.out_features} units, and there is room for {width}"
    return None


def speaks(dims: Dimensions) -> str | None:
    """Say why its recordings or tokens are none of theirs; ``None`` where they are."""
    if dims.n_audio_ctx != FRAMES:
        return f"its window has {dims.n_audio_ctx} positions, and theirs always {FRAMES} (30 s)"
    if dims.n_vocab not in VOCABULARIES:
        return f"its vocabulary of {dims.n_vocab} tokens is none of OpenAI's"
    return None


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


def alignment_heads(source: TensorSource, dims: Dimensions) -> list[tuple[int, int]] | None:
    """Return the cross-attention heads (layer, head) that follow the audio, where known."""
    listed: object = None
    for path in source.sidecars():
        if path.name == "generation_config.json":
            listed = read_json(path).get("alignment_heads")
    if source.directory is None and not source.sidecars():  # openai-whisper's own file
        listed = known_heads(dims, source.name)
    if not isinstance(listed, list):
        return None
    heads = [tuple(each) for each in listed if isinstance(each, list)]
    known = {(i, j) for i in range(dims.n_text_layer) for j in range(dims.n_text_head)}
    return sorted(known.intersection(heads)) if heads and known.issuperset(heads) else None
