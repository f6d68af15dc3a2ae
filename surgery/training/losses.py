"""The loss that is minimised: cross-entropy over every label that counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.training.examples import IGNORED


def summed_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Return the cross-entropy summed over labels, in nats, float32.

    Causal language models predict the next label from each position; Whisper's decoder was given
    its labels shifted, so there positions and labels match.

    Args:
        outputs: Of the model, with ``logits (batch, length, vocabulary)``.
        labels: ``(batch, length)``, ``-100`` where nothing counts.
    """
    logits = outputs.logits
    if not hasattr(outputs, "encoder_last_hidden_state"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1).to(logits.device),
        ignore_index=IGNORED,
        reduction="sum",
    )


def mean_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Return the loss of one micro-batch as a share of its step's mean.

    Args:
        outputs: Of the model.
        labels: As in :func:`summed_loss`.
        num_items_in_batch: Labels that count in the whole step, over accumulated micro-batches
            and processes; ``None``: those of this micro-batch.
    """
    count = counted(outputs, labels) if num_items_in_batch is None else num_items_in_batch
    return summed_loss(outputs, labels) / torch.as_tensor(count).clamp(min=1).to(
        outputs.logits.device
    )


def counted(outputs: Any, labels: Tensor) -> Tensor:
    """Return how many labels count."""
    shifted = not hasattr(outputs, "encoder_last_hidden_state")
    return (labels[:, 1:] if shifted else labels).ne(IGNORED).sum()


def on_model(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return inputs on the model's device, floating ones (log-mel features) in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
