"""Stream a result shard by shard: some tensors computed block by block, the rest copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.validate import all_usable, check_finite
from surgery.checkpoint.writer import TensorSpec, write_index
from surgery.errors import CheckpointError
from surgery.events import Event, Progress
from surgery.stored.parallel import map_ahead

INDEX = "model.safetensors.index.json"


class Computed(NamedTuple):
    """A block's tensors by name, and a JSON value to note with it."""

    tensors: Mapping[str, Tensor]
    payload: Any = None


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Round once to the output dtype.

    Raises:
        CheckpointError: A value does not fit.
    """
    result = tensor.to(dtype)
    if dtype == torch.float16 and not all_usable(result.reshape(-1)):
        raise CheckpointError(
            f"Tensor {name} does not fit float16",
            found=f"a largest magnitude of {float(tensor.abs().max()):.4g}",
            expected="at most 65504",
            hint="write with --dtype bfloat16 or --dtype float32",
        )
    return result


def stream(
    source: TensorSource,
    transaction: Transaction,
    specs: Mapping[str, Sequence[TensorSpec]],
    blocks: Mapping[str, str],
    compute: Callable[[str], Computed],
    progress: Progress,
) -> None:
    """Write every shard into the transaction, tensor by tensor in storage order.

    Args:
        source: Where the tensors come from.
        transaction: Where they go; what an interrupted run has written is kept.
        specs: Name, dtype and shape of every tensor of the result, by shard.
        blocks: Which block each computed tensor belongs to; all others are copied (cast where
            the dtype differs).
        compute: Returns every tensor of a block, in its output dtype. Called once a block
            and shard, a few blocks ahead of the writing, from several threads.
        progress: Called for every tensor.

    Raises:
        CheckpointError: A tensor holds NaN or Inf, or does not fit its output dtype.
        TargetError: The result cannot be written.
    """
    transaction.reserve(sum(spec.nbytes for shard in specs.values() for spec in shard))
    total = sum(len(shard) for shard in specs.values())
    done = 0
    for shard, shard_specs in specs.items():
        dtypes = {spec.name: spec.dtype for spec in shard_specs}
        waiting: dict[str, Tensor] = {}
        with transaction.shard(shard, shard_specs, metadata=source.metadata) as writer:
            remaining = writer.remaining
            done += len(shard_specs) - len(remaining)
            due = list(dict.fromkeys(blocks[name] for name in remaining if name in blocks))
            computed = zip(due, map_ahead(compute, due), strict=True)
            for name in remaining:
                progress(Event("Writing", done, total, name))
                if name in blocks:
                    while name not in waiting:
                        block, (tensors, payload) = next(computed)
                        transaction.record(f"block:{block}", payload)
                        waiting |= tensors
                    writer.write(name, waiting.pop(name))
                else:
                    tensor = source.tensor(name)
                    check_finite(name, tensor)
                    same = tensor.dtype == dtypes[name]
                    writer.write(
                        name, source.raw(name) if same else cast(name, tensor, dtypes[name])
                    )
                    source.release(name)
                done += 1
    if len(specs) > 1 or any(path.name == INDEX for path in source.files()):
        write_index(transaction.staging / INDEX, specs)
    progress(Event("Writing", total, total))
