"""Under which auto classes transformers lists the model classes of each family.

Copied from transformers' own tables, and compared with them by a test: importing them takes
seconds, and no surgery needs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TASKS = ("CausalLM", "SequenceClassification", "QuestionAnswering", "TokenClassification")


def _decoder(family: str, tasks: tuple[str, ...] = TASKS) -> dict[str, tuple[str, ...]]:
    return {
        f"{family}Model": ("AutoModel",),
        **{f"{family}For{task}": (f"AutoModelFor{task}",) for task in tasks},
    }


CLASSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bert": {
        "BertModel": ("AutoModel", "AutoModelForTextEncoding"),
        "BertForPreTraining": ("AutoModelForPreTraining",),
        "BertLMHeadModel": ("AutoModelForCausalLM",),
        "BertForMaskedLM": ("AutoModelForMaskedLM",),
        "BertForSequenceClassification": ("AutoModelForSequenceClassification",),
        "BertForQuestionAnswering": ("AutoModelForQuestionAnswering",),
        "BertForTokenClassification": ("AutoModelForTokenClassification",),
        "BertForMultipleChoice": ("AutoModelForMultipleChoice",),
        "BertForNextSentencePrediction": ("AutoModelForNextSentencePrediction",),
    },
    "gpt2": {
        "GPT2Model": ("AutoModel",),
        "GPT2LMHeadModel": ("AutoModelForCausalLM", "AutoModelForPreTraining"),
        "GPT2ForSequenceClassification": ("AutoModelForSequenceClassification",),
        "GPT2ForQuestionAnswering": ("AutoModelForQuestionAnswering",),
        "GPT2ForTokenClassification": ("AutoModelForTokenClassification",),
    },
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "olmo2": _decoder("Olmo2", ("CausalLM", "SequenceClassification")),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "whisper": {
        "WhisperModel": ("AutoModel",),
        "WhisperForConditionalGeneration": ("AutoModelForSpeechSeq2Seq",),
        "WhisperForAudioClassification": ("AutoModelForAudioClassification",),
        "WhisperForCausalLM": ("AutoModelForCausalLM",),
    },
}
"""By ``model_type``, then by class: the auto classes that know it. The base model is the first."""


def auto_classes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return by auto class the model class of a checkpoint: its base model's and its own.

    Args:
        config: The parsed config.json.

    Returns:
        An empty dict where the family is not known here.
    """
    known = CLASSES.get(str(config.get("model_type")), {})
    named = (name for name in config.get("architectures") or () if name in known)
    chosen = [*list(known)[:1], *named][:2]
    return {auto: name for name in dict.fromkeys(chosen) for auto in known[name]}
