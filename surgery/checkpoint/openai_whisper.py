"""An openai-whisper ``.pt`` file, read as if transformers had written it.

The file is ``{"dims": ..., "model_state_dict": ...}``. It is opened mapped and with
``weights_only``, so no code in it ever runs and no tensor is read before it is asked for.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint import whisper_assets
from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.header import DTYPE_NAMES, TensorInfo
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.whisper_assets import Dimensions
from surgery.checkpoint.writer import tensor_bytes
from surgery.errors import CheckpointError

SHARD = "model.safetensors"


class OpenAIWhisperSource(TensorSource):
    """Reads an openai-whisper ``.pt`` with transformers' tensor names and config.

    Every :class:`TensorInfo` counts its offset in the safetensors data that would result,
    in one shard ``model.safetensors``.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is no openai-whisper checkpoint, or its tensors contradict it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        dims, state = _load(path)
        self.dims = dims
        self._tensors = _renamed(dims, state, path)
        infos: dict[str, TensorInfo] = {}
        position = 0
        for name, tensor in self._tensors.items():
            if tensor.dtype not in DTYPE_NAMES:
                raise CheckpointError(
                    "A tensor has a dtype that safetensors does not know.",
                    where=f"{path}: {name}",
                    found=tensor.dtype,
                )
            nbytes = tensor.numel() * tensor.dtype.itemsize
            infos[name] = TensorInfo(
                name, tensor.dtype, tuple(tensor.shape), SHARD, position, nbytes
            )
            position += nbytes
        dtype = infos["model.encoder.conv1.weight"].dtype
        config = whisper_assets.model_config(dims, str(dtype).removeprefix("torch."))
        super().__init__(path.stem, None, config, infos, {"format": "pt"})

    def tensor(self, name: str) -> torch.Tensor:
        """See :meth:`TensorSource.tensor`."""
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError("There is no such tensor.", where=self.path, found=name) from None

    def raw(self, name: str) -> memoryview:
        """See :meth:`TensorSource.raw`."""
        return tensor_bytes(self.tensor(name))

    def files(self) -> list[Path]:
        """See :meth:`TensorSource.files`."""
        return [self.path]

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        stat = self.path.stat()
        header = repr([(i.name, str(i.dtype), i.shape) for i in self.infos.values()])
        return {
            "name": self.name,
            "config": self.config,
            "files": {
                self.path.name: {
                    "bytes": stat.st_size,
                    "mtime_ns": stat.st_mtime_ns,
                    "header": f"{zlib.crc32(header.encode()):08x}",
                }
            },
        }

    def sidecars(self) -> list[Path]:
        """None: they are built, see :meth:`write_sidecars`."""
        return []

    def write_sidecars(self, directory: Path) -> list[str]:
        """Build tokenizer, processor and generation files from openai-whisper's own assets."""
        with target_errors(directory):
            return whisper_assets.write(self.dims, self.name, directory)


def _load(path: Path) -> tuple[Dimensions, Mapping[str, torch.Tensor]]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise CheckpointError("The .pt file cannot be read.", where=path, found=error) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "The .pt file holds something other than tensors.",
            where=path,
            found=str(error).splitlines()[0],
            hint="only openai-whisper checkpoints are read from .pt, and no code in them is run",
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(
            "The .pt file is truncated, corrupt, or of a format before torch 1.6.",
            where=path,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error
    if not (
        isinstance(loaded, dict)
        and isinstance(loaded.get("dims"), dict)
        and isinstance(loaded.get("model_state_dict"), dict)
    ):
        raise CheckpointError(
            "The .pt file is no openai-whisper checkpoint.",
            where=path,
            found=", ".join(map(str, list(loaded)[:5]))
            if isinstance(loaded, dict)
            else type(loaded).__name__,
            expected="dims and model_state_dict",
            hint="convert other models with transformers' save_pretrained first",
        )
    dims = loaded["dims"]
    wanted = [field.name for field in fields(Dimensions)]
    if not all(type(dims.get(name)) is int and dims[name] > 0 for name in wanted):
        raise CheckpointError(
            "The dims of the .pt file are incomplete.",
            where=path,
            found=dims,
            expected=", ".join(wanted),
        )
    return Dimensions(**{name: dims[name] for name in wanted}), loaded["model_state_dict"]


def _renamed(
    dims: Dimensions, state: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    names = dict(tensor_names(dims))
    missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or unknown:
        raise CheckpointError(
            "The tensors of the .pt file are not those of its dims.",
            where=path,
            found=f"unknown: {', '.join(unknown[:4])}" if unknown else "too few tensors",
            expected=f"also {', '.join(missing[:4])}" if missing else None,
        )
    return {names[name]: tensor.detach() for name, tensor in state.items()}


def tensor_names(dims: Dimensions) -> Iterator[tuple[str, str]]:
    """Yield every tensor's name in openai-whisper and in transformers.

    transformers also has ``proj_out.weight``; it is tied to the token embedding in both, and
    stored in neither.
    """
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            yield f"encoder.{conv}.{part}", f"model.encoder.{conv}.{part}"
    yield "encoder.positional_embedding", "model.encoder.embed_positions.weight"
    yield "decoder.positional_embedding", "model.decoder.embed_positions.weight"
    yield "decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"
    for tower, layers, attentions, norm in (
        ("encoder", dims.n_audio_layer, {"attn": "self_attn"}, "ln_post"),
        ("decoder", dims.n_text_layer, {"attn": "self_attn", "cross_attn": "encoder_attn"}, "ln"),
    ):
        for part in ("weight", "bias"):
            yield f"{tower}.{norm}.{part}", f"model.{tower}.layer_norm.{part}"
        for layer in range(layers):
            old, new = f"{tower}.blocks.{layer}", f"model.{tower}.layers.{layer}"
            for here, there in _block_names(attentions):
                yield f"{old}.{here}", f"{new}.{there}"


def _block_names(attentions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    modules = {"mlp.0": "fc1", "mlp.2": "fc2", "mlp_ln": "final_layer_norm"}
    for here, there in attentions.items():
        modules[f"{here}_ln"] = f"{there}_layer_norm"
        for role, projection in (
            ("query", "q_proj"),
            ("key", "k_proj"),
            ("value", "v_proj"),
            ("out", "out_proj"),
        ):
            modules[f"{here}.{role}"] = f"{there}.{projection}"
    for here, there in modules.items():
        yield f"{here}.weight", f"{there}.weight"
        if not here.endswith(".key"):  # Whisper's keys have no bias
            yield f"{here}.bias", f"{there}.bias"
