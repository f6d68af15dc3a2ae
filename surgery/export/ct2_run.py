"""A Whisper in CTranslate2 beside ours: what it hears, its scores of the first word, its texts."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.engine.stored import Stored, read_stored
from surgery.evaluation.transcribe import generation_options
from surgery.export.ct2_files import NO_TIMESTAMPS
from surgery.export.ct2_quantise import INTEGERS
from surgery.export.reference import Reference, difference
from surgery.export.target import Comparison

SAME = 1e-4
"""Largest relative difference where every weight is written as it is; 3.3e-6 was measured."""
ROUNDINGS = 32
"""What rounding every weight once may cost, in units of its type.

Four layers were measured to cost up to 4.3; errors of layers that know nothing of each other add
like their roots, so that 32 layers cost about 12.
"""
INTEGER = 0.25
"""What integer weights and activations may cost: 0.059 on four layers, so about 0.17 on 32."""
LONGEST = 64
"""Tokens of a text that are compared: a damaged model may repeat itself up to its limit."""


def compare(reference: Reference, directory: Path, quantization: str | None) -> Comparison:
    """Run what was written in CTranslate2 on the CPU, beside ours in float32.

    Texts must be the same where no weight was rounded; elsewhere a close decision may turn, and
    it is only told. Half precision is computed in float32, as few CPUs know it.

    Args:
        reference: What our runtime computes.
        directory: The written model.
        quantization: Type of its weights; ``None``: as they were stored.
    """
    import ctranslate2

    kind = compute_type(quantization, ctranslate2.get_supported_compute_types("cpu"))
    theirs = ctranslate2.models.Whisper(
        str(directory), device="cpu", compute_type=kind, intra_threads=torch.get_num_threads()
    )
    features = ctranslate2.StorageView.from_array(reference.features.contiguous().numpy())
    encoded = theirs.encode(features, to_cpu=True)
    given = prompt(reference)
    scores = _scores(theirs, encoded, given)
    error = max(
        difference(reference.heard, torch.from_numpy(np.array(encoded))),
        difference(first_scores(reference, given), scores),
    )
    stored = read_stored(reference.source)
    unrounded = bound(stored, quantization) == SAME
    what = f"encoder and first scores on {len(scores)} recordings"
    differing = []
    if _tokens(directory)[given[-1]] == NO_TIMESTAMPS:  # where it is not, timestamps are forced
        pairs = list(zip(*_texts(reference, theirs, encoded, given), strict=True))
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        same = f"{len(pairs) - len(differing)} of {len(pairs)}" if differing else "all"
        what += f"; {same} texts the same"
        if differing and not unrounded:
            what += " (rounded weights may turn a close decision)"
    return Comparison(
        f"CTranslate2 {version('ctranslate2')} ({kind})",
        what,
        error,
        bound(stored, quantization),
        differing=differing[0] if differing and unrounded else None,
    )


def compute_type(quantization: str | None, supported: set[str]) -> str:
    """Return what CTranslate2 is to compute in: integers where they are stored, else float32."""
    if quantization in INTEGERS:
        wanted = "int16" if quantization == "int16" else "int8_float32"
        if wanted in supported:
            return wanted
    return "float32"


def rounded(stored: Stored, quantization: str | None) -> set[torch.dtype]:
    """Return the half types that weights are rounded to after what our runtime computes with."""
    types = {info.dtype for info in stored.source.infos.values()}
    halves = types & {torch.float16, torch.bfloat16}
    found = halves if stored.linears else set()  # small parts are merged in
    if quantization in ("float16", "bfloat16"):
        found |= {getattr(torch, quantization)} - (types if len(types) == 1 else set())
    return found


def bound(stored: Stored, quantization: str | None) -> float:
    """Return the largest relative difference that counts as the same."""
    if quantization in INTEGERS:
        return INTEGER
    types = rounded(stored, quantization)
    return SAME + sum(ROUNDINGS * torch.finfo(dtype).eps / 2 for dtype in types)


def prompt(reference: Reference) -> list[int]:
    """Return the tokens that transformers lets the decoder begin with: language, task and all."""
    return _generated(reference, 1, reference.features[:1], whole=True)[0, :-1].tolist()


def first_scores(reference: Reference, given: list[int]) -> Tensor:
    """Return our logits of the first token of each text, (clips, vocabulary)."""
    ids = torch.tensor([given] * len(reference.heard))
    with torch.inference_mode():
        logits: Tensor = reference.model(
            encoder_outputs=(reference.heard,), decoder_input_ids=ids
        ).logits
    return logits[:, -1].float()


def _scores(theirs: Any, encoded: Any, given: list[int]) -> Tensor:
    """Return their logits of the first token of each text, (clips, vocabulary)."""
    results = theirs.generate(
        encoded,
        [given] * encoded.shape[0],
        beam_size=1,
        max_length=_limit(1, given),
        return_logits_vocab=True,
        suppress_blank=False,
        suppress_tokens=[],
    )
    first = [np.array(result.logits[0][0]).reshape(-1) for result in results]
    return torch.from_numpy(np.stack(first))


def _tokens(directory: Path) -> list[str]:
    tokens: list[str] = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))
    return tokens


def _texts(
    reference: Reference, theirs: Any, encoded: Any, given: list[int]
) -> tuple[list[str], list[str]]:
    """Return what is heard in every recording, ours and theirs, greedily."""
    room = min(LONGEST, reference.model.config.max_target_positions - len(given))
    ours = _generated(reference, room, reference.features).tolist()
    results = theirs.generate(
        encoded, [given] * len(ours), beam_size=1, max_length=_limit(room, given)
    )
    return (
        [_words(reference, ids) for ids in ours],
        [_words(reference, result.sequences_ids[0]) for result in results],
    )


def _limit(room: int, given: list[int]) -> int:
    """Return the ``max_length`` with which CTranslate2 says up to ``room`` tokens.

    It allows the smaller of half of it and what the prompt leaves of it.
    """
    return max(2 * room, room + len(given))


def _generated(reference: Reference, room: int, features: Tensor, *, whole: bool = False) -> Tensor:
    """Return our tokens, (clips, length); ``whole``: those that were given, too."""
    mask = torch.ones(features.shape[0], features.shape[-1])
    # Whisper's generate adds the prompt to this; told `max_new_tokens`, it would warn of both.
    options = generation_options(reference.model) | {"max_length": room}
    with torch.inference_mode():
        found = reference.model.generate(
            features, attention_mask=mask, return_dict_in_generate=whole, **options
        )
    tokens: Tensor = found.sequences if whole else found
    return tokens


def _words(reference: Reference, ids: list[int]) -> str:
    """Return a text, or tokens up to the end where there is nothing to read them with."""
    if reference.words is not None:
        return str(reference.words.decode(ids, skip_special_tokens=True)).strip()
    generation = reference.model.generation_config
    ends = {generation.eos_token_id, generation.pad_token_id}
    length = next((place for place, one in enumerate(ids) if one in ends), len(ids))
    return " ".join(map(str, ids[:length]))
