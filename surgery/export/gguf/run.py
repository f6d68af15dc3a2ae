"""A GGUF in llama.cpp, beside ours: the next token after one text, as probable token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.byte_bpe import to_bytes
from surgery.errors import SurgeryError
from surgery.export.gguf.words import BYTE, MERGED, NORMAL, Words
from surgery.export.reference import Reference, difference

STEPS = 12
"""Tokens that llama.cpp says after the prompt."""
PROBABLE = 40
"""Most probable tokens of every step that are compared."""


class LlamaCpp:
    """A model in llama.cpp's server, in this process, on one local port.

    Args:
        path: The file.
        length: Tokens that its cache has room for.
        template: A chat template to take in place of the file's.

    Raises:
        SurgeryError: llama.cpp does not start with it.
    """

    def __init__(self, path: Path, length: int, *, template: str = "") -> None:
        import xllamacpp

        self._path = path
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx = length
        options.n_parallel = 1
        options.n_gpu_layers = 0
        options.warmup = False
        options.fit_params = False
        options.ui = False
        options.port = 0  # any that is free
        options.verbosity = -1
        options.chat_template = template
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.flash_attn_type = off  # it rounds to halves
        single = xllamacpp.ggml_type.GGML_TYPE_F32  # keys and values are halves by default
        options.cache_type_k = options.cache_type_v = single
        threads = torch.get_num_threads()
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        try:
            self._server: Any = xllamacpp.Server(options)
        except RuntimeError as error:
            raise SurgeryError(
                "llama.cpp cannot run what was written", where=path, found=str(error)
            ) from error

    def next(self, prompt: list[int], never: Sequence[int]) -> tuple[int, dict[int, float]] | None:
        """Say the likeliest token after others, and how probable it and the next likely ones are.

        One at a time: of a longer answer the server leaves out every token that ends within a
        character, and does not say where.

        Args:
            prompt: Token ids.
            never: Tokens that are not said, however likely; they are among the probable all the
                same.

        Returns:
            The token, and the logarithms of the largest probabilities, by token; ``None`` where
            the server tells neither.
        """
        found = self._completed(prompt, 1, logit_bias=[[token, False] for token in never])
        content = (found["logprobs"] or {}).get("content") or []
        if not content:
            return None
        (step,) = content
        likely = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
        return step["id"], {token: value for token, value in likely.items() if value > -50}

    def said(self, prompt: list[int] | str, steps: int) -> tuple[str, int]:
        """Continue a prompt greedily.

        Args:
            prompt: Token ids, or a text.
            steps: How many tokens are said at most.

        Returns:
            The text, and how many tokens the prompt had.
        """
        found = self._completed(prompt, steps)
        return found["text"], found["usage"]["prompt_tokens"]

    def _completed(self, prompt: list[int] | str, steps: int, **asked: Any) -> dict[str, Any]:
        found = self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": steps,
                "temperature": 0.0,
                "n_probs": PROBABLE,
                "cache_prompt": True,
                **asked,
            }
        )
        if "choices" not in found:
            raise SurgeryError(
                "llama.cpp does not go on with what was written",
                where=self._path,
                found=str(found.get("error", found)),
                expected=f"a continuation of {prompt!r}"[:100],
            )
        return {**found["choices"][0], "usage": found["usage"]}


@dataclass(frozen=True)
class Heard:
    """How llama.cpp and ours compare.

    Attributes:
        what: What was compared.
        error: Relative difference of the log-probabilities; ``None`` where there are none.
        differing: How else it reads a text, ours and theirs.
    """

    what: str
    error: float | None
    differing: tuple[str, str] | None


def compare(
    reference: Reference, path: Path, room: int, words: Words, ends: Sequence[int]
) -> Heard:
    """Compare llama.cpp's log-probabilities with ours, and how it reads a text.

    It says what it likes best of what is a text of its own and ends none; ours is asked how
    probable its likeliest tokens are after the same words.

    Args:
        reference: What our runtime computes.
        path: The file.
        room: Tokens a text may have.
        words: The file's tokenizer.
        ends: Tokens that end a text.
    """
    _ = reference.outputs  # sound, or refused
    steps = min(STEPS, room // 2)
    text: list[int] = reference.prompt[0, : room - steps].tolist()
    start = len(text)
    theirs, note = _started(path, start + steps + 8)
    never = sorted({*partial(words), *ends})
    probable: list[dict[int, float]] = []
    while len(probable) < steps and (found := theirs.next(text, never)) is not None:
        text.append(found[0])
        probable.append(found[1])
    if not probable:
        return Heard(f"that it runs; llama.cpp told no probabilities{note}", None, None)
    with torch.inference_mode():
        logits = reference.model(input_ids=torch.tensor([text[:-1]]))[0][0, start - 1 :].double()
    ours = logits.log_softmax(dim=-1)
    pairs = [
        (float(row[token]), value)
        for row, step in zip(ours, probable, strict=True)
        for token, value in step.items()
    ]
    here, there = torch.tensor(pairs, dtype=torch.float64).T
    what = f"log-probabilities of {len(probable)} tokens"
    differing = None
    if not words.stand_in and reference.words is not None:
        what += ", and how a text is read"
        spelled = reference.words.decode(text[: start // 2], skip_special_tokens=True)
        read: list[int] = reference.words(spelled)["input_ids"]
        one, other = theirs.said(read, steps), theirs.said(spelled, steps)
        differing = None if one == other else (repr(one), repr(other))
    return Heard(what + note, difference(here, there), differing)


def partial(words: Words) -> list[int]:
    """Return the tokens that end within a character: the server tells nothing of them."""
    found = []
    for place, (token, kind) in enumerate(zip(words.tokens, words.kinds, strict=True)):
        raw = None
        if kind == BYTE:
            raw = bytes([int(token[1:-1], 16)])
        elif kind == NORMAL and words.model == MERGED:
            raw = to_bytes(token)
        try:
            (raw or b"").decode()
        except UnicodeDecodeError:
            found.append(place)
    return found


def _started(path: Path, length: int) -> tuple[LlamaCpp, str]:
    """Start llama.cpp; with another chat template, where it cannot read the file's."""
    try:
        return LlamaCpp(path, length), ""
    except SurgeryError:
        other = LlamaCpp(path, length, template="chatml")
        return other, "; it cannot read the chat template, and starts with --chat-template only"
