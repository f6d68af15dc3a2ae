"""The binary file that whisper.cpp reads, written front to back.

Little-endian throughout: a magic number, eleven hyperparameters, the mel filters, the bytes of
every token of text, and then the tensors, each behind a header of its own.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.whisper_assets import Dimensions
from surgery.checkpoint.writer import tensor_bytes

MAGIC = 0x67676D6C  # "ggml"
TYPES = {torch.float32: 0, torch.float16: 1}
"""ggml's numbers for the types of tensors."""
KINDS = {"f32": torch.float32, "f16": torch.float16}


class GgmlWriter:
    """Writes one file: everything but the tensors at once, then tensor after tensor.

    Args:
        path: The file.
        dims: Shape of the model.
        kind: Type of the large tensors, ``f16`` or ``f32``.
        filters: Mel filters, (bins, frequencies).
        tokens: Bytes of every token that stands for text, in the order of their ids.

    Raises:
        TargetError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        dims: Dimensions,
        kind: str,
        filters: NDArray[np.float32],
        tokens: list[bytes],
    ) -> None:
        self._path = path
        self._large = KINDS[kind]
        numbers = (
            dims.n_vocab,
            dims.n_audio_ctx,
            dims.n_audio_state,
            dims.n_audio_head,
            dims.n_audio_layer,
            dims.n_text_ctx,
            dims.n_text_state,
            dims.n_text_head,
            dims.n_text_layer,
            dims.n_mels,
            TYPES[self._large],
        )
        with target_errors(path):
            self._file: BinaryIO = path.open("wb")
            self._integers(MAGIC, *numbers, *filters.shape)
            self._file.write(filters.astype("<f4").tobytes())
            self._integers(len(tokens))
            for token in tokens:
                self._integers(len(token))
                self._file.write(token)

    def dtype(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """Return the type a tensor is stored in: only matrices and convolutions may be halves."""
        small = len(shape) < 2 or name.endswith("positional_embedding")
        return torch.float32 if small else self._large

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor under openai-whisper's name, already in its :meth:`dtype`.

        Raises:
            TargetError: The file cannot be written.
        """
        if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
            tensor = tensor[:, None]  # added to (channels, frames)
        encoded = name.encode()
        with target_errors(self._path):
            self._integers(tensor.dim(), len(encoded), TYPES[tensor.dtype])
            self._integers(*reversed(tensor.shape))
            self._file.write(encoded)
            self._file.write(tensor_bytes(tensor))

    def _integers(self, *numbers: int) -> None:
        self._file.write(struct.pack(f"<{len(numbers)}i", *numbers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with target_errors(self._path):
            self._file.close()


def mel_filters(bins: int) -> NDArray[np.float32]:
    """Return the weights of openai-whisper's mel filters, (bins, 201 frequencies), float32."""
    import whisper

    with np.load(Path(whisper.__file__).parent / "assets" / "mel_filters.npz") as filters:
        found: NDArray[np.float32] = filters[f"mel_{bins}"]
    return found
