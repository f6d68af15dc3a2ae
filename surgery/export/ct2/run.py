"""A Whisper in CTranslate2 beside ours: what it hears, its scores of the first word, its texts."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.export.ct2.files import NO_TIMESTAMPS, START
from surgery.export.ct2.quantise import INTEGERS
from surgery.export.reference import Reference, difference
from surgery.export.saying import longest, suppressed
from surgery.export.target import Comparison
from surgery.export.whisper.spoken import compared, unsaid
from surgery.stored.stored import Stored, read_stored

SAME = 1e-4
"""Largest relative difference where every weight is written as it is; 3.3e-6 was measured."""
ROUNDINGS = 32
"""What rounding every weight once may cost, in units of its type.

Four layers were measured to cost up to 4.3; errors of layers that know nothing of each other add
like their roots, so that 32 layers cost about 12.
"""
INTEGER = 0.25
"""What integer weights and activations may cost: 0.059 on four layers, so about 0.17 on 32."""
TIE = 1e-2
"""Logits closer than this may change places by rounding in float32."""


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
    error = difference(reference.heard, torch.from_numpy(np.array(encoded)))
    allowed = bound(read_stored(reference.source), quantization)
    tokens = _tokens(directory)
    reason = unsaid(reference) or _unprompted(tokens, reference)
    given = [tokens.index(START), tokens.index(NO_TIMESTAMPS)] if reason else reference.said[0]
    scores = _first_scores(theirs, encoded, given)
    error = max(error, difference(first_scores(reference, given), scores))
    what, other = f"encoder and first scores on {len(scores)} recordings", None
    if reason is None:
        texts = compared(reference, _said(theirs, encoded, given, reference), TIE)
        what, other = f"{what}; {texts.told}", texts.differing
    else:
        what += f"; {reason}"
    return Comparison(
        f"CTranslate2 {version('ctranslate2')} ({kind})",
        what,
        error,
        allowed,
        differing=other if allowed == SAME else None,
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


def first_scores(reference: Reference, given: list[int]) -> Tensor:
    """Return our logits of the first token of each text, (clips, vocabulary)."""
    ids = torch.tensor([given] * len(reference.heard))
    with torch.inference_mode():
        logits: Tensor = reference.model(
            encoder_outputs=(reference.heard,), decoder_input_ids=ids
        ).logits
    return logits[:, -1].float()


def _first_scores(theirs: Any, encoded: Any, given: list[int]) -> Tensor:
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


def _said(theirs: Any, encoded: Any, given: list[int], reference: Reference) -> list[list[int]]:
    """Return the tokens they say, greedily; their own list of what is never said must be ours."""
    own = getattr(reference.model.generation_config, "suppress_tokens", None) or []
    results = theirs.generate(
        encoded,
        [given] * encoded.shape[0],
        beam_size=1,
        max_length=_limit(longest(reference.model), given),
        suppress_tokens=[-1, *set(suppressed(reference.model)).difference(own)],
    )
    return [result.sequences_ids[0] for result in results]


def _limit(room: int, given: list[int]) -> int:
    """Return the ``max_length`` with which CTranslate2 says up to ``room`` tokens.

    It allows the smaller of half of it and what the prompt leaves of it.
    """
    return max(2 * room, room + len(given))


def _unprompted(tokens: list[str], reference: Reference) -> str | None:
    """Say why CTranslate2 does not take our prompt as it is; ``None`` where it does."""
    given = [tokens[token] for token in reference.said[0]]
    if START not in given or given[-1] != NO_TIMESTAMPS:  # it looks for one, and adds the other
        return f"no text: generation_config.json leads to the prompt {' '.join(given)}"
    return None


def _tokens(directory: Path) -> list[str]:
    tokens: list[str] = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))
    return tokens
