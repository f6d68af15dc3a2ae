"""A GGUF in llama.cpp, beside ours: the same continuation, as probable token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
    """

    def __init__(self, path: Path, length: int) -> None:
        import xllamacpp

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
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.flash_attn_type = off  # it rounds to halves
        single = xllamacpp.ggml_type.GGML_TYPE_F32  # keys and values are halves by default
        options.cache_type_k = options.cache_type_v = single
        threads = torch.get_num_threads()
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        self._server: Any = xllamacpp.Server(options)

    def said(
        self, prompt: list[int] | str, steps: int
    ) -> tuple[list[int], list[dict[int, float]], int]:
        """Continue a prompt greedily.

        Args:
            prompt: Token ids, or a text.
            steps: How many tokens are said at most.

        Returns:
            The tokens; the logarithms of the largest probabilities at every step, by token; how
            many tokens the prompt had.
        """
        found = self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": steps,
                "temperature": 0.0,
                "n_probs": PROBABLE,
                "cache_prompt": False,
            }
        )
        content = found["choices"][0]["logprobs"]["content"]
        tokens = [step["id"] for step in content]
        probable = [
            {one["id"]: one["logprob"] for one in step["top_logprobs"] if one["logprob"] > -50}
            for step in content
        ]
        return tokens, probable, found["usage"]["prompt_tokens"]


def compare(
    reference: Reference, path: Path, room: int, *, spoken: bool
) -> tuple[float, tuple[str, str] | None]:
    """Return how far llama.cpp's log-probabilities are from ours, and how else it reads a text.

    It says what it likes best; ours is asked how probable its likeliest tokens are after the same
    words.

    Args:
        reference: What our runtime computes.
        path: The file.
        room: Tokens a text may have.
        spoken: Whether it knows the model's words.
    """
    steps = min(STEPS, room // 2)
    prompt: list[int] = reference.prompt[0, : room - steps].tolist()
    theirs = LlamaCpp(path, len(prompt) + steps + 8)
    tokens, probable, _ = theirs.said(prompt, steps)
    with torch.inference_mode():
        told = torch.tensor([[*prompt, *tokens[:-1]]])
        logits = reference.model(input_ids=told)[0][0, len(prompt) - 1 :].double()
    ours = logits.log_softmax(dim=-1)
    pairs = [
        (float(row[token]), value)
        for row, step in zip(ours, probable, strict=True)
        for token, value in step.items()
    ]
    here, there = torch.tensor(pairs, dtype=torch.float64).T
    differing = None
    if spoken and reference.words is not None:
        text = reference.words.decode(prompt[: len(prompt) // 2], skip_special_tokens=True)
        read = reference.words(text)["input_ids"]
        one, other = theirs.said(read, steps), theirs.said(text, steps)
        if (one[0], len(read)) != (other[0], other[2]):
            differing = str((len(read), one[0])), str((other[2], other[0]))
    return difference(here, there), differing
