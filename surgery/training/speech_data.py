"""Recordings with transcripts as Whisper is taught them: log-mel made when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from surgery.calibration.speech import prompt
from surgery.errors import SurgeryError
from surgery.evaluation.audio import SAMPLE_RATE, SpeechFolder, Utterance, window
from surgery.evaluation.transcribe import extract_features, log_mel
from surgery.evaluation.vocabulary import check_tokens, may_exceed, rows_of
from surgery.training.examples import IGNORED

ASKED = 8
"""Recordings that decide whether a model's texts begin with a space."""


class SpeechExamples(Dataset[dict[str, Tensor]]):
    """Recordings with what the decoder is fed and what it is to say next.

    An item holds ``input_features``, float32, ``(mel bins, frames)``; ``decoder_input_ids``,
    int64, ``(n,)``: the prompt (start, for a multilingual model language and task, no timestamps)
    and the words; and ``labels``, int64, ``(n,)``: the words and ``<|endoftext|>``, each at the
    position that predicts it. The prompt is given whenever the model is used here, so none of it
    is learnt: not the language either, which data of one language would only make it forget.

    Everything but the sound itself is checked when the set is made.

    Args:
        folder: Recordings, each of at most one window, with transcripts.
        processor: Feature extractor and tokenizer.
        model: The Whisper that is to be trained: its prompt, its longest text.
        language: What is spoken.
        start: What stands before the first word: a space, or nothing. By default what the model
            itself writes (:func:`text_start`).

    Attributes:
        folder: As given.
        targets: How many tokens all recordings together teach.

    Raises:
        SurgeryError: The transcripts are missing, a recording has no words, cannot be read or is
            longer than a window, or a text than the decoder; names the file.
        UsageError: The model does not know the language.
    """

    def __init__(
        self,
        folder: SpeechFolder,
        processor: Any,
        model: Any,
        language: str = "en",
        *,
        start: str | None = None,
    ) -> None:
        words = spoken(folder)
        for utterance in folder.utterances:
            _check_length(utterance, window(processor))
        self.folder = folder
        self._processor = processor
        self._prompt = prompt(model, language)
        self._closing = int(processor.tokenizer.eos_token_id)
        rows = rows_of(model)
        check_tokens([*self._prompt, self._closing], rows, processor.tokenizer)
        check_transcripts(folder, processor, rows)
        if start is None:
            start = text_start(model, processor, folder, language)
        longest = int(model.config.max_target_positions) - len(self._prompt)
        self._words = []
        for utterance, text in zip(folder.utterances, words, strict=True):
            tokens = _encode(processor, text, start)
            if len(tokens) > longest:
                raise SurgeryError(
                    "This text is longer than the decoder.",
                    where=utterance.path,
                    found=f"{len(tokens)} tokens",
                    expected=f"at most {longest}",
                    hint="Cut the recording into pieces with transcripts of their own.",
                )
            self._words.append(tokens)
        self.targets = sum(len(tokens) + 1 for tokens in self._words)

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self._words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read one recording."""
        words = self._words[index]
        given = [IGNORED] * (len(self._prompt) - 1)
        audio = self.folder.utterances[index].audio()
        return {
            "input_features": extract_features(self._processor, [audio])[0],
            "decoder_input_ids": torch.tensor([*self._prompt, *words]),
            "labels": torch.tensor([*given, *words, self._closing]),
        }


def spoken(folder: SpeechFolder) -> list[str]:
    """Return the words of every recording.

    Raises:
        SurgeryError: The transcripts are missing, or a line of them has no words.
    """
    words = folder.references()
    for utterance, text in zip(folder.utterances, words, strict=True):
        if not text.strip():
            raise SurgeryError(
                "There is nothing to learn here.",
                where=utterance.where or utterance.path,
                found=f"no words for {utterance.path.name}",
                expected="what is said in it",
                hint="write it behind the tab, or take the line out",
            )
    return words


def collate_speech(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batch items of :class:`SpeechExamples`: ``(clips, …)``, texts padded on the right.

    Labels are padded with ``IGNORED``. The decoder's padding is its start token: it comes after
    all that is learnt, and the decoder looks back only, so it needs no mask.
    """
    told = [item["decoder_input_ids"] for item in items]
    return {
        "input_features": torch.stack([item["input_features"] for item in items]),
        "decoder_input_ids": pad_sequence(told, batch_first=True, padding_value=float(told[0][0])),
        "labels": pad_sequence(
            [item["labels"] for item in items], batch_first=True, padding_value=IGNORED
        ),
    }


def text_start(model: Any, processor: Any, folder: SpeechFolder, language: str = "en") -> str:
    """Return what a model writes before the first word: a space, or nothing.

    OpenAI's models begin with a space, many that others have trained do not, and to one who writes
    the first token in one way the other is all but impossible. So the first recordings are played
    to it, and the likelier first token wins: a space where nothing decides.

    Args:
        model: A Whisper; not changed.
        processor: Its processor.
        folder: Recordings with transcripts, of at most one window each.
        language: What is spoken.
    """
    pairs = []
    for utterance in folder.utterances:
        spaced = _encode(processor, utterance.words or "", " ")
        plain = _encode(processor, utterance.words or "", "")
        if spaced and plain and spaced[0] != plain[0]:
            pairs.append((utterance, spaced[0], plain[0]))
        if len(pairs) == ASKED:
            break
    given = torch.tensor([prompt(model, language)], device=model.device)
    training = model.training
    model.eval()
    gain = 0.0
    for utterance, spaced_token, plain_token in pairs:
        with torch.no_grad():
            logits = model(
                input_features=log_mel(model, processor, [utterance.audio()]),
                decoder_input_ids=given,
                use_cache=False,
            ).logits[0, -1]
        gain += float(logits[spaced_token]) - float(logits[plain_token])
    model.train(training)
    return " " if gain >= 0.0 else ""


def check_transcripts(folder: SpeechFolder, processor: Any, rows: int | None) -> None:
    """Refuse transcripts with a token that a model of so many embeddings does not know.

    Raises:
        CheckpointError: Names tokenizer, token and recording.
    """
    if not may_exceed(processor.tokenizer, rows):
        return
    for utterance in folder.utterances:
        for start in ("", " "):
            tokens = _encode(processor, utterance.words or "", start)
            check_tokens(tokens, rows, processor.tokenizer, utterance.path)


def _encode(processor: Any, words: str, start: str) -> list[int]:
    text = f"{start}{words}" if words else ""
    return list(processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _check_length(utterance: Utterance, longest: int) -> None:
    try:
        header = soundfile.info(utterance.path)
        samples = header.frames * SAMPLE_RATE / header.samplerate
    except (OSError, soundfile.LibsndfileError):
        samples = utterance.audio().size  # which says what is wrong
    if samples > longest:
        raise SurgeryError(
            "This recording is longer than what the model hears at once.",
            where=utterance.path,
            found=f"{samples / SAMPLE_RATE:.1f} s",
            expected=f"at most {longest / SAMPLE_RATE:g} s",
            hint="Cut it into pieces with transcripts of their own.",
        )
