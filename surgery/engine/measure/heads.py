"""What a checkpoint's model class can be run on, known from its name before it is loaded."""

from __future__ import annotations

from surgery.architectures.known import input_of, named_class
from surgery.checkpoint.source import TensorSource
from surgery.errors import UsageError


def hears(source: TensorSource) -> bool:
    """Whether a Whisper has an encoder."""
    one = named_class(source.config)
    return one is None or "encoder" not in one.without


def has_words(source: TensorSource) -> bool:
    """Whether a model has an output layer for words."""
    one = named_class(source.config)
    return one is None or bool(one.tied)


def writes(source: TensorSource) -> bool:
    """Whether a Whisper has both towers, and a head for words."""
    one = named_class(source.config)
    return has_words(source) and (one is None or not one.without)


def check_hears(source: TensorSource, where: str) -> None:
    """Refuse recordings for a model that cannot hear them.

    Raises:
        UsageError: It is a decoder alone.
    """
    if not hears(source):
        raise UsageError(
            "This Whisper has no encoder, so it hears nothing",
            where=where,
            found=f"{source.name}: {_name(source)}",
            hint="compare weights alone (surgery verify --weights-only), cut by weights alone "
            "(--by-weights), or take the model that the decoder is of",
        )


def unmeasured(source: TensorSource) -> str | None:
    """Say what of a model's outputs no measurement shows; ``None`` where that is nothing."""
    if input_of(source.config["model_type"]) != "audio" or writes(source):
        return None
    if not hears(source):
        return f"Outputs were not measured: {_name(source)} has no encoder, so it hears nothing."
    return f"Of outputs only the encoder's was measured: {_name(source)} writes no text."


def _name(source: TensorSource) -> str:
    one = named_class(source.config)
    return "the model" if one is None else one.name
