"""What our own runtime computes of a checkpoint, on input that the package ships."""

from __future__ import annotations

from functools import cached_property
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgery.architectures.known import input_of
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError
from surgery.stored.adapted import AdaptedSource

if TYPE_CHECKING:
    from surgery.evaluation.audio import Audio

CLIPS = 2
"""Embedded recordings that are compared on."""
TOKENS = 32
"""Longest prompt that a language model is compared on."""
FRAMES_PER_SECOND = 100  # of log-mel


class Reference:
    """A checkpoint as :func:`surgery.load` runs it, in float32 on the CPU; loaded when asked.

    Args:
        source: The opened checkpoint, or adapter on its base.
    """

    def __init__(self, source: TensorSource) -> None:
        self.source = source

    @cached_property
    def model(self) -> Any:
        """The model."""
        from surgery.stored.dense import dense_directory
        from surgery.stored.loading import load_opened

        with dense_directory(self.source) as directory:
            return load_opened(self.source, directory, dtype=torch.float32)

    @cached_property
    def hears(self) -> bool:
        """Whether it is a Whisper."""
        return input_of(self.source.config["model_type"]) == "audio"

    @cached_property
    def words(self) -> Any | None:
        """Processor of a Whisper, tokenizer of a language model; ``None`` where there is none."""
        from surgery.engine.measure.input import data_kind, read_processor
        from surgery.stored.dense import dense_directory

        # An adapter's are its base's, which lies where it was found, not where it once was.
        owner = self.source.base if isinstance(self.source, AdaptedSource) else self.source
        try:
            with dense_directory(owner) as directory:
                return read_processor(directory, data_kind(self.source))
        except CheckpointError:
            return None

    @cached_property
    def clips(self) -> list[Audio]:
        """Embedded recordings: mono float32 at 16 kHz, (samples,) each."""
        from surgery.engine.measure.input import EMBEDDED_CLIPS, embedded
        from surgery.evaluation.audio import SpeechFolder

        with embedded(EMBEDDED_CLIPS) as folder:
            speech = SpeechFolder.open(folder)
            return [one.audio() for one in speech.utterances[:CLIPS]]

    @cached_property
    def features(self) -> Tensor:
        """Log-mel of :attr:`clips`, (clips, mel bins, frames); noise in windows of no whole second.

        Without a processor they are computed as every Whisper's are.
        """
        from surgery.evaluation.transcribe import extract_features

        if self.words is not None:
            return extract_features(self.words, self.clips)
        config = self.model.config
        seconds, rest = divmod(2 * config.max_source_positions, FRAMES_PER_SECOND)
        if rest == 0:
            from transformers import WhisperFeatureExtractor

            made: Any = WhisperFeatureExtractor  # untyped
            usual = made(config.num_mel_bins, chunk_length=seconds)
            return extract_features(SimpleNamespace(feature_extractor=usual), self.clips)
        generator = torch.Generator().manual_seed(0)
        shape = (CLIPS, config.num_mel_bins, 2 * config.max_source_positions)
        return torch.randn(shape, generator=generator)

    @cached_property
    def heard(self) -> Tensor:
        """The encoder's output of :attr:`features`, (clips, positions, d_model)."""
        with torch.inference_mode():
            output: Tensor = self.model.get_encoder()(self.features).last_hidden_state
        return output

    @cached_property
    def said(self) -> tuple[list[int], list[list[int]]]:
        """Tokens a Whisper is told first, and those it then says of each of :attr:`clips`.

        See :func:`surgery.export.saying.say`.
        """
        from surgery.export.saying import say

        return say(self.model, self.features)

    @cached_property
    def prompt(self) -> Tensor:
        """Token ids, (1, length): the sample text, or a decoder's start and ids without meaning."""
        from surgery.engine.measure.input import embedded
        from surgery.evaluation.transcribe import start_token

        config = self.model.config
        limit = TOKENS
        for name in ("max_target_positions", "max_position_embeddings", "n_positions"):
            limit = min(limit, getattr(config, name, None) or limit)
        if self.words is not None and not self.hears:
            with embedded("sample.txt") as path:
                ids: Tensor = self.words(path.read_text("utf-8"), return_tensors="pt")["input_ids"]
            if ids.shape[1] > 0 and int(ids.max()) < config.vocab_size:  # its own tokenizer
                return ids[:, :limit]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, config.vocab_size, (1, limit), generator=generator)
        if self.hears:
            ids[0, 0] = start_token(config)
        return ids

    @cached_property
    def outputs(self) -> Tensor:
        """Logits (hidden states where there is no head) at :attr:`prompt`, (1, length, width).

        A Whisper is told :attr:`prompt` on its first clip, as far as it has both towers.

        Raises:
            CheckpointError: One is NaN or infinite: nothing can be compared with that.
        """
        found = outputs(self.model, self)
        if not bool(found.isfinite().all()):
            raise CheckpointError(
                "The checkpoint computes NaN or infinity, so no other runtime can agree with it",
                where=self.source.name,
                hint="run surgery verify on it: some weight is damaged, or too large for its type",
            )
        return found


def outputs(model: Any, reference: Reference) -> Tensor:
    """Return what any transformers model makes of a reference's input, as float32.

    See :attr:`Reference.outputs`.
    """
    with torch.inference_mode():
        # A Whisper's head may leave a tower out; wrappers such as PEFT's take anything.
        takes = signature(reference.model.forward).parameters
        given: dict[str, Tensor] = {}
        if "input_features" in takes:
            given["input_features"] = reference.features[:1]
        for name in ("decoder_input_ids", "input_ids"):
            if name in takes:
                given[name] = reference.prompt
        found = model(**given)
    first: Tensor = found[0]
    return first.float()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours − theirs‖ / ‖ours‖ in float64; infinite where theirs is not finite."""
    ours, theirs = ours.double(), theirs.double()
    if ours.shape != theirs.shape or not bool(theirs.isfinite().all()):
        return float("inf")
    return float((ours - theirs).norm() / ours.norm().clamp_min(torch.finfo(torch.float64).tiny))
