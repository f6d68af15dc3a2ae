"""What the model's output minds of every block, found once and kept for a resumed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from surgery.calibration.output_metric import output_metrics
from surgery.calibration.witness import Scoped, inputs_of
from surgery.checkpoint.transaction import Transaction
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress

SHARE = 8
"""How many times the rows of a witness are looked at: 11,000 tokens of a SmolLM2."""


class Minded:
    """One metric a block, read when it is wanted.

    Args:
        kept: Where they are.
    """

    def __init__(self, kept: Transaction) -> None:
        self._kept = kept

    def __getitem__(self, path: str) -> Tensor:
        """Return A of a block, float64."""
        metric: Tensor = self._kept.unspill(_key(path))["metric"]
        return metric.clone()


def watch_output(
    run: InputRun,
    sites: Sequence[Scoped],
    outputs: Mapping[str, nn.Module],
    transaction: Transaction,
    progress: Progress,
    *,
    language: str,
) -> Minded:
    """Find what the output minds, by one backward pass over rows to fit to.

    Args:
        run: The model and its input.
        sites: All blocks: they decide which output counts.
        outputs: By the block's path the module whose output it adds to the stream.
        transaction: Keeps the metrics.
        progress: Called with :class:`surgery.events.Event`.
        language: What is spoken, for a multilingual Whisper's decoder.
    """
    if not all(transaction.done(_key(path)) for path in outputs):
        model, data = run.model, run.dealt.fit
        inputs = inputs_of(
            model, sites, data, run.processor, batch=1, language=language, share=SHARE
        )
        for path, metric in output_metrics(inputs, outputs, progress).items():
            transaction.spill(_key(path), {"metric": metric})
    return Minded(transaction)


def _key(path: str) -> str:
    return f"minded:{path}"
