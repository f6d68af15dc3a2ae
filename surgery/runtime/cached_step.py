"""One decoding step with the cache, beside the same step without it.

Restructured attention stands on the caches of transformers, whose ways change between releases.
Where the two no longer fit, a model may go on without an error and write nonsense. Two tokens
tell: the second must come out the same whether the first is read again or from the cache.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from .arguments import CACHE, SPELLINGS
from .errors import LoadError
from .releases import remedy, running

TOLERANCE = {torch.float16: 0.05, torch.bfloat16: 0.25}
"""Largest relative difference of logits, by dtype, that rounding explains in a deep model."""
EXACT = 1e-2  # of float32 and float64

FRAMES = 4  # of an encoder's output that a decoder is shown

_compared: set[tuple[type, str]] = set()


def compare_once(model: PreTrainedModel) -> None:
    """Compare the first model of a class and attention implementation in this process.

    Raises:
        LoadError: See :func:`compare_cached_step`.
    """
    if _kind(model) not in _compared and model.can_generate():
        compare_cached_step(model)


def _kind(model: PreTrainedModel) -> tuple[type, str]:
    return type(model), str(getattr(model.config, "_attn_implementation", None))


@torch.no_grad()
def compare_cached_step(model: PreTrainedModel) -> None:
    """Require that one step of generation is the same with the cache and without it.

    Args:
        model: A model that generates, with its weights, on its device. It is left as it was.

    Raises:
        LoadError: It is not, or no step can be taken; the message says what to do.
    """
    untrained = [module for module in model.modules() if module.training]
    for module in untrained:  # dropout would tell the two apart
        module.training = False
    try:
        difference, length = _differ(model)
    except (LoadError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise LoadError(
            f"{type(model).__name__} cannot take a step with its cache.",
            where=running(),
            found=f"{type(error).__name__}: {error}",
            hint=remedy(),
        ) from error
    finally:
        for module in untrained:
            module.training = True
    if difference <= TOLERANCE.get(model.dtype, EXACT) and length == 2:
        _compared.add(_kind(model))
        return
    raise LoadError(
        f"{type(model).__name__} computes another next token with its cache than without it.",
        where=running(),
        found=f"logits differ by {difference:.2g} of their size after two tokens; the cache "
        f"holds {length}",
        expected="the same logits, and two tokens in the cache",
        hint=remedy(),
    )


def _differ(model: PreTrainedModel) -> tuple[float, int]:
    """Return the relative difference of the second token's logits, and the cache's length."""
    run: Any = model
    config: Any = model.config.get_text_config(decoder=True)
    places = (parameter.device for parameter in model.parameters())
    device = next((place for place in places if place.type != "meta"), None)
    if device is None:
        return 0.0, 2  # there are no weights to compute with
    tokens = torch.tensor([[config.vocab_size // 3, config.vocab_size // 2]], device=device)
    more: dict[str, Any] = {}
    name, cache = "input_ids", cast(Cache, DynamicCache(config=config))
    if model.config.is_encoder_decoder:
        shape = 1, FRAMES, config.hidden_size
        states = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        more["encoder_outputs"] = (states.to(device, model.dtype),)
        name = "decoder_input_ids"
        cache = EncoderDecoderCache(cache, DynamicCache(config=config))
    cached = {cache_name(model): cache, "use_cache": True, **more}
    run(**{name: tokens[:, :1]}, **cached)
    step: Tensor = run(**{name: tokens[:, 1:]}, **cached).logits[0, -1].double()
    whole: Tensor = run(**{name: tokens}, use_cache=False, **more).logits[0, -1].double()
    if not bool(whole.isfinite().all()) or not (bool(step.isfinite().all()) or _is_finite(model)):
        return 0.0, 2  # nothing can be compared: whoever uses these numbers will see them
    size = (whole - whole.mean()).norm().clamp_min(torch.finfo(whole.dtype).tiny)
    return float((step - whole).norm() / size), int(cache.get_seq_length())


def _is_finite(model: PreTrainedModel) -> bool:
    """Whether all weights are: attention may hide those that are not in one of two ways to run."""
    here = (each for each in model.parameters() if each.device.type != "meta")
    return all(bool(parameter.isfinite().all()) for parameter in here)


def cache_name(model: PreTrainedModel) -> str:
    """Return what this release's models call their cache."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in (CACHE, *SPELLINGS) if name in parameters), CACHE)
