"""What the real Whisper makes of real recordings, computed once for all who compare with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from surgery.evaluation.audio import Audio, SpeechFolder
from surgery.evaluation.transcribe import log_mel, transcribe

CLIPS = 3  # of each folder of digits; benchmarks/whisper_frontier.py transcribes them all
SENTENCES = 2


@dataclass(frozen=True)
class RealWhisper:
    """The unchanged model in float32.

    Attributes:
        path: Its directory.
        clips: Spoken digits, from voices it was trained on and from others.
        texts: What it writes for each.
        states: Encoder output on sentences, float64 of shape (sentences, positions, width).
    """

    path: Path
    model: Any
    processor: Any
    clips: list[Audio]
    texts: list[str]
    features: Tensor
    states: Tensor

    @classmethod
    def load(cls, shared: Path) -> RealWhisper:
        path = shared / "checkpoints" / "whisper-tiny.en-digits"
        model = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
        processor = WhisperProcessor.from_pretrained(path)
        folders = [shared / "audio" / "digits" / name for name in ("test_seen", "test_unseen")]
        clips = [clip for each in folders for clip in SpeechFolder.open(each, limit=CLIPS).audio()]
        sentences = SpeechFolder.open(shared / "audio" / "speech" / "test", limit=SENTENCES)
        window = processor.feature_extractor.n_samples
        features = log_mel(model, processor, [clip[:window] for clip in sentences.audio()])
        texts = transcribe(model, processor, clips)
        states = encoded(model, features)
        return cls(path, model, processor, clips, texts, features, states)

    def error(self, model: Any, sentences: int = SENTENCES) -> float:
        """How far another model's encoder output is from this one's, relative."""
        found = encoded(model, self.features[:sentences])
        expected = self.states[:sentences]
        return float((found - expected).norm() / expected.norm())


def encoded(model: Any, features: Tensor) -> Tensor:
    with torch.inference_mode():
        states: Tensor = model.get_encoder()(features.to(model.dtype))[0]
    return states.double()
